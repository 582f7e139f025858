"""Peaks of frames in memory, in this process: for a notebook."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

import braggflow.peak_rows  # noqa: F401 - it registers itself with xarray
from braggflow.config import NoiseMultiple, RunConfig, as_config, resolve_config
from braggflow.errors import InputError
from braggflow.frames import frames_from_array, open_series, settled_constants
from braggflow.peak_table import to_dataset
from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.refusals import refuse_levels, refuse_no_frames
from braggflow.pipeline.stages import complete_peaks, locate_peaks, search_chunk

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
        alone has none.
    false_peaks : float, optional
        False peaks expected in a megapixel: how significant a maximum must be against the noise of its place.
    minval, minscore : float or str, optional
        Further cuts: pixels below `minval` are set to 0, peaks whose persistence is not above `minscore` are dropped.
        In counts, or as ``"6 sigma"``, multiples of each frame's noise. With ``config={"detect": {"false_peaks":
        None}}`` they alone decide, as in findpeaks.
    background : str, optional
        Subtracted before the search: ``"none"``, ``"local"``, or the name of a file that holds a frame.
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
    given: dict[str, dict[str, object]] = {
        "detect": {
            "false_peaks": false_peaks,
            "minval": minval,
            "minscore": minscore,
            "background": background,
            "min_area": min_area,
        },
        "frames": {
            "mask": mask,
            "bin": bin,
            "saturation": saturation,
            "counts_per_photon": counts_per_photon,
            "read_noise": read_noise,
        },
        "patches": {"size": patch_size},
        "locate": {"network": network, "position": position},
        "fit": {"model": model},
    }
    sections = as_config(config).model_dump(mode="json") if config is not None else {}
    for section, keys in given.items():
        sections.setdefault(section, {}).update({key: value for key, value in keys.items() if value is not None})
    settings = resolve_config(sections, source="find_peaks")
    data = frames_from_array(frames)
    compile_ahead()
    opened = open_series(data, settings)
    refuse_no_frames(opened, "the array")
    opened, constants = settled_constants(opened)
    refuse_levels(opened)
    settings = opened.config
    found = [search_chunk(opened, position, position + 1) for position in range(len(opened.numbers))]
    never_written = [opened.numbers[position] for position in opened.missing]
    failures = [failure for chunk in found for failure in chunk.failures if failure["frame"] not in never_written]
    if failures:
        raise InputError("; ".join(f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:5]))
    table, _ = complete_peaks(settings, found, locate_peaks(settings, found))
    coords = data[["frame"]].isel(frame=opened.positions).load()
    return to_dataset(
        table,
        coords,
        never_written,
        {"source": "array", **constants.attributes(), "scale_std": settings.locate.scale_std},
        {number: mean for chunk in found for number, mean in chunk.means.items()},
    )
