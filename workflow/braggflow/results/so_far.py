"""The peaks of a run that follows a series while that is written: those of the frames done so far."""

from contextlib import suppress

import numpy as np
import xarray as xr

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.results.folder import RunFolder, read_run_info
from braggflow.results.parts import look_at_part, part_files, read_part_table


def peaks_so_far(folder: RunFolder) -> xr.Dataset | None:
    """The peaks of the frames done so far, as `open_peaks` returns them; None where the run follows no series.

    A frame is there with all of its peaks, or not at all: parts get their names when they are whole.
    """
    try:
        info = read_run_info(folder)
    except InputError:
        return None  # whoever opens the table says what is wrong
    if not info.get("following"):
        return None
    tables, means, failed, rows = [peak_table.empty()], dict[int, float](), list[int](), 0
    for _, part in filter(None, map(look_at_part, part_files(folder))):
        with suppress(OSError, ValueError):  # replaced this very moment: it is there when this is called again
            table = read_part_table(folder, part)
            table["parent"][table["parent"] >= 0] += rows
            rows += len(table)
            tables.append(table)
            means |= dict(zip(part.states["frame"].tolist(), part.states["mean"].tolist(), strict=True))
            failed += [failure["frame"] for failure in part.failures]
    frames = xr.Dataset(coords={"frame": np.array(sorted({*means, *failed}), np.int64)})
    attributes = {"run": info["run"], "source": info["dataset"]["path"], "following": "the frames done so far"}
    return peak_table.to_dataset(np.concatenate(tables), frames, failed, attributes, means)
