"""A sweep: frames of a series go through the chain once, and are looked at by many settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig, as_config
from braggflow.convert import open_source
from braggflow.errors import InputError
from braggflow.frames import OpenedSeries, frames_from_array, open_series, settled_constants
from braggflow.pipeline import compile_ahead, look_by_each, on_cpu, refuse_no_frames
from braggflow.results import RunFolder, open_run_frames, read_run_info
from braggflow.sweeps.levels import GivenLevel, Levels, given_levels, usual_levels
from braggflow.sweeps.measuring import Measured
from braggflow.sweeps.outcome import Sweep, map_of
from braggflow.sweeps.recommendation import Candidates, recommended

#: Settings times frames: of each some numbers are kept.
_MOST = 20_000_000
#: Frames in which the lowest peaks are looked for, where no level is given.
_FOR_LEVELS = 3
#: Pixels within which a peak is found again in the next frame.
RADIUS = 3.0


def sweep(
    source: "str | Path | xr.Dataset | xr.DataArray | NDArray[Any]",
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    minval: Sequence[GivenLevel] | None = None,
    minscore: Sequence[GivenLevel] | None = None,
    false_peaks: Sequence[float | None] | None = None,
    frames: int | Literal["all"] = 20,
    radius: float = RADIUS,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """How the peaks of a series depend on `minval`, `minscore` and `false_peaks`: a map, and a recommended setting.

    Each frame is read once, and searched once for all settings that a search at the loosest levels answers exactly; the
    number of peaks of each is that which `run` finds with it (docs/sweep.md). Nothing is written.

    Parameters
    ----------
    source : str, pathlib.Path, xarray.Dataset, xarray.DataArray or numpy.ndarray
        A run folder, whose frames are searched again; a frames store, or anything that `ingest` reads; or frames in
        memory, as `find_peaks` takes them.
    config : RunConfig, mapping, str or pathlib.Path, optional
        The configuration, or the name of its YAML file: all but the three levels is as it has them. Default: that of
        the run, or every key at its default.
    minval, minscore : sequence of float or str or None, optional
        Levels in counts, or all as ``"6 sigma"``; None: no such cut.
    false_peaks : sequence of float or None, optional
        False peaks expected in a megapixel; None: findpeaks' rule, by `minval` and `minscore` alone. Where none of the
        three is given, levels around the configuration's are chosen from the frames; where some are, the others stay
        as the configuration has them.
    frames : int or "all", default 20
        How many frames are looked at, in pairs of neighbours that are spread evenly over the series.
    radius : float, default 3.0
        Pixels within which a peak is found again in the next frame.
    progress : callable, optional
        Called with (frames done, frames in all) after each frame.

    Returns
    -------
    Sweep
        The map as an xarray Dataset with the dimensions minval, minscore and false_peaks (and frame), the recommended
        setting with its reason, pictures.

    Raises
    ------
    InputError
        Where the source cannot be opened or no frame of it be processed, for levels that are not accepted, or for more
        settings and frames than can be kept.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=6, shape=(96, 96), peaks=4)
    >>> found = braggflow.sweep("scan.zarr", minval=[None, 40], false_peaks=[0.01, 0.1, 1], frames=4)
    >>> dict(found.map.sizes)
    {'frame': 4, 'minval': 2, 'minscore': 1, 'false_peaks': 3}
    >>> found.map["peak_count"].sel(minval=40, false_peaks=0.1).dims
    ('minscore', 'frame')
    >>> print(found.reason)
    false_peaks ... peaks a frame on average, and one step of any levels changes that by ...
    >>> found.figure.savefig("sweep.png")
    """
    opened, name = _opened(source, config)
    if frames != "all" and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
        raise InputError(f"frames: {frames!r} is not accepted; must be 1 or more, or all")
    if not radius > 0:
        raise InputError(f"radius: {radius} is not accepted; must be above 0 (pixels)")
    positions = in_pairs([at for at in range(len(opened.numbers)) if at not in opened.missing], frames)
    if not positions:
        raise InputError(f"{name}: none of its frames was written")
    detect = opened.config.detect
    given = {"minval": minval, "minscore": minscore, "false_peaks": false_peaks}
    if any(levels is not None for levels in given.values()):
        levels = given_levels(detect, **given)
    else:
        compile_ahead()
        levels = _usual(opened, positions)
    settings = levels.settings(detect)
    if len(settings) * len(positions) > _MOST:
        raise InputError(
            f"sweep: {len(settings):,} settings in {len(positions):,} frames are more than {_MOST:,} numbers; choose "
            "fewer levels or frames"
        )
    compile_ahead()
    searched = _on_cpu(opened)
    measured = Measured(len(settings), len(positions), radius)
    failure = ""
    for at, position in enumerate(positions):
        frame = look_by_each(searched, position, settings)
        failure = failure or next((reason for reason in frame.failures if reason), "")
        measured.add(position, frame, opened.config)
        if progress is not None:
            progress(at + 1, len(positions))
    if measured.failed.all():
        raise InputError(f"{name}: no frame can be processed by any setting: {failure}")
    return _concluded(name, opened, levels, positions, measured)


def _concluded(name: str, opened: OpenedSeries, levels: Levels, positions: list[int], measured: Measured) -> Sweep:
    coords = opened.data[["frame"]].isel(frame=opened.positions[positions]).load()
    found = map_of(measured, levels, coords)
    names = "peaks_mean", "persistence", "peaks_followed", "expected_false_peaks"
    candidates = Candidates(*(found[name].values for name in names))
    place, reason = recommended(candidates, levels, levels.place_of(opened.config.detect))
    return Sweep(
        source=name,
        config=opened.config,
        map=found,
        levels=levels,
        place=place,
        reason=reason,
        frames_of_series=len(opened.numbers),
    )


def _opened(source: Any, config: RunConfig | Mapping[str, Any] | str | Path | None) -> tuple[OpenedSeries, str]:
    """The series, its detector's constants known, and what it is called."""
    of_run = isinstance(source, str | Path) and RunFolder(Path(source)).info.exists()
    if of_run and config is None:
        opened, name = open_run_frames(RunFolder(Path(source))), str(source)
        refuse_no_frames(opened, name)
    else:
        in_memory = not isinstance(source, str | Path)
        where = read_run_info(RunFolder(Path(source)))["dataset"]["path"] if of_run else source
        data = frames_from_array(source) if in_memory else open_source(where)
        name = "array" if in_memory else str(source)
        opened = open_series(data, as_config(config if config is not None else {}))
        refuse_no_frames(opened, name)
        opened, _ = settled_constants(opened)
    return opened, name


