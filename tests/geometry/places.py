"""Geometries that several tests are made of."""

from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from braggflow import peak_table
from braggflow.geometry import Geometry

PLAIN: dict[str, Any] = {
    "distance_mm": 200.0,
    "beam_centre_px": [200.0, -100.0],
    "pixel_size_um": [75.0, 75.0],
    "energy_kev": 17.4,
}


def tilted() -> dict[str, Any]:
    """Plain keys of a detector that is turned."""
    return {**PLAIN, "rotation_degree": [5.0, -3.0, 12.0]}


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """A turned detector with the beam near its frame."""
    number = st.floats(-1, 1).map(lambda value: round(value, 3))
    flip = st.booleans()
    return Geometry(
        distance_mm=200 + 100 * draw(number),
        poni_mm=(20 + 10 * draw(number), 20 + 10 * draw(number)),
        pixel_size_um=(75.0, 75 + 25 * draw(number)),
        rotation_degree=(20 * draw(number), 20 * draw(number), 90 * draw(number)),
        wavelength_angstrom=1 + 0.5 * draw(number),
        flipped=(draw(flip), draw(flip)),
    )


def table_of(
    y: ArrayLike,
    x: ArrayLike,
    *,
    frames: ArrayLike | None = None,
    attributes: dict[str, Any] | None = None,
    **columns: Any,
) -> xr.Dataset:
    """A peak table of peaks at these places; further columns by name, before it is sorted."""
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    table = peak_table.empty(len(y))
    table["peak_frame"] = 0 if frames is None else frames
    table["y"], table["x"] = y, x
    table["y_pixel"], table["x_pixel"] = np.round(y), np.round(x)
    for name, values in columns.items():
        table[name] = values
    numbers = np.arange(int(table["peak_frame"].max(initial=0)) + 1)
    return peak_table.to_dataset(table, xr.Dataset(coords={"frame": numbers}), (), attributes or {})
