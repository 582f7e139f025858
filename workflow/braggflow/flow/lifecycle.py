"""How a data set is begun and ended, wherever its groups are processed: its folder, its record, its outcome."""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from braggflow.errors import InputError, is_full, not_written
from braggflow.flow.conclusion import failures_of, run_info, what_to_know
from braggflow.flow.data_set import DataSetRun, check_run_folder, only_this, take_up_parts
from braggflow.flow.outcome import Outcome
from braggflow.flow.unchanged import OtherFramesError
from braggflow.pipeline import check_memory
from braggflow.results import begin_run, resume_run, run_lock, write_end_in_place, write_run_info

_KILLED = (
    "the worker process was killed each time it worked on this, perhaps for lack of memory: give each more "
    "(compute.memory_limit), or have fewer (--workers)"
)


def full_disk(work: DataSetRun) -> str:
    """What a user is told where the disk of a data set's results is full."""
    return f"{work.folder.path}: the disk is full; make room and run the same command again, it goes on from here"


def reason_of(error: Exception) -> str:
    """Why a task failed, as it is recorded."""
    # By name, for a run in this process loads no Dask. Its text speaks of keys and addresses, and of logs to look at.
    return _KILLED if type(error).__name__ == "KilledWorker" else f"{type(error).__name__}: {error}"


class Lifecycle:
    """Begins and ends data sets; `versions` are what `run.json` says of packages."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = versions
        self.workers: dict[str, Any] = {}
        """What `run.json` says of the workers."""

    def info(self, work: DataSetRun, status: str) -> dict[str, Any]:
        """The content of `run.json` as things stand."""
        return run_info(work, status, versions=self.versions, workers=self.workers)

    def begin(self, work: DataSetRun, limits: Iterable[tuple[int, int]]) -> Outcome | None:
        """Take the folder, and write down that the run goes on; the outcome of a data set that is refused.

        `limits` are the memory limits (bytes, 0: none) and threads of the processes that will work on it.
        """
        work.started = work.last_part = time.monotonic()
        try:
            with only_this(Path(work.series.path), work.folder.path):
                for limit, threads in limits:
                    check_memory(work.series.path, work.need, limit, threads)
                work.folder.path.mkdir(parents=True, exist_ok=True)
                work.resources.enter_context(run_lock(work.folder))
                # Another run may have been here since this one was prepared.
                check_run_folder(work.folder, work.identity, overwrite=work.config.output.overwrite)
                take_up_parts(work)
                start = resume_run if work.done else begin_run
                start(work.folder, work.config, self.info(work, "running"))
        except InputError as error:
            work.resources.close()
            said = not_written(work.folder.path, error) if is_full(error) else error
            return Outcome(work.name, work.folder.path, "refused", message=str(said))
        return None

    def note(self, work: DataSetRun) -> None:
        """Write down how far a data set is that goes on."""
        write_run_info(work.folder, self.info(work, "running"))

    def ended(self, work: DataSetRun, info: Mapping[str, Any]) -> Outcome:
        """The outcome of a data set whose table was joined."""
        return self._outcome(
            work, info["status"], info["counts"], what_to_know(info), tasks_rerun=info.get("tasks_rerun", 0)
        )

    def without_table(self, work: DataSetRun, error: Exception) -> Outcome:
        """The outcome of a data set whose parts are done, and whose table could not be written."""
        if isinstance(error, OtherFramesError):
            return self.left(work, error)
        info = self.info(work, "partial")
        reason = full_disk(work) if is_full(error) else reason_of(error)
        message = f"the parts are done, but the table could not be written: {reason}"
        self._write(work, info | {"error": message})
        return self._outcome(work, "partial", info["counts"], message)

    def left(self, work: DataSetRun, error: InputError) -> Outcome:
        """The outcome of a data set that cannot go on; parts that may be of other frames are thrown away."""
        if isinstance(error, OtherFramesError):
            shutil.rmtree(work.folder.parts, ignore_errors=True)
            work.done, work.failures = {}, []
        return self.interrupted(work, str(error))

    def interrupted(self, work: DataSetRun, message: str) -> Outcome:
        """The outcome of a data set that is left as it is; how far it is is written down."""
        self._write(work, self.info(work, "interrupted") | ({"error": message} if message else {}))
        counts = {
            "frames": len(work.numbers),
            "frames_failed": len(failures_of(work)),
            "peaks": sum(part.peaks for part in work.done.values()),
        }
        return self._outcome(work, "interrupted", counts, message)

    @staticmethod
    def _write(work: DataSetRun, info: Mapping[str, Any]) -> None:
        """Write down how a data set ends, as far as a full disk lets it: the parts count, whatever run.json says."""
        try:
            write_run_info(work.folder, info)
        except OSError:
            with suppress(OSError, InputError):
                write_end_in_place(work.folder, info)

    @staticmethod
    def _outcome(
        work: DataSetRun, status: str, counts: Mapping[str, Any], message: str, *, tasks_rerun: int = 0
    ) -> Outcome:
        work.resources.close()
        return Outcome(
            work.name,
            work.folder.path,
            status,
            frames=counts["frames"],
            frames_failed=counts["frames_failed"],
            frames_processed=work.processed,
            peaks=counts["peaks"],
            seconds=time.monotonic() - work.started,
            processing_seconds=work.last_part - work.started,
            tasks_rerun=tasks_rerun,
            message=message,
        )
