"""Which maxima are kept: the filters of the configuration, each removal counted by its key."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.angles import Geometry
from braggflow.config import DetectConfig, Range
from braggflow.detect.background import LevelGrid
from braggflow.detect.persistence import MAXIMUM_DTYPE


@dataclass(frozen=True, slots=True)
class Detection:
    """The peaks of one frame, or of a stack of frames, and what the filters took away."""

    table: peak_table.Table
    """Rows of `PEAK_DTYPE` with `y_pixel`, `x_pixel` (pixels of the searched frame), `birth`, `death`, `score`,
    `significance` and `area` set, sorted by (y_pixel, x_pixel). Of a stack, `peak_frame` is the position of the frame
    in it, and they are sorted by that first."""
    removed: dict[str, int] = field(default_factory=dict)
    """Number of peaks dropped, by the key of the filter that dropped them."""
    level: NDArray[np.float32] | LevelGrid | None = None
    """The level whose course patches are rid of, counts: of a radial background (n, y, x), of a local one its grid."""


def filter_peaks(
    maxima: NDArray[np.void],
    shape: tuple[int, ...],
    minscore: float | NDArray[np.float64],
    config: DetectConfig,
    removed: dict[str, int] | None = None,
    *,
    geometry: Geometry | None = None,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> Detection:
    """Drop what the configuration's filters name, counting by reason; `shape` (y, x) is the searched frame's.

    `minscore` is one level, or that of each maximum. `removed` holds what was dropped before. `geometry` is needed
    where angles are filtered. A pixel has `bin` × `bin` of the detector's, in which areas are asked for.
    """
    kept, dropped = filtered(maxima, shape, minscore, config, geometry=geometry, bin=bin)
    removed = {**(removed or {}), **{key: len(rows) for key, rows in dropped.items()}}
    table = maxima[kept]
    table = table[np.lexsort((table["x_pixel"], table["y_pixel"], table["frame"]))]
    found = peak_table.empty(len(table))
    found["peak_frame"] = table["frame"]
    for name in set(MAXIMUM_DTYPE.fields or ()) & set(peak_table.VARIABLES):
        found[name] = table[name]
    return Detection(found, removed)


def filtered(
    maxima: NDArray[np.void],
    shape: tuple[int, ...],
    minscore: float | NDArray[np.float64],
    config: DetectConfig,
    *,
    geometry: Geometry | None = None,
    bin: int = 1,  # noqa: A002 - the configuration's word
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """The rows that the filters keep, and those that each of them drops, by its key; arguments as of `filter_peaks`."""
    left, dropped = np.arange(len(maxima)), dict[str, NDArray[np.int64]]()

    def keep(table: NDArray[np.void], key: str, kept: NDArray[np.bool_]) -> NDArray[np.void]:
        nonlocal left
        dropped[key] = np.concatenate([dropped.get(key, left[:0]), left[~kept]])
        left = left[kept]
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
    if geometry is not None:
        for key, limits, inside in _by_angles(config):
            table = keep(table, key, geometry.within(table["y_pixel"], table["x_pixel"], **limits) == inside)
    if config.min_neighbour_distance > 0:
        table = keep(table, "min_neighbour_distance", ~_near_higher(table, config.min_neighbour_distance))
    return left, dropped


def _by_angles(config: DetectConfig) -> Iterator[tuple[str, dict[str, Range], bool]]:
    """The filters of scattering angles that are asked for: key, range, and whether what lies within is kept."""
    for name, limits, excluded in (
        ("q", config.q_range, config.exclude_q),
        ("two_theta", config.two_theta_range, config.exclude_two_theta),
        ("azimuth", config.azimuth_range, ()),
    ):
        if limits is not None:
            yield f"{name}_range", {name: limits}, True
        for part in excluded:
            yield f"exclude_{name}", {name: part}, False


def _near_higher(table: NDArray[np.void], distance: float) -> NDArray[np.bool_]:
    """Which maxima lie closer than `distance` (pixels) to a higher one (ties: to one later in the frame)."""
    near = np.zeros(len(table), bool)
    if len(table) < 2:
        return near
    # Frames are further apart than any distance within one.
    apart = distance + np.max([table["y_pixel"], table["x_pixel"]]) + 1
    positions = np.column_stack([table["y_pixel"], table["x_pixel"], table["frame"] * apart]).astype(np.float64)
    rank = np.empty(len(table), np.int64)
    rank[np.lexsort((table["x_pixel"], table["y_pixel"], table["birth"]))] = np.arange(len(table))
    from scipy.spatial import KDTree  # takes 0.1 s to import, and few runs ask for it

    pairs = KDTree(positions).query_pairs(distance, output_type="ndarray")
    close = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1) < distance
    pairs = pairs[close]
    near[np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
    return near
