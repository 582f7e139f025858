"""`minval` and `minscore` in counts, from the frame's own noise where they are given as multiples of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.compiled import inner, kernel
from braggflow.config import DetectConfig, NoiseMultiple
from braggflow.errors import InputError

#: Pixels sampled for the frame's noise, for a precision of about half a per cent.
_NOISE_SAMPLE = 16_384
#: Mean counts a pixel up to which levels come from counting statistics; above, sigma describes the noise.
_FEW_COUNTS = 3.0
#: Counts that never are below this, where there are enough of them, were cut off: the flanks of peaks hold some.
LOW_COUNT, ENOUGH = 4, 8
#: What is further from the others than this many times the noise is no noise.
_CLIP = 4.0
#: So is that at first, when the deviation is too large by what the others add; times that it is left out.
_FIRST_CLIP, _CLIPPINGS = 3.0, 50
#: Bins in which numbers are counted for their median.
_BINS = 1024


def levels_in_counts(image: NDArray[Any], mask: NDArray[np.bool_], config: DetectConfig) -> tuple[float, float]:
    """`minval` and `minscore` in counts; a `minval` in noise multiples is counted from the frame's median.

    Of frames with few counts a pixel, a multiple stands for its chance, and the level is the count of that chance.
    """
    if not config.in_sigma:
        return levels_of_sample(np.empty(0), config)
    return levels_of_sample(_sample(image, mask), config)


def levels_of_sample(sample: NDArray[np.float64], config: DetectConfig) -> tuple[float, float]:
    """As `levels_in_counts`, from a sample of the searched frame's pixels."""
    minval_given, minscore_given = config.levels()
    if isinstance(minval_given, float) and isinstance(minscore_given, float):
        return minval_given, minscore_given
    if sample.size == 0:
        raise InputError("every pixel of the frame is masked or NaN")
    mean = _few_counts(sample)
    if mean is not None:
        minval = _in_counts(minval_given, partial(_rare_count, mean))
        return minval, _in_counts(minscore_given, lambda multiple: _rare_count(mean, multiple) - 1 - mean)
    median, sigma = _noise(sample)
    minval = _in_counts(minval_given, lambda multiple: median + multiple * sigma)
    # A pixel at 0 belongs to no peak, also where the background was over-subtracted.
    minscore = _in_counts(minscore_given, lambda multiple: multiple * sigma)
    return max(minval, float(np.finfo(np.float32).tiny)), minscore


def levels_above(
    counts: NDArray[Any], mask: NDArray[np.bool_], sample: NDArray[np.float64], config: DetectConfig
) -> tuple[float, float]:
    """As `levels_in_counts`, of a frame less its local level, of which a `sample` is given.

    What is left of few counts is no whole number: the chances are those of the counts themselves, above their mean.
    """
    raw = _sample(counts, mask)
    mean = _few_counts(raw) if config.in_sigma and raw.size else None
    if mean is None:
        return levels_of_sample(sample, config)
    minval, minscore = levels_of_sample(raw, config)
    return max(minval - mean, float(np.finfo(np.float32).tiny)) if isinstance(
        config.levels()[0], NoiseMultiple
    ) else minval, minscore


def _in_counts(level: float | NoiseMultiple, of_multiple: Callable[[float], float]) -> float:
    return level if isinstance(level, float) else of_multiple(level.sigma)


def _few_counts(sample: NDArray[np.float64]) -> float | None:
    """The mean of pixels that hold a few counts each, as fast detectors give them; None where they hold others.

    Their median is 0 or close to it, and clipping at multiples of a deviation would leave no count at all: what is
    left out as a peak's is what counts of the mean of the rest do not reach by chance.
    """
    if (sample < 0).any() or (sample != np.rint(sample)).any():
        return None
    left = sample
    while True:
        # One more than was seen: a sample without a count is none without noise.
        mean = (float(left.sum()) + 1) / left.size
        kept = left[left < _rare_count(mean, _CLIP)]
        if kept.size == left.size or kept.size == 0:
            thresholded = not left.any() and _cut_off(sample[sample > 0])
            return mean if mean <= _FEW_COUNTS and kept.size and not thresholded else None
        left = kept


def _cut_off(above: NDArray[np.float64]) -> bool:
    """Whether the counts above a floor of 0 lack the lowest, as where a detector sets all below a level to 0."""
    return above.size >= ENOUGH and above.min() > LOW_COUNT


def _rare_count(mean: float, multiple: float) -> float:
    """The lowest count that a pixel reaches by a chance no larger than that of noise to be `multiple` sigma up.

    Counts of a mean follow Poisson's distribution, whose tail is longer than that of sigma = sqrt(mean) by far where
    the mean is small: of 262,144 pixels with 0.1 counts, 1,200 are beyond 6 sigma = 1.9.
    """
    chance = special.ndtr(-multiple)
    count = 1
    while special.gammainc(count, mean) > chance:  # the chance of `count` or more
        count += 1
    return float(count)


