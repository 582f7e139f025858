"""What the frames of a series say of their detector: counts of a photon, read noise, bad pixels."""

from braggflow.frames.detector.bad_pixels import find_bad_pixels, without_bad_pixels
from braggflow.frames.detector.constants import DetectorConstants, contradictions, settled_constants

__all__ = ["DetectorConstants", "contradictions", "find_bad_pixels", "settled_constants", "without_bad_pixels"]
