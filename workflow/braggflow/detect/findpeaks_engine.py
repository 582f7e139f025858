"""The reference engine: the same peaks by `findpeaks.stats.topology`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.detect.persistence import MAXIMUM_DTYPE, threshold_in


def persistence_findpeaks(image: NDArray[Any], mask: NDArray[np.bool_], minval: float) -> NDArray[np.void]:
    """The same peaks by `findpeaks.stats.topology`, the reference: thousands of times slower, `area` not known (0)."""
    with _root_logger_kept():
        import findpeaks.stats

    # It logs and draws a progress bar for every frame unless told not to.
    findpeaks.stats.logger.setLevel(logging.WARNING)
    threshold = threshold_in(image.dtype, minval)
    if threshold is None:
        return np.empty(0, MAXIMUM_DTYPE)
    # float64, because the library breaks ties by adding multiples of the dtype's epsilon.
    floored = np.where(mask | ~(image >= threshold), 0, image).astype(np.float64)
    if not floored.any():
        return np.empty(0, MAXIMUM_DTYPE)
    groups = findpeaks.stats.topology(floored, limit=0)["groups0"]
    table = np.zeros(len(groups), MAXIMUM_DTYPE)
    for row, (maximum, _birth, _score, saddle) in zip(table, groups, strict=True):
        row["y_pixel"], row["x_pixel"] = maximum
        # Levels are read from the frame: the library's carry its tie-breaking noise.
        row["birth"] = floored[tuple(maximum)]
        row["death"] = 0 if saddle is None else floored[tuple(saddle)]
        # Islands merge in the pixels that were set to 0, if at all.
        row["saddle"] = -1 if row["death"] == 0 else saddle[0] * image.shape[1] + saddle[1]
    table["score"] = table["birth"] - table["death"]
    table["significance"] = np.nan
    return table[table["score"] > 0]


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """The root logger as it is: findpeaks would have all libraries of the process tell of what they do."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
