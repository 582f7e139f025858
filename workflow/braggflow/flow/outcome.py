"""What callers are told: how far a run is, also on a terminal, and what became of each data set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import overload

import xarray as xr
from rich.console import Console

from braggflow.compiled import compiling_told
from braggflow.console import moving_line, plain
from braggflow.errors import InputError
from braggflow.results import Run, RunFolder, open_run


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; given to the `progress` callback about twice a second and after each finished group.

    Counts are of all data sets together. `share` is what a progress bar shows.

    Examples
    --------
    >>> import braggflow
    >>> from distributed import Client
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> seen = []
    >>> with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
    ...     outcomes = braggflow.run(
    ...         {"output": {"report": False}}, ["scan.zarr"], out="runs", client=client, progress=seen.append
    ...     )
    >>> last = seen[-1]
    >>> last.datasets_done, last.datasets_total, last.frames_done, last.share
    (1, 1, 4, 1.0)
    """

    dataset: str
    """The one that last made a step; "" before the first."""
    datasets_done: int
    """Data sets that have ended, whatever became of them."""
    datasets_total: int
    """Data sets known so far."""
    frames_done: int
    """Frames done in the data sets opened so far, also by earlier runs."""
    frames_total: int
    """Frames of the data sets opened so far."""
    frames_before: int
    """Frames done by earlier runs: not part of this run's rate."""
    frames_failed: int
    """Frames that this run could not process."""
    peaks: int
    """Peaks found in the data sets opened so far, also by earlier runs."""
    dashboard: str
    """Address of the Dask dashboard; "" where there is none."""
    cluster: str
    """Workers there are and jobs that wait; "" where their number is fixed."""
    stage: str
    """What is being done beside or before the frames (looking at frames, starting workers, joining the table, ...); ""
    while frames are processed."""
    seconds: float
    """Time since the first data set was begun, until its last part: what the rate of frames is over."""
    notes: tuple[str, ...]
    """What the user should know, so far."""
    share: float
    """Share of the work that is done, 0 to 1, each data set counting the same; falls only where `follow` finds more."""


