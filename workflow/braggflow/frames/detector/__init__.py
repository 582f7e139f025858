"""What the frames of a series say of their detector: counts of a photon, read noise, bad pixels."""

from braggflow.frames.detector.constants import DetectorConstants, settled_constants

__all__ = ["DetectorConstants", "settled_constants"]
