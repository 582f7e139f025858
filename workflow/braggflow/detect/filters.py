"""Which maxima are kept: the filters of the configuration, each removal counted by its key."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import DetectConfig
from braggflow.detect.persistence import MAXIMUM_DTYPE


@dataclass(frozen=True, slots=True)
class Detection:
    """The peaks of one frame and what the filters took away."""

    table: peak_table.Table
    """Rows of `PEAK_DTYPE` with `y_pixel`, `x_pixel` (pixels of the searched frame), `birth`, `death`, `score`,
    `significance` and `area` set, sorted by (y_pixel, x_pixel)."""
    removed: dict[str, int] = field(default_factory=dict)
    """Number of peaks dropped, by the key of the filter that dropped them."""


def filter_peaks(
    maxima: NDArray[np.void],
    shape: tuple[int, ...],
    minscore: float,
    config: DetectConfig,
    removed: dict[str, int] | None = None,
    *,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> Detection:
    """Drop what the configuration's filters name, counting by reason; `shape` (y, x) is the searched frame's.

    `removed` holds what was dropped before. A pixel has `bin` × `bin` of the detector's, in which areas are asked for.
    """
    removed = dict(removed or {})

    def keep(table: NDArray[np.void], key: str, kept: NDArray[np.bool_]) -> NDArray[np.void]:
        removed[key] = int(len(table) - np.count_nonzero(kept))
        return table[kept]

    table = keep(maxima, "minscore", maxima["score"] > minscore)
    if config.min_area > 1:
        table = keep(table, "min_area", table["area"] * bin**2 >= config.min_area)
    if config.max_area is not None:
        table = keep(table, "max_area", table["area"] * bin**2 <= config.max_area)
    if config.min_edge_distance > 0:
        y, x = table["y_pixel"], table["x_pixel"]
        distance = np.minimum.reduce([y, x, shape[0] - 1 - y, shape[1] - 1 - x])
        table = keep(table, "min_edge_distance", distance >= config.min_edge_distance)
    if config.min_neighbour_distance > 0:
        table = keep(table, "min_neighbour_distance", ~_near_higher(table, config.min_neighbour_distance))
    table = table[np.lexsort((table["x_pixel"], table["y_pixel"]))]
    found = peak_table.empty(len(table))
    for name in set(MAXIMUM_DTYPE.fields or ()) & set(peak_table.VARIABLES):
        found[name] = table[name]
    return Detection(found, removed)


def _near_higher(table: NDArray[np.void], distance: float) -> NDArray[np.bool_]:
    """Which maxima lie closer than `distance` (pixels) to a higher one (ties: to one later in the frame)."""
    near = np.zeros(len(table), bool)
    if len(table) < 2:
        return near
    positions = np.column_stack([table["y_pixel"], table["x_pixel"]]).astype(np.float64)
    rank = np.empty(len(table), np.int64)
    rank[np.lexsort((table["x_pixel"], table["y_pixel"], table["birth"]))] = np.arange(len(table))
    from scipy.spatial import KDTree  # takes 0.1 s to import, and few runs ask for it

    pairs = KDTree(positions).query_pairs(distance, output_type="ndarray")
    close = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1) < distance
    pairs = pairs[close]
    near[np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
    return near
