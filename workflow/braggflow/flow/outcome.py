"""What callers are told: how far a run is, and what became of each data set."""

from dataclasses import dataclass
from pathlib import Path


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
    >>> with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
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
    """Address of the Dask dashboard."""
    cluster: str
    """Workers there are and jobs that wait; "" where their number is fixed."""
    notes: tuple[str, ...]
    """What the user should know, so far."""
    share: float
    """Share of the work that is done, 0 to 1, each data set counting the same; falls only where `follow` finds more."""


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
    tasks_rerun: int = 0
    """Tasks that had to be done again, because their worker was lost or a file could not be read."""
    message: str = ""
    """What the user should know of it, as why it was refused; "" where there is nothing to say."""
