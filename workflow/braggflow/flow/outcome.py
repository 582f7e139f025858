"""What callers are told: how far a run is, and what became of each data set."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; given to the `progress` callback about twice a second and after each finished group."""

    dataset: str
    """The one that last made a step; "" before the first."""
    datasets_done: int
    datasets_total: int
    frames_done: int
    """Frames done in the data sets opened so far, also by earlier runs."""
    frames_total: int
    """Frames of the data sets opened so far."""
    frames_before: int
    """Done by earlier runs: not part of this run's rate."""
    frames_failed: int
    peaks: int
    dashboard: str
    cluster: str
    """Workers there are and jobs that wait; "" where their number is fixed."""
    notes: tuple[str, ...]
    """What the user should know, so far."""
    share: float
    """Share of the work that is done, 0 to 1, each data set counting the same; falls only where `follow` finds more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one data set."""

    name: str
    folder: Path
    status: str
    """complete, partial (some frames failed), interrupted, or refused (nothing was written)."""
    frames: int = 0
    frames_failed: int = 0
    frames_processed: int = 0
    """Frames processed in this run; 0 where all was done before."""
    peaks: int = 0
    seconds: float = 0.0
    tasks_rerun: int = 0
    """Tasks that had to be done again, because their worker was lost or a file could not be read."""
    message: str = ""
