"""Peaks of one frame by threshold and persistence, and the patches around them."""

from braggflow.detect.cut import cut_patches, measure_patches
from braggflow.detect.detection import detect, subtract_background
from braggflow.detect.filters import Detection
from braggflow.detect.levels import levels_in_counts

__all__ = ["Detection", "cut_patches", "detect", "levels_in_counts", "measure_patches", "subtract_background"]