def _on_cpu(opened: OpenedSeries) -> OpenedSeries:
    """The series as it is, its peaks located and fitted on the CPU."""
    return replace(opened, config=on_cpu(opened.config))


def in_pairs(there: Sequence[int], frames: int | Literal["all"]) -> list[int]:
    """About so many of the positions that are there, ascending, in pairs of neighbours spread evenly over them."""
    if frames == "all" or frames >= len(there):
        return list(there)
    firsts = [at for at, following in pairwise(there) if following == at + 1]
    if frames == 1 or not firsts:
        return [there[at] for at in _spread(len(there), frames)]
    chosen = {firsts[at] for at in _spread(len(firsts), max(1, frames // 2))}
    return sorted(chosen | {at + 1 for at in chosen})


def _spread(n: int, wanted: int) -> list[int]:
    if wanted == 1:
        return [n // 2]
    spread: list[int] = np.unique(np.linspace(0, n - 1, wanted).round().astype(int)).tolist()
    return spread


def _usual(opened: OpenedSeries, positions: Sequence[int]) -> Levels:
    """Levels around the configuration's, from the peaks of a few frames."""
    detect = opened.config.detect
    loosest = detect.model_copy(update={"minval": None, "minscore": None})
    births, scores = [np.empty(0)], [np.empty(0)]
    for at in _spread(len(positions), min(len(positions), _FOR_LEVELS)):
        (table,) = look_by_each(_on_cpu(opened), positions[at], [loosest]).tables
        maxima = table[table["parent"] < 0]
        births.append(maxima["birth"])
        scores.append(maxima["score"])
    return usual_levels(detect, np.concatenate(births), np.concatenate(scores))
