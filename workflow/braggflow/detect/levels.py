"""`minval` and `minscore` in counts, from the frame's own noise where they are given as multiples of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.config import DetectConfig, Level
from braggflow.errors import InputError

#: Pixels sampled for the frame's noise, for a precision of about half a per cent.
_NOISE_SAMPLE = 16_384


def levels_in_counts(image: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig) -> tuple[float, float]:
    """`minval` and `minscore` in counts; a `minval` in noise multiples is counted from the frame's median."""
    return levels_of_sample(_sample(image, mask), config)


def levels_of_sample(sample: NDArray[np.float64], config: DetectConfig) -> tuple[float, float]:
    """As `levels_in_counts`, from a sample of the searched frame's pixels."""
    if isinstance(config.minval, float) and isinstance(config.minscore, float):
        return config.minval, config.minscore
    median, sigma = _noise(sample)
    minval = _in_counts(config.minval, sigma, offset=median)
    # A pixel at 0 belongs to no peak, also where the background was over-subtracted.
    return max(minval, float(np.finfo(np.float32).tiny)), _in_counts(config.minscore, sigma)


def _in_counts(level: Level, sigma: float, *, offset: float = 0.0) -> float:
    return level if isinstance(level, float) else offset + level.sigma * sigma


def _sample(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    step = sample_step(image.shape)
    return image.ravel()[::step][~mask.ravel()[::step]].astype(np.float64)


def sample_step(shape: tuple[int, ...]) -> int:
    """Every how many pixels of a frame one is sampled."""
    step = max(1, shape[0] * shape[1] // _NOISE_SAMPLE)
    # A step that shares a factor with the row length would sample a few columns only.
    while step > 1 and np.gcd(step, shape[1]) > 1:
        step += 1
    return step


def _noise(sample: NDArray[np.float64]) -> tuple[float, float]:
    """Median and noise (4-sigma-clipped standard deviation) of a sample of pixels, in counts.

    Raises `InputError` where the noise is 0: the detector cut it off, and only levels in counts make sense.
    """
    if sample.size == 0:
        raise InputError("every pixel of the frame is masked or NaN")
    from scipy.stats import sigmaclip  # takes 0.4 s to import, and most runs have their levels in counts

    clipped = sigmaclip(sample, 4, 4).clipped
    sigma = float(clipped.std())
    if sigma == 0:
        raise InputError(
            "the frame has no noise (thresholded by its detector?), so levels of {sigma: ...} mean nothing; "
            "give detect.minval and detect.minscore in counts"
        )
    return float(np.median(clipped)), sigma
