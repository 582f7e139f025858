"""Peak tables with values in every column, for round trips."""

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from braggflow import peak_table

FRAMES = 7


def filled(n: int, seed: int = 0, *, frames: int = FRAMES, method: int = peak_table.Method.gaussian) -> xr.Dataset:
    """A table of `n` peaks on frames of 200 x 300 pixels that turn by 0.5 degree."""
    rng = np.random.default_rng(seed)
    table = peak_table.empty(n)
    table["peak_frame"] = rng.integers(0, frames, n)
    table["y"], table["x"] = rng.uniform(-0.5, 199.5, n), rng.uniform(-0.5, 299.5, n)
    table["y_pixel"], table["x_pixel"] = np.rint(table["y"]), np.rint(table["x"])
    for name in ("y_std", "x_std", "fwhm_major", "intensity", "snr", "background", "birth", "amplitude", "eta"):
        table[name] = rng.uniform(0.01, 5, n)
    table["fwhm_minor"] = table["fwhm_major"] * 0.8
    table["intensity_std"] = table["intensity"] / table["snr"]
    table["angle"] = rng.uniform(-89, 90, n)
    table["area"] = rng.integers(1, 60, n)
    table["flags"] = rng.integers(0, 4096, n)
    table["method"] = method
    return in_frames(table, frames)


def in_frames(table: peak_table.Table, frames: int = FRAMES) -> xr.Dataset:
    omega = ("frame", np.arange(frames) * 0.5 - 1, {"units": "degree"})
    coordinates = xr.Dataset(coords={"frame": np.arange(frames), "omega": omega})
    return peak_table.to_dataset(table, coordinates, [], {"source": "scan.zarr"})


#: Tables of 0 to 20 peaks in any of the frames.
tables = st.builds(filled, st.integers(0, 20), st.integers(0, 2**32 - 1))
