"""The kernels that draw added peaks, compiled once after an installation, as those of the search are."""

import numpy as np

from braggflow import compiled
from braggflow.simulate import CLASSES, expected_patches, sample_profiles

#: What that takes, seconds.
_ABOUT = 10.0
_SIZE = 11


def compile_check() -> None:
    """Compile what the self-check needs, unless it is kept from before; says so meanwhile."""
    compiled.compile_once(("simulate",), _draw, about=_ABOUT)


def _draw() -> bool:
    expected_patches(sample_profiles(1, rng=np.random.default_rng(0), config=CLASSES["pseudo_voigt"]), _SIZE)
    return True
