"""Peaks of known place: profiles, patches, whole series with their truth, and the information limit."""

from braggflow.simulate.detections import DETECTION_DTYPE, MovingPeaks, simulate_moving_peaks
from braggflow.simulate.disks import DISK_DTYPE, expected_disks, limit_of_disks
from braggflow.simulate.information_limit import limit_of_patches
from braggflow.simulate.profiles import FWHM_PER_SIGMA, PROFILE_DTYPE, expected_patches
from braggflow.simulate.series import TRUTH_CLASSES, TRUTH_FORMAT, TRUTH_VERSION, simulate_series
from braggflow.simulate.simulated_patches import (
    CLASSES,
    MAX_SIGMA_MAJOR,
    OUTLIERS,
    PatchSimulation,
    SimulatedPatches,
    outlier_class,
    sample_profiles,
    simulate_patches,
)

__all__ = [
    "CLASSES",
    "DETECTION_DTYPE",
    "DISK_DTYPE",
    "FWHM_PER_SIGMA",
    "MAX_SIGMA_MAJOR",
    "OUTLIERS",
    "PROFILE_DTYPE",
    "TRUTH_CLASSES",
    "TRUTH_FORMAT",
    "TRUTH_VERSION",
    "MovingPeaks",
    "PatchSimulation",
    "SimulatedPatches",
    "expected_disks",
    "expected_patches",
    "limit_of_disks",
    "limit_of_patches",
    "outlier_class",
    "sample_profiles",
    "simulate_moving_peaks",
    "simulate_patches",
    "simulate_series",
]
