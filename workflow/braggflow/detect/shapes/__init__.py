"""What is no spot: maxima on a disk, a flat top, an arc or a streak, and powder rings."""

from braggflow.detect.shapes.disks import on_disks
from braggflow.detect.shapes.plateaus import on_plateaus, plateau_middles
from braggflow.detect.shapes.powder import RadialLevel, radial_level
from braggflow.detect.shapes.rings import arcs, on_ridges

__all__ = ["RadialLevel", "arcs", "on_disks", "on_plateaus", "on_ridges", "plateau_middles", "radial_level"]