def _sample(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    step = sample_step(image.shape)
    return image.ravel()[::step][~mask.ravel()[::step]].astype(np.float64)


def sample_step(shape: tuple[int, ...], sample: int = _NOISE_SAMPLE) -> int:
    """Every how many pixels of a frame one is sampled, for a `sample` of about so many."""
    step = max(1, shape[0] * shape[1] // sample)
    # A step that shares a factor with the row length would sample a few columns only.
    while step > 1 and np.gcd(step, shape[1]) > 1:
        step += 1
    return step


def _noise(sample: NDArray[np.float64]) -> tuple[float, float]:
    """Median and noise (4-sigma-clipped standard deviation) of a sample of pixels, in counts.

    Raises `InputError` where the noise is 0: the detector cut it off, and only levels in counts make sense.
    """
    median, sigma = _clipped(sample)
    if sigma == 0:
        above = sample[sample > median]
        least = f"{above.min():.4g}" if above.size else ""
        counts = f"; its lowest count above {median:g} is {least}" if least else ""
        example = f", such as minval: {least}, minscore: {least}" if least else ""
        raise InputError(
            f"the frame has no noise (thresholded by its detector?{counts}), so levels of {{sigma: ...}} mean nothing; "
            "leave detect.minval and detect.minscore out, as configs/rotation.yaml does (detect.false_peaks needs "
            f"none), or give them in counts{example}"
        )
    return median, sigma


@kernel(nogil=True)
def _clipped(sample: Any) -> tuple[float, float]:
    """Median and standard deviation of numbers, without those that are beyond `_CLIP` of these, until none is.

    Begun at the median and 1.4826 times the median absolute deviation, which peaks on a third of a frame do not move
    far; at mean and standard deviation where half of the numbers are one.
    """
    kept, n, centre = sample.copy(), 0, median_of(sample)
    sigma = 1.4826 * median_of(np.abs(sample - centre))
    times = _FIRST_CLIP
    if sigma == 0:
        times = _CLIP
        centre, sigma = _moments(sample)
    for _ in range(_CLIPPINGS):
        low, high, before, n, times = centre - times * sigma, centre + times * sigma, n, 0, _CLIP
        for i in range(len(sample)):
            kept[n] = sample[i]
            n += low <= sample[i] <= high
        centre, sigma = _moments(kept[:n])
        if n == before:
            break
    return median_of(kept[:n]), sigma


@inner(nogil=True)
def median_of(values: Any) -> float:
    """The median of numbers (float64); NaN of none, and where one is NaN.

    They are counted in narrow bins around their mean, and only those in the bins that hold the middle are sorted.
    """
    n = len(values)
    mean, sigma = _moments(values)
    if n == 0 or np.isnan(mean):
        return np.nan
    bins, own = np.zeros(_BINS, np.int64), np.empty(n, np.int16)
    low, scale = mean - 4 * sigma, 0.0
    if 0 < sigma < np.inf:
        scale = _BINS / (8 * sigma)
    for i in range(n):
        own[i] = int(min(max((values[i] - low) * scale, 0.0), _BINS - 1.0)) if scale > 0 else 0
    for i in range(n):
        bins[own[i]] += 1
    before, first, last, below = 0, -1, 0, 0
    for b in range(_BINS):
        if first < 0 and before + bins[b] > (n - 1) // 2:
            first, below = b, before
        before += bins[b]
        if before > n // 2:
            last = b
            break
    middle, m = np.empty(before - below), 0
    for i in range(n):
        if first <= own[i] <= last:
            middle[m] = values[i]
            m += 1
    middle = np.sort(middle)
    return float(middle[(n - 1) // 2 - below] + middle[n // 2 - below]) / 2


@inner(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _moments(values: Any) -> tuple[float, float]:
    """Mean and standard deviation."""
    total, squares, n = 0.0, 0.0, max(len(values), 1)
    for i in range(len(values)):
        total += values[i]
    mean = total / n
    for i in range(len(values)):
        squares += (values[i] - mean) * (values[i] - mean)
    return mean, np.sqrt(squares / n)


@kernel(nogil=True)
def mean_counts(frames: Any, mask: Any, step: int) -> Any:
    """Mean of the unmasked pixels (y, x) of each frame (n, y, x) in every `step`-th row and column; NaN of none."""
    n_frames, height, width = frames.shape
    means, n = np.empty(n_frames), 0
    for y in range(0, height, step):
        for x in range(0, width, step):
            n += not mask[y, x]
    across = (width + step - 1) // step
    is_whole = n == (height + step - 1) // step * across
    for f in range(n_frames):
        total = 0 * frames[f, 0, 0]
        for y in range(0, height, step):
            row, ignored = frames[f, y], mask[y]
            if is_whole:
                for k in range(np.uint64(across)):  # without a sign: no index is below 0
                    total += row[k * np.uint64(step)]
            else:
                for k in range(np.uint64(across)):
                    total += 0 if ignored[k * np.uint64(step)] else row[k * np.uint64(step)]
        means[f] = total / n if n else np.nan
    return means
