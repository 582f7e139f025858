"""A run in this process, for little work: the same parts, record and table as on workers, and no worker is started."""

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType

from braggflow.errors import InputError, is_full
from braggflow.flow.conclusion import conclude, failures_of
from braggflow.flow.data_set import DataSetRun
from braggflow.flow.lifecycle import Lifecycle, full_disk
from braggflow.flow.outcome import Outcome, Progress
from braggflow.flow.tally import Tally
from braggflow.flow.tasks import process_group
from braggflow.pipeline import Group
from braggflow.version import versions

#: Work that takes no longer than this on one core is done in the process that asks for it: starting workers takes
#: longer (docs/benchmarks.md).
MOST_SECONDS = 5.0
_TASKS = MappingProxyType({"process here": 1})


class _FullDiskError(Exception):
    """There is no room for a part."""


class InProcess:
    """One run over all data sets that `source` gives, one after the other; arguments as of `Dispatcher`."""

    def __init__(
        self,
        source: Iterator[DataSetRun | Outcome | None],
        *,
        total: Callable[[], int],
        record: Callable[[Outcome], None],
        progress: Callable[[Progress], None] | None,
        notes: Sequence[str] = (),
        task_seconds: float,
    ) -> None:
        self.source, self.total, self.record, self.progress = source, total, record, progress
        self.notes = notes
        self.life, self.tally = Lifecycle(versions()), Tally(task_seconds, on_gpu=False)
        self.life.workers = {"threads": 1, "cpu": False, "gpu": False}
        self.outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        """Work until every data set is concluded. Ctrl-C leaves a state that the same run takes up."""
        try:
            for item in self.source:
                if isinstance(item, Outcome):
                    self._end(item)
                elif item is not None and not self._processed(item):
                    break
        except KeyboardInterrupt:
            if not self.outcomes:
                raise
        return self.outcomes

    def _processed(self, work: DataSetRun) -> bool:
        """Do all of a data set; False where Ctrl-C ended it."""
        self._report(work)
        refused = self.life.begin(work, ())
        if refused is not None:
            self._end(refused)
            return True
        self.tally.opened(work)
        try:
            for group in work.todo:
                self._report(work)
                self._process(work, group)
            self._report(work)
            outcome = self._concluded(work)
        except KeyboardInterrupt:
            self._end(self.life.interrupted(work, ""))
            return False
        except _FullDiskError as error:
            self._end(self.life.interrupted(work, str(error)))
            return True
        except InputError as error:
            self._end(self.life.left(work, error))
            return True
        self._end(outcome)
        self._report(work, ended=True)
        return True

    def _process(self, work: DataSetRun, group: Group) -> None:
        """One group, tried again as a task on a worker would be."""
        frames, retries = group.stop - group.first, work.config.compute.retries
        for retry in range(retries + 1):
            try:
                part = process_group(work.series, group, {}, _TASKS)
            except InputError:
                raise  # of the whole series, as where its frames are not those of the run: no group can be processed
            except Exception as error:
                if is_full(error):  # the others would find no room either
                    raise _FullDiskError(full_disk(work)) from error
                if retry == retries:
                    self.tally.frames_failed += frames
                    work.group_failed(group, f"{type(error).__name__}: {error}")
            else:
                work.done[group.first, group.stop] = part
                self.tally.made(part)
                break
        work.part_made(frames)
        self.tally.frames_processed += frames

    def _concluded(self, work: DataSetRun) -> Outcome:
        info = self.life.info(work, "partial" if failures_of(work) else "complete")
        try:
            info = conclude(
                work.folder,
                list(work.done.values()),
                work.coords,
                info,
                series=work.series,
                stamp=work.stamp,
                report=work.config.output.report,
            )
        except Exception as error:  # noqa: BLE001 - as on a worker: the parts are done, and the outcome says what ailed
            return self.life.without_table(work, error)
        return self.life.ended(work, info)

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.record(outcome)

    def _report(self, work: DataSetRun, *, ended: bool = False) -> None:
        if self.progress is not None:
            self.progress(
                self.tally.progress(
                    () if ended else (work,),
                    ended=len(self.outcomes),
                    total=self.total(),
                    dataset=work.name,
                    notes=self.notes,
                )
            )
