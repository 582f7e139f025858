"""A self-check of a run: its frames with added peaks go through the same chain, and what comes out is compared."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import CheckConfig, RunConfig
from braggflow.errors import InputError
from braggflow.frames import FrameReader, OpenedSeries
from braggflow.peak_table import Table
from braggflow.pipeline import ChunkPeaks, complete_peaks, locate_peaks, on_cpu, search_chunk
from braggflow.results import RunFolder, open_peaks, open_run_frames, read_run_info
from braggflow.selfcheck.added_peaks import NEEDED, Seen, add_peaks, draw_peaks, seen_in
from braggflow.selfcheck.figures import ADDED_DTYPE, LIMIT_SNR, summary
from braggflow.selfcheck.matching import match_places
from braggflow.selfcheck.places import draw_places
from braggflow.selfcheck.verdict import verdict

#: Peaks added to a frame: as many as it has, within these limits, and on no more of its area than this share.
_FEWEST, _MOST, _AREA = 12, 100, 0.1
#: A short series is looked at in several copies, until so many peaks were added; not one of large frames (pixels).
_ENOUGH, _COPIES, _LARGE = 60, 4, 1_500_000
#: A table of up to so many peaks is read at once: each column that is read by itself costs milliseconds.
_READ_AT_ONCE = 300_000
#: Largest distance of a match, pixels of the searched frame.
_RADIUS = 3.0
#: Rows of the frame as it is further than this from every added peak along an axis, in patches, are not beside it.
_BESIDE = 1.2


class _Checked(NamedTuple):
    """A frame with peaks added, on its way."""

    added: NDArray[np.void]
    found: ChunkPeaks
    before: NDArray[np.float64]
    """(n, 2) rows of the frame as it is."""


def check_run(
    folder: RunFolder, settings: CheckConfig | None = None, *, opener: Callable[[], OpenedSeries] | None = None
) -> dict[str, Any]:
    """How good a run is on its own frames, for `run.json`: peaks are added to copies of some, and looked for again.

    It changes nothing. The same run gives the same figures, wherever they are made.

    Parameters
    ----------
    folder : RunFolder
        A run whose table is there.
    settings : CheckConfig, optional
        How much is checked; those that the run was made with, where none are given.
    opener : callable, optional
        Returns the run's series, where a process has it open.

    Returns
    -------
    dict
        `verdict` in words; `frames` checked, `peaks` added; `limit`, `by_snr` and `by_place` as `figures_of` returns
        them, `rows` (what was gained and lost beside the added ones), `seconds`. Or `left_out`: why there is no check.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.results import RunFolder
    >>> from braggflow.selfcheck import check_run
    >>> check_run(RunFolder(Path("runs/nothing")))
    {'left_out': 'runs/nothing: holds no run (no run.json)'}
    """
    try:
        return _check(folder, settings, opener)
    except InputError as error:
        return {"left_out": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever ails it must not spoil the run, whose table is whole
        return {"left_out": f"{type(error).__name__}: {error}"}


def _check(
    folder: RunFolder, settings: CheckConfig | None, opener: Callable[[], OpenedSeries] | None
) -> dict[str, Any]:
    start = time.perf_counter()
    info = read_run_info(folder)
    series = open_run_frames(folder) if opener is None else opener()
    check = series.config.check if settings is None else settings
    series = replace(series, config=on_cpu(series.config))
    with open_peaks(folder.path) as table:
        table = table[[*NEEDED, "peak_count", "frame_failed"]]
        if table.sizes["peak"] <= _READ_AT_ONCE:
            table = table.load()
        numbers = table["frame"].values[table["frame_failed"].values == 0]
        if not check.fraction:
            raise InputError("check.fraction is 0")
        if not len(numbers):
            raise InputError("no frame could be processed")
        if settings is None and series.config.detect.engine == "findpeaks" and check.fraction * len(numbers) < 1:
            raise InputError(
                "a frame takes detect.engine: findpeaks seconds to minutes, and of so few a check is no small share; "
                "braggflow check does it"
            )
        seed = [check.seed, int(info["run"][:15], 16)]
        wanted = min(max(1, round(check.fraction * len(numbers))), check.max_frames)
        chosen = np.sort(np.random.default_rng(seed).permutation(numbers)[:wanted])
        counts = table["peak_count"].sel(frame=chosen).values
        planned = [_number(int(n), series) for n in counts]
        copies = 1 if series.correction.mask.size > _LARGE else int(np.clip(-(-_ENOUGH // sum(planned)), 1, _COPIES))
        seen = seen_in(table, series.config)
        frames = [
            _with_peaks(series, table, int(number), n, seen, np.random.default_rng([*seed, int(number), copy]), at)
            for at, (copy, number, n) in enumerate(_repeated(copies, chosen, planned))
        ]
    whole = [frame for frame in frames if not frame.found.failures]
    if not whole:
        raise InputError(f"the frames with added peaks fail: {frames[0].found.failures[0]['reason']}")
    after, _ = complete_peaks(
        series.config,
        [frame.found for frame in whole],
        locate_peaks(series.config, [frame.found for frame in whole]),
    )
    result = _compared(frames, after, series.config)
    told = {"verdict": verdict(result), "frames": len(chosen), "copies": copies, "failed": len(frames) - len(whole)}
    return {**told, **result, "settings": check.model_dump(), "seconds": round(time.perf_counter() - start, 3)}


def _repeated(copies: int, numbers: NDArray[np.int64], planned: list[int]) -> Iterator[tuple[int, np.int64, int]]:
    for copy in range(copies):
        for number, n in zip(numbers, planned, strict=True):
            yield copy, number, n


def _number(rows: int, series: OpenedSeries) -> int:
    """Peaks that are added to a frame of so many."""
    room = series.correction.mask.size * _AREA / (series.config.patches.size * series.config.frames.bin) ** 2
    return int(min(np.clip(rows, _FEWEST, _MOST), max(4, room)))


def _with_peaks(
    series: OpenedSeries,
    table: xr.Dataset,
    number: int,
    n: int,
    seen: Seen,
    rng: np.random.Generator,
    at: int,
) -> _Checked:
    """A copy of a frame with `n` peaks added, searched; its rows bear the number `at`."""
    config, scale = series.config, series.config.frames.bin
    raw = series.reader.read(series.positions[[series.position_of(number)]])[0]
    frame = series.corrected(raw)
    rows = table[["y", "x"]].sel(peak_frame=number).load()
    before = np.stack([rows["y"].values, rows["x"].values], axis=1)
    places, kinds = draw_places(n, rng, frame.mask, (before - (scale - 1) / 2) / scale, config.patches.size)
    peaks = draw_peaks(places, seen, frame, config, rng, LIMIT_SNR)
    altered = add_peaks(
        raw,
        peaks.profiles,
        series.correction,
        rng,
        model=config.fit.model,
        counts_per_photon=config.frames.detector_constants[0],
    )
    data = xr.Dataset({"frames": (("frame", "y", "x"), altered[None])}, coords={"frame": [at]})
    copied = replace(
        series, data=data, reader=FrameReader(data), positions=np.zeros(1, np.int64), numbers=[at], missing={}
    )
    added = np.zeros(len(places), ADDED_DTYPE)
    added["frame"], added["snr"], added["place"], added["limit"] = number, peaks.snr, kinds, peaks.limit_height
    for name in ("y", "x", "height"):
        added[name] = peaks.profiles[name]
    return _Checked(added, search_chunk(copied, 0, 1), before)


def _compared(frames: list[_Checked], after: Table, config: RunConfig) -> dict[str, Any]:
    """The figures of all frames; what was found is matched with what was there and what was added, in one."""
    radius, near = _RADIUS * config.frames.bin, _BESIDE * config.patches.size * config.frames.bin
    rows = Counter(before=0, gained=0, lost=0, lost_beside=0)
    for at, frame in enumerate(frames):
        if frame.found.failures:
            continue
        new = after[after["peak_frame"] == at]
        places = np.stack([new["y"], new["x"]], axis=1)
        added, n = frame.added, len(frame.before)
        put = np.stack([added["y"], added["x"]], axis=1)
        row, same = match_places(places, np.concatenate([frame.before, put]), radius)
        of_added = same >= n
        hit = same[of_added] - n
        added["found"][hit] = True
        added["error"][hit] = places[row[of_added]] - put[hit]
        added["std"][hit] = np.stack([new["y_std"], new["x_std"]], axis=1)[row[of_added]]
        lost = np.delete(frame.before, same[~of_added], axis=0)
        beside = int(np.count_nonzero(np.abs(lost[:, None] - put).max(axis=2).min(axis=1, initial=np.inf) <= near))
        rows.update(before=n, gained=len(new) - len(row), lost=len(lost) - beside, lost_beside=beside)
    return summary(np.concatenate([frame.added for frame in frames if not frame.found.failures]), rows)
