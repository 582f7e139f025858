"""What one run has done so far, counted for its progress, its window and its demand."""

import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from braggflow.flow.data_set import DataSetRun
from braggflow.flow.outcome import Progress
from braggflow.pipeline import MIN_GROUPS
from braggflow.results import PartSummary

if TYPE_CHECKING:
    from braggflow.cluster import Demand


#: Time between two looks at what the frames so far show.
WATCH_SECONDS = 5.0


class Tally:
    """Counts of a run whose tasks are aimed to last `task_seconds`; `on_gpu`: workers with GPUs locate and fit."""

    def __init__(self, task_seconds: float, *, on_gpu: bool) -> None:
        self.data_sets = self.groups = 0
        """Opened so far."""
        self.frames = self.frames_before = self.frames_processed = self.frames_failed = self.peaks = 0
        self._on_gpu, self._measured = on_gpu, 0
        self._began = self._last_part = self._watched = 0.0
        self._seconds = {"cpu": task_seconds, "gpu": 0.0}
        """Seconds that a group takes on workers of each kind: the mean of those done, and at first what is aimed at."""

    @property
    def seconds(self) -> float:
        """Time from the beginning of the first data set to the last part."""
        return self._last_part - self._began

    def opened(self, work: DataSetRun) -> None:
        """Count a data set, and what an earlier run has done of it."""
        if not self.data_sets:
            self._began = self._last_part = work.started
        self.data_sets += 1
        self.groups += len(work.todo)
        self.frames += len(work.numbers)
        self.frames_before += sum(part.stop - part.first for part in work.done.values())
        self.peaks += sum(part.peaks for part in work.done.values())

    def made(self, part: PartSummary) -> None:
        """Count what a group gave, and the time that it took."""
        self._last_part = time.monotonic()
        self.peaks += part.peaks
        self.frames_failed += len(part.failures)
        gpu = sum(part.seconds.get(stage, 0.0) for stage in ("locate", "fit_on_gpu")) if self._on_gpu else 0.0
        took = {"cpu": sum(part.seconds.values()) - gpu, "gpu": gpu}
        self._measured += 1
        self._seconds = {
            kind: took[kind] if self._measured == 1 else before + (took[kind] - before) / self._measured
            for kind, before in self._seconds.items()
        }

    def progress(
        self,
        active: Collection[DataSetRun],
        *,
        ended: int,
        total: int,
        dataset: str = "",
        stage: str = "",
        dashboard: str = "",
        cluster: str = "",
        notes: Sequence[str] = (),
    ) -> Progress:
        """How far the run is, where of `total` data sets `ended` have ended and `active` are under way."""
        self._watch(active)
        underway = sum(1 - (len(work.todo) - work.finished) / len(work.groups) for work in active)
        if not stage and active and all(work.finished == len(work.todo) for work in active):
            stage = f"joining the table{' and making the report' * next(iter(active)).config.output.report}"
        return Progress(
            dataset=dataset,
            datasets_done=ended,
            datasets_total=total,
            frames_done=self.frames_before + self.frames_processed,
            frames_total=self.frames,
            frames_before=self.frames_before,
            frames_failed=self.frames_failed,
            peaks=self.peaks,
            dashboard=dashboard,
            cluster=cluster,
            stage=stage,
            seconds=self.seconds,
            notes=(*notes, *(told for work in active for told in work.alarms.values())),
            share=round((ended + underway) / max(1, total), 12),  # sums round
        )

    def _watch(self, active: Iterable[DataSetRun]) -> None:
        """Have the data sets under way looked at, every few seconds: that costs milliseconds for each 1,000 frames."""
        if time.monotonic() - self._watched >= WATCH_SECONDS:
            for work in active:
                work.watch()
            self._watched = time.monotonic()

    def demand(self, active: Iterable[DataSetRun], *, unopened: int, others: int) -> "Demand":
        """The work that is left: groups, and `others`, tasks of another kind.

        A data set that is not opened yet counts as much as the mean of those that were.
        """
        left = sum(len(work.todo) - work.finished for work in active)
        left += int((self.groups / self.data_sets if self.data_sets else MIN_GROUPS) * unopened)
        from braggflow.cluster import Demand  # loads Dask, which a run in this process needs not

        return Demand(left + others, self._seconds["cpu"], self._seconds["gpu"])
