"""Peaks as a page has them: the rows in the shown window, each with its colour, and words in place of bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.palettes import Viridis256
from numpy.typing import NDArray

from braggflow.peak_table import Flag, Method
from braggflow.show import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from braggflow.view.viewed import Columns
from braggflow.view.windows import Extent

#: Peaks that are drawn as markers and listed, at most; of more the ones of the highest SNR.
MOST = 5_000
#: What markers can be coloured by.
COLOUR_BY = ("flags", "method", "snr", "significance", "disagreement")
_METHODS = {
    Method.braggnn: PURPLE,
    Method.compact: BLUE,
    Method.gaussian: VERMILLION,
    Method.pseudo_voigt: ORANGE,
    Method.centroid: GREEN,
    Method.pixel: BLACK,
    Method.disk: VERMILLION,
}
#: Columns of the table on the page, as they are, and the decimals that are shown.
LISTED = {
    "y": "0.00",
    "x": "0.00",
    "y_std": "0.000",
    "x_std": "0.000",
    "snr": "0.0",
    "significance": "0.0",
    "birth": "0",
    "score": "0",
    "intensity": "0",
    "fwhm_major": "0.00",
    "fwhm_minor": "0.00",
    "disagreement": "0.00",
}
#: More than a row of any frame has, so that y times it and x are one number.
_ROW = 2**32
_NAMES = np.array([" ".join(str(flag.name) for flag in Flag if bits & flag) for bits in range(2 * max(Flag))], object)


def marks_of(columns: Columns, shown: Extent, colour_by: str, *, first: str = "snr") -> dict[str, Any]:
    """The peaks within a part of the detector, as columns of a data source: at most `MOST`, of the highest `first`."""
    y, x = columns["y"], columns["x"]
    within = (y >= shown.top) & (y <= shown.bottom) & (x >= shown.left) & (x <= shown.right)
    rows = np.flatnonzero(within)
    if len(rows) > MOST:
        rows = np.sort(rows[np.argsort(-np.nan_to_num(columns[first][rows]), kind="stable")[:MOST]])
    found: dict[str, Any] = {name: columns[name][rows].astype(np.float64) for name in LISTED}
    flags = columns["flags"][rows].astype(np.int64)
    found["row"] = rows
    found["flags"] = list(_NAMES[flags])
    found["method"] = [Method(value).name for value in columns["method"][rows].tolist()]
    found["colour"] = colours_of({name: columns[name][rows] for name in (*COLOUR_BY,)}, colour_by)
    return found


def nothing() -> dict[str, Any]:
    """The columns of `marks_of`, without a row."""
    return {name: [] for name in (*LISTED, "row", "flags", "method", "colour")}


def colours_of(columns: Mapping[str, NDArray[Any]], colour_by: str) -> list[str]:
    """The colour of each row."""
    values = columns[colour_by]
    if colour_by == "flags":
        return [VERMILLION if bits == 0 else BLUE for bits in values.tolist()]
    if colour_by == "method":
        return [_METHODS[Method(value)] for value in values.tolist()]
    logs = np.log10(np.maximum(np.nan_to_num(values.astype(np.float64), nan=0.0), 1e-3))
    if not len(logs):
        return []
    low, high = np.percentile(logs, (2, 98))
    shades = np.clip((logs - low) / max(high - low, 1e-9) * 255, 0, 255).astype(int)
    return [Viridis256[shade] for shade in shades]


def gone_and_new(before: Columns, after: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The maxima (n, 2) that only the first of two searches of a frame has, and those that only the second has."""
    first, second = _places(before), _places(after)
    gone, new = (np.column_stack(np.divmod(np.setdiff1d(*pair), _ROW)) for pair in ((first, second), (second, first)))
    return gone, new


def _places(columns: Columns) -> NDArray[np.int64]:
    """(n,) the pixels of the maxima that peaks have of their own, each as one number."""
    own = columns["parent"] < 0
    return columns["y_pixel"][own].astype(np.int64) * _ROW + columns["x_pixel"][own]
