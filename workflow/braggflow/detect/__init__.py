"""Peaks of one frame by threshold and persistence, and the patches around them."""

from braggflow.detect.cut import cut_patches, measure_patches
from braggflow.detect.detection import detect, searched_image
from braggflow.detect.disks import on_disks
from braggflow.detect.filters import Detection
from braggflow.detect.pixels import SEARCHED
from braggflow.detect.rings import arcs

__all__ = ["SEARCHED", "Detection", "arcs", "cut_patches", "detect", "measure_patches", "on_disks", "searched_image"]
