"""Peaks of frames in memory, in this process: for a notebook."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from braggflow import peak_table
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline.stages import complete_peaks, locate_peaks, search_chunk


def find_peaks(images: "xr.Dataset | xr.DataArray | np.ndarray[Any, Any]", **sections: Mapping[str, Any]) -> xr.Dataset:
    """Peaks of one array, in this process: for a notebook.

    `images` is (frame, y, x) or one frame (y, x); a DataArray's `frame` coordinate and per-frame coordinates are kept.
    A Dataset, as `open_frames` returns, brings its mask, dark, flat and saturation too; an array alone has none.
    Sections are those of the configuration: `find_peaks(images, detect={"minval": 20, "minscore": 10})`. Returns the
    peak table as `open_peaks` does; raises `InputError` for bad settings or where a frame cannot be processed.
    """
    settings = resolve_config(sections, source="find_peaks")
    data = frames_from_array(images)
    opened = open_series(data, settings)
    found = [search_chunk(opened, position, position + 1) for position in range(len(opened.numbers))]
    failures = [failure for chunk in found for failure in chunk.failures]
    if failures:
        raise InputError("; ".join(f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:5]))
    table, _ = complete_peaks(settings, found, locate_peaks(settings, found)) if found else (peak_table.empty(), {})
    coords = data[["frame"]].isel(frame=opened.positions).load()
    return peak_table.to_dataset(table, coords, [], {"source": "array"})
