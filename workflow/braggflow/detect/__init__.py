"""Peaks of one frame by threshold and persistence, and the patches around them."""

from braggflow.detect.background import LevelGrid
from braggflow.detect.cut import cut_patches, cut_stack, measure_patches
from braggflow.detect.detection import SearchedAgain, detect, detect_each, detect_stack
from braggflow.detect.filters import Detection
from braggflow.detect.judged import JudgedMaxima, judge_maxima
from braggflow.detect.levels import mean_counts
from braggflow.detect.pixels import SEARCHED, as_searched
from braggflow.detect.searching import searched_image
from braggflow.detect.shapes import arcs, on_disks, on_plateaus, plateau_middles

__all__ = [
    "SEARCHED",
    "Detection",
    "JudgedMaxima",
    "LevelGrid",
    "SearchedAgain",
    "arcs",
    "as_searched",
    "cut_patches",
    "cut_stack",
    "detect",
    "detect_each",
    "detect_stack",
    "judge_maxima",
    "mean_counts",
    "measure_patches",
    "on_disks",
    "on_plateaus",
    "plateau_middles",
    "searched_image",
]
