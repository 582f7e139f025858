"""What one run has done so far, counted for its progress, its window and its demand."""

from collections.abc import Iterable

from braggflow.cluster import Demand
from braggflow.flow.data_set import DataSetRun
from braggflow.pipeline import MIN_GROUPS
from braggflow.results import PartSummary


class Tally:
    """Counts of a run whose tasks are aimed to last `task_seconds`; `on_gpu`: the network has workers of its own."""

    def __init__(self, task_seconds: float, *, on_gpu: bool) -> None:
        self.data_sets = self.groups = 0
        """Opened so far."""
        self.frames = self.frames_before = self.frames_processed = self.frames_failed = self.peaks = 0
        self._on_gpu, self._measured = on_gpu, 0
        self._seconds = {"cpu": task_seconds, "gpu": 0.0}
        """Seconds that a group takes on workers of each kind: the mean of those done, and at first what is aimed at."""

    def opened(self, work: DataSetRun) -> None:
        """Count a data set, and what an earlier run has done of it."""
        self.data_sets += 1
        self.groups += len(work.todo)
        self.frames += len(work.numbers)
        self.frames_before += sum(part.stop - part.first for part in work.done.values())
        self.peaks += sum(part.peaks for part in work.done.values())

    def made(self, part: PartSummary) -> None:
        """Count what a group gave, and the time that it took."""
        self.peaks += part.peaks
        self.frames_failed += len(part.failures)
        network = part.seconds.get("locate", 0.0) if self._on_gpu else 0.0
        took = {"cpu": sum(part.seconds.values()) - network, "gpu": network}
        self._measured += 1
        self._seconds = {
            kind: took[kind] if self._measured == 1 else before + (took[kind] - before) / self._measured
            for kind, before in self._seconds.items()
        }

    def demand(self, active: Iterable[DataSetRun], *, unopened: int, others: int) -> Demand:
        """The work that is left: groups, and `others`, tasks of another kind.

        A data set that is not opened yet counts as much as the mean of those that were.
        """
        left = sum(len(work.todo) - work.finished for work in active)
        left += int((self.groups / self.data_sets if self.data_sets else MIN_GROUPS) * unopened)
        return Demand(left + others, self._seconds["cpu"], self._seconds["gpu"])
