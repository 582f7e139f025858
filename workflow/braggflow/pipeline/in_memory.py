"""Peaks of frames in memory, in this process: for a notebook."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

import braggflow.peak_rows  # noqa: F401 - it registers itself with xarray
from braggflow import peak_table
from braggflow.angles import stated_geometry
from braggflow.config import NoiseMultiple, RunConfig, as_config, resolve_config
from braggflow.errors import InputError
from braggflow.frames import OpenedSeries, frames_from_array, open_series, settled_constants
from braggflow.peak_table import to_dataset
from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.refusals import refuse_levels, refuse_no_frames
from braggflow.pipeline.stages import STACK_BYTES, ChunkPeaks, complete_peaks, locate_peaks, search_chunk

#: Section and key of each argument of `find_peaks`.
_KEYS = {
    **{name: ("detect", name) for name in ("false_peaks", "minval", "minscore", "background", "min_area")},
    **{name: ("frames", name) for name in ("mask", "bin", "saturation", "counts_per_photon", "read_noise")},
    "patch_size": ("patches", "size"),
    **{name: ("locate", name) for name in ("network", "position")},
    "model": ("fit", "model"),
}

Level: TypeAlias = float | str | NoiseMultiple | Mapping[str, float]


def find_peaks(
    frames: "xr.Dataset | xr.DataArray | np.ndarray[Any, Any]",
    *,
    false_peaks: float | None = None,
    minval: Level | None = None,
    minscore: Level | None = None,
    background: str | None = None,
    min_area: int | None = None,
    mask: str | None = None,
    bin: int | None = None,  # noqa: A002 - the configuration's word
    saturation: float | None = None,
    counts_per_photon: float | Literal["auto"] | None = None,
    read_noise: float | Literal["auto"] | None = None,
    patch_size: Literal[9, 11, 13, 15] | None = None,
    network: str | None = None,
    position: Literal["auto", "network", "fit"] | None = None,
    model: Literal["gaussian", "pseudo_voigt", "disk"] | None = None,
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
) -> xr.Dataset:
    """Peaks of one array of frames, in this process: for a notebook.

    Parameters
    ----------
    frames : xarray.Dataset, xarray.DataArray or numpy.ndarray
        Frames of shape (frame, y, x), or one frame (y, x). A DataArray's `frame` coordinate and per-frame coordinates
        are kept. A Dataset, as `open_frames` returns it, brings its mask, dark, flat and saturation too; an array
        alone has none. Of `braggflow.find_peaks` they may be a Dask array: its chunks are then searched one by one on
        the active `distributed.Client`, or else by Dask's threads, in the memory of a few of them; the result is the
        same.
    false_peaks : float, optional
        False peaks expected in a megapixel: how significant a maximum must be against the noise of its place.
    minval, minscore : float or str, optional
        Further cuts: pixels below `minval` are set to 0, peaks whose persistence is not above `minscore` are dropped.
        In counts, or as ``"6 sigma"``, multiples of each frame's noise. With ``config={"detect": {"false_peaks":
        None}}`` they alone decide, as in findpeaks.
    background : str, optional
        Subtracted before the search: ``"none"``, ``"local"``, ``"radial"`` (powder rings; needs the geometry), or the
        name of a file that holds a frame.
    min_area : int, optional
        Drop peaks of fewer pixels.
    mask : str, optional
        Name of an image file, non-zero = ignore; joined with the Dataset's own mask.
    bin : int, optional
        Sum `bin` x `bin` pixels before the search; positions stay in pixels of the detector.
    saturation : float, optional
        Counts at and above which a pixel is saturated.
    counts_per_photon : float or "auto", optional
        Counts of one photon; ``"auto"``: by the noise of the frames (docs/detector.md).
    read_noise : float or "auto", optional
        Standard deviation of a pixel without light, counts; ``"auto"`` as above.
    patch_size : {9, 11, 13, 15}, optional
        Side of the square around each maximum, pixels.
    network : str, optional
        The network that is asked: ``"compact"``, ``"braggnn"``, ``"none"``, or the name of a weights file.
    position : {"auto", "network", "fit"}, optional
        Which position is used.
    model : {"gaussian", "pseudo_voigt", "disk"}, optional
        The profile that is fitted.
    config : RunConfig, mapping, str or pathlib.Path, optional
        A whole configuration, or the name of its YAML file; the other arguments stand above it. Keys that are given
        nowhere have their defaults (`braggflow config init` writes them all).

    Returns
    -------
    xarray.Dataset
        The peak table as `open_peaks` returns it: dimension `peak`, sorted by (peak_frame, y_pixel, x_pixel), and
        dimension `frame` with `peak_count`. Positions are (y, x) in pixels, 0-based, pixel centres at whole numbers.
        Frames that were never written have no peaks, and `frame_failed` 1.

    Raises
    ------
    InputError
        For bad settings, or where a frame cannot be processed.

    See Also
    --------
    braggflow.run : The same for frames on disk, in parallel and resumable.

    References
    ----------
    Peaks are maxima by topological persistence: H. Edelsbrunner and J. Harer, Computational Topology (2010). The
    network `braggnn` is that of Z. Liu et al., IUCrJ 9, 104 (2022). Fits weigh counts as T. A. Laurence and B. A.
    Chromy do, Nature Methods 7, 338 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> import braggflow
    >>> y, x = np.mgrid[:64, :64]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> peaks = braggflow.find_peaks(frame)
    >>> peaks.bragg.to_dataframe(["y", "x"]).round(1)
          peak_frame     y     x
    peak
    0              0  20.3  31.8
    """
    settings = settings_of(
        config,
        false_peaks=false_peaks,
        minval=minval,
        minscore=minscore,
        background=background,
        min_area=min_area,
        mask=mask,
        bin=bin,
        saturation=saturation,
        counts_per_photon=counts_per_photon,
        read_noise=read_noise,
        patch_size=patch_size,
        network=network,
        position=position,
        model=model,
    )
    return table_of(frames, settings, lambda opened: [search_part(opened)])


def settings_of(config: RunConfig | Mapping[str, Any] | str | Path | None = None, **given: object) -> RunConfig:
    """The configuration that `find_peaks` is asked for: the arguments that are `given`, above `config`."""
    sections = as_config(config).model_dump(mode="json") if config is not None else {}
    for name, value in given.items():
        if value is not None:
            section, key = _KEYS[name]
            sections.setdefault(section, {})[key] = value
    return resolve_config(sections, source="find_peaks")


@dataclass(frozen=True, slots=True)
class PartPeaks:
    """What was found in some frames of a series."""

    table: peak_table.Table
    failures: list[dict[str, Any]]
    means: dict[int, float]
    """The mean count of each frame that was processed, by its number."""


def search_part(opened: OpenedSeries) -> PartPeaks:
    """All that is done for the selected frames of a series, or of a part of one."""
    n, frame = len(opened.numbers), opened.data["frames"]
    together = max(1, STACK_BYTES // (frame[0].size * frame.dtype.itemsize))
    found = [chunk for first in range(0, n, together) for chunk in _searched(opened, first, min(first + together, n))]
    table, _ = complete_peaks(opened.config, found, locate_peaks(opened.config, found))
    failures = [failure for chunk in found for failure in chunk.failures]
    return PartPeaks(table, failures, {number: mean for chunk in found for number, mean in chunk.means.items()})


def _searched(opened: OpenedSeries, first: int, stop: int) -> list[ChunkPeaks]:
    """The frames at positions [first, stop) in one, or where some of them fail, which may be read together, each."""
    found = search_chunk(opened, first, stop)
    if found.failures and stop > first + 1:
        return [search_chunk(opened, position, position + 1) for position in range(first, stop)]
    return [found]


def table_of(frames: Any, settings: RunConfig, search: Callable[[OpenedSeries], Sequence[PartPeaks]]) -> xr.Dataset:
    """The peak table of an array of frames, whose opened series is searched by `search`, in parts.

    Raises `InputError` where a frame cannot be processed, but for those that were never written.
    """
    data = frames_from_array(frames)
    compile_ahead()
    opened = open_series(data, settings)
    refuse_no_frames(opened, "the array")
    opened, constants = settled_constants(opened)
    refuse_levels(opened)
    parts = search(opened)
    never_written = [opened.numbers[position] for position in opened.missing]
    failures = [failure for part in parts for failure in part.failures if failure["frame"] not in never_written]
    if failures:
        raise InputError("; ".join(f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:5]))
    attributes: dict[str, Any] = {
        "source": "array",
        **constants.attributes(),
        "scale_std": settings.locate.scale_std,
    }
    if geometry := stated_geometry(data.attrs.get("geometry"), settings.geometry):
        attributes["geometry"] = json.dumps(geometry)
    return to_dataset(
        _joined([part.table for part in parts]),
        data[["frame"]].isel(frame=opened.positions).load(),
        never_written,
        attributes,
        {number: mean for part in parts for number, mean in part.means.items()},
    )


def _joined(tables: Sequence[peak_table.Table]) -> peak_table.Table:
    """The tables of several parts as one in its order; a parent lies in the same part."""
    joined, start = peak_table.concatenate(tables), 0
    for table in tables:
        parents = joined["parent"][start : start + len(table)]
        parents[parents >= 0] += start
        start += len(table)
    return peak_table.sort(joined)