@contextmanager
def run_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What is being done, frames, rate, peaks, failures, workers, time left; the dashboard and each note once."""
    told, dataset = set[str](), ""
    with moving_line(console, "starting") as drawn, compiling_told(drawn) as line:

        def show(state: Progress) -> None:
            nonlocal dataset
            dataset = state.dataset or dataset or "braggflow"
            for note in (*([f"dashboard: {state.dashboard}"] if state.dashboard else []), *state.notes):
                if note not in told:
                    plain(console, note)
                    told.add(note)
            if state.stage:
                line(state.stage, None, ", ".join(filter(None, (_found(state), state.cluster))))
            elif not state.frames_total:
                line(dataset, None, state.cluster)
            else:
                line(dataset, state.share, ", ".join(filter(None, (_counts(state), state.cluster))))

        yield show


def _found(state: Progress) -> str:
    return f"{state.frames_done}/{state.frames_total} frames, {state.peaks} peaks" if state.frames_total else ""


def _counts(state: Progress) -> str:
    if not state.frames_total:
        return ""
    several = f"{state.datasets_done}/{state.datasets_total} data sets, " if state.datasets_total > 1 else ""
    processed = state.frames_done - state.frames_before
    speed = f", {rate(processed / state.seconds)} frames/s" if processed and state.seconds else ""
    return (
        f"{several}{state.frames_done}/{state.frames_total} frames{speed}, {state.peaks} peaks, "
        f"{state.frames_failed} frames failed"
    )


def rate(per_second: float) -> str:
    """A rate with two digits, or whole where it has more."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one data set; `run` returns one for each.

    Examples
    --------
    >>> import braggflow
    >>> from pathlib import Path
    >>> outcome = braggflow.Outcome("scan", Path("runs/scan"), "partial", frames=480, frames_failed=2, peaks=7128)
    >>> outcome.status, outcome.frames - outcome.frames_failed
    ('partial', 478)
    """

    name: str
    """Name of the data set: its store's without .zarr, its HDF5 file's without suffix."""
    folder: Path
    """The run folder, `OUT/DATASET`; where the data set was refused there may be none."""
    status: str
    """complete, partial (some frames failed), interrupted, or refused (nothing was written)."""
    frames: int = 0
    """Frames that the run is to process, those of earlier runs included."""
    frames_failed: int = 0
    """Of these, those that could not be processed; `run.json` has the reason of each."""
    frames_processed: int = 0
    """Frames processed in this run; 0 where all was done before."""
    peaks: int = 0
    """Peaks found, also by earlier runs."""
    seconds: float = 0.0
    """Wall-clock time of this run; 0 where all was done before."""
    processing_seconds: float = 0.0
    """Of these, from the beginning to the last part: without joining the table and drawing the report."""
    tasks_rerun: int = 0
    """Tasks that had to be done again, because their worker was lost or a file could not be read."""
    message: str = ""
    """What the user should know of it, as why it was refused; "" where there is nothing to say."""

    @property
    def frames_per_second(self) -> float:
        """Frames processed in this run, over the time until the last part; 0 where there was nothing to do."""
        return self.frames_processed / self.processing_seconds if self.processing_seconds else 0.0

    def open(self) -> Run:
        """The run folder opened: its record, settings and peaks; raises `InputError` where there is none."""
        return open_run(self.folder)

    def _repr_html_(self) -> str:
        return Outcomes([self])._repr_html_()


class Outcomes(Sequence[Outcome]):
    """What became of each data set of a run, in order: a sequence of `Outcome` that notebooks show as a table.

    Where the run was of one data set, `peaks` and `report` are its own.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("one.zarr", n_frames=2, shape=(64, 64), peaks=2)
    >>> done = braggflow.run({"output": {"report": False}}, ["one.zarr"], out="runs")
    >>> done
    <braggflow run: one complete, 2 frames (0 failed), ... peaks>
    >>> done.peaks.sizes["frame"], done[0].status, len(done)
    (2, 'complete', 1)
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> "Outcomes": ...
    def __getitem__(self, index: int | slice) -> "Outcome | Outcomes":
        return Outcomes(self._outcomes[index]) if isinstance(index, slice) else self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __eq__(self, other: object) -> bool:
        return self._outcomes == (other._outcomes if isinstance(other, Outcomes) else other)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    @property
    def status(self) -> str:
        """`complete` where every data set is; else that of the first which is not."""
        return next((outcome.status for outcome in self if outcome.status != "complete"), "complete")

    @property
    def peaks(self) -> xr.Dataset:
        """The peak table of the one data set; raises `InputError` where there are several, or where it has none."""
        return self._only("peaks").open().peaks

    @property
    def report(self) -> Path:
        """The report of the one data set; raises `InputError` where there are several."""
        return self._only("report").open().report

    def _only(self, what: str) -> Outcome:
        if len(self) != 1:
            raise InputError(f"{what}: the run was of {len(self)} data sets; take one, as in outcomes[0].open().{what}")
        return self[0]

    def __repr__(self) -> str:
        lines = [
            f"{outcome.name} {outcome.status}, {outcome.frames:,} frames ({outcome.frames_failed:,} failed), "
            f"{outcome.peaks:,} peaks" + (f": {outcome.message}" if outcome.message else "")
            for outcome in self
        ]
        return f"<braggflow run: {lines[0]}>" if len(lines) == 1 else "\n".join(["<braggflow run>", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(_html_row(outcome) for outcome in self)
        names = ("data set", "status", "frames", "failed", "peaks", "frames/s", "", "")
        head = "".join(f"<th>{name}</th>" for name in names)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_row(outcome: Outcome) -> str:
    report = RunFolder(outcome.folder).report
    link = f'<a href="{escape(report.resolve().as_uri())}">report</a>' if report.exists() else ""
    rate = f"{outcome.frames_per_second:.3g}" if outcome.frames_processed else ""
    cells = [
        *map(escape, (outcome.name, outcome.status)),
        *(f"{n:,}" for n in (outcome.frames, outcome.frames_failed, outcome.peaks)),
        rate,
        link,
        escape(outcome.message),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
