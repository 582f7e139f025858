"""What is no spot: maxima that share a uniform disk, those on an arc or a streak, and powder rings."""

from braggflow.detect.shapes.disks import on_disks
from braggflow.detect.shapes.powder import RadialLevel, radial_level
from braggflow.detect.shapes.rings import arcs, on_ridges

__all__ = ["RadialLevel", "arcs", "on_disks", "on_ridges", "radial_level"]
