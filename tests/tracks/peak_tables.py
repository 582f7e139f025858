"""Peak tables that tests of tracks are made of."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def table_of(rows: NDArray[np.void], n_frames: int, **coordinates: NDArray[np.float64]) -> xr.Dataset:
    """Detections of `simulate_moving_peaks` as a peak table; coordinates (n_frames,) of its frames."""
    columns = {name: rows[name] for name in ("y", "x", "y_std", "x_std", "intensity")}
    columns |= {"fwhm_major": rows["fwhm"], "fwhm_minor": rows["fwhm"], "angle": np.zeros(len(rows), np.float32)}
    columns["peak_frame"] = rows["frame"]
    frames = {"frame": np.arange(n_frames)} | {name: ("frame", values) for name, values in coordinates.items()}
    return xr.Dataset({name: ("peak", values) for name, values in columns.items()}, frames)


def plain_table(
    frame: NDArray[np.int64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    n_frames: int,
    **columns: NDArray[np.float64],
) -> xr.Dataset:
    """A table of these positions, of stated error 0.05 px, intensity 1000 and width 3 px unless said otherwise."""
    n = len(frame)
    known = {"y": y, "x": x, "y_std": np.full(n, 0.05), "x_std": np.full(n, 0.05), "intensity": np.full(n, 1000.0)}
    known |= {
        "fwhm_major": np.full(n, 3.0),
        "fwhm_minor": np.full(n, 3.0),
        "angle": np.zeros(n),
        "snr": np.full(n, 30.0),
    }
    known |= columns
    data = {name: ("peak", values) for name, values in known.items()}
    return xr.Dataset(data | {"peak_frame": ("peak", frame)}, {"frame": np.arange(n_frames)})
