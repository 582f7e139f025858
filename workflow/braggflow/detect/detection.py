"""Peaks of one frame: background, levels, persistence, filters, in that order.

Pixels below `minval` are set to 0; the water level then falls from the highest pixel to 0 over the 8-connected frame.
A peak is born at each maximum and dies where its island meets a higher one (elder rule; an island that meets none dies
at 0). Its score is birth - death (Edelsbrunner & Harer, Computational Topology, 2010; the reference implementation is
`findpeaks.stats.topology`). Pixels of equal value are ordered by their flat index, the later one higher.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.config import DetectConfig
from braggflow.detect.background import above_grid, level_grid, sample_above
from braggflow.detect.filters import Detection, filter_peaks
from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.levels import levels_in_counts, levels_of_sample, sample_step
from braggflow.detect.persistence import foreground_above, maxima_of, persistence
from braggflow.frames import CorrectedFrame


def detect(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
) -> Detection:
    """Find the peaks of one frame: maxima by threshold and topological persistence.

    Parameters
    ----------
    counts : numpy.ndarray
        The frame, shape (y, x), of any real dtype, in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    config : DetectConfig
        Levels, background and filters.
    background_frame : numpy.ndarray of float32, optional
        Shape (y, x), counts: the frame that `config.background` names, needed where it names one.

    Returns
    -------
    Detection
        `table`, one row a peak with `y_pixel`, `x_pixel`, `birth`, `death`, `score` (counts) and `area` (pixels),
        sorted by (y_pixel, x_pixel); and `removed`, how many peaks each filter dropped.

    Raises
    ------
    InputError
        Where a level in multiples of the noise meets a frame without noise.

    References
    ----------
    H. Edelsbrunner and J. Harer, Computational Topology, American Mathematical Society (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import DetectConfig
    >>> from braggflow.detect import detect
    >>> y, x = np.mgrid[:48, :48]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> found = detect(frame, np.zeros(frame.shape, bool), DetectConfig(minval=40, minscore=20))
    >>> found.table[["y_pixel", "x_pixel"]].tolist()
    [(20, 32)]
    >>> found.removed
    {'minscore': 0}
    """
    if config.engine == "native" and config.background == "local":
        # As below, without a frame-sized image of what is above the background.
        grid = level_grid(counts, mask, config.background_cell)
        sample = sample_above(counts, mask, grid, config.background_cell, sample_step(counts.shape))
        minval, minscore = levels_of_sample(sample, config)
        pixels, values = foreground_above(counts, mask, grid, config.background_cell, np.float32(minval))
        return filter_peaks(maxima_of(pixels, values, counts.shape[1]), counts.shape, minscore, config)
    image = subtract_background(counts, mask, config, background_frame=background_frame)
    minval, minscore = levels_in_counts(image, mask, config)
    find = persistence if config.engine == "native" else persistence_findpeaks
    return filter_peaks(find(image, mask, minval), image.shape, minscore, config)


def searched_image(
    frame: CorrectedFrame, config: DetectConfig, *, background_frame: NDArray[np.float32] | None = None
) -> tuple[NDArray[Any], float, float]:
    """The image (y, x) that `detect` searches, and `minval` and `minscore` in counts; raises as `detect` does."""
    image = subtract_background(frame.counts, frame.mask, config, background_frame=background_frame)
    return image, *levels_in_counts(image, frame.mask, config)


def subtract_background(
    counts: NDArray[Any],
    mask: NDArray[np.bool_],
    config: DetectConfig,
    *,
    background_frame: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """The frame that is searched: `counts` itself, or float32 counts above `config.background`."""
    if config.background == "none":
        return counts
    if config.background == "local":
        return np.asarray(above_grid(counts, level_grid(counts, mask, config.background_cell), config.background_cell))
    if background_frame is None:
        raise ValueError(f"detect.background: {config.background} was not given to detect()")
    return np.asarray(np.subtract(counts, background_frame, dtype=np.float32))
