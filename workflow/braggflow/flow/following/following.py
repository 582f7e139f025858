"""A series that is still being written, processed as its frames arrive."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.errors import InputError, is_full
from braggflow.flow.data_set import (
    DataSetRun,
    check_run_folder,
    is_growing,
    known_run,
    only_this,
    prepare_data_set,
    refuse_full_disk,
)
from braggflow.flow.following.handing_over import hand_over
from braggflow.flow.following.hands import Here, Result, Workers
from braggflow.flow.following.shown import Shown
from braggflow.flow.following.stamp_record import StampRecord
from braggflow.flow.lifecycle import Lifecycle, full_disk
from braggflow.flow.outcome import Outcome, Progress
from braggflow.flow.tasks import TaskSeries
from braggflow.flow.unchanged import NO_STORE, OtherFramesError, OtherSourcesError
from braggflow.frames import Arrived, GrowingSeries, data_set_name, frames_looked_at, growing_data
from braggflow.pipeline import Group, check_memory, compile_ahead, frames_in
from braggflow.results import RunFolder, begin_run, look_at_part, part_files, resume_run, run_lock
from braggflow.version import versions

if TYPE_CHECKING:
    from braggflow.cluster import Cluster

#: How often new frames are looked for, and how long is waited between two steps.
LOOK_SECONDS, _STEP_SECONDS = 0.2, 0.02
#: A group lasts about so long at most, and has so many bytes of frames.
_GROUP_SECONDS, _GROUP_BYTES = 0.5, 64 * 2**20
#: Frames are taken for what so many of the first show, or those that came within so many seconds of the first.
_FIRST_FRAMES, _FIRST_SECONDS = 16, 1.0
#: This process does the work alone until frames have waited for so long.
_BEHIND_SECONDS = 2.0
#: How often a group is tried where what fails may pass; after that it is left to the end.
_TRIES = 3


class _Ended(Exception):  # noqa: N818 - no error
    """Following ends before the series does; with what the user is told."""


def follow_series(
    path: Path,
    resolved: RunConfig,
    *,
    idle_seconds: float | None,
    workers: "Callable[[], Cluster]",
    at_once: bool,
    progress: Callable[[Progress], None] | None,
    opened: Callable[[Path, xr.Dataset, int], None] | None,
) -> Outcome | None:
    """Process a series as it is written, until it is whole; the outcome where that was broken off before.

    None: the folder is that of a run of the whole series, of which a rest may be left to do.

    `workers` starts a cluster: `at_once`, or when this process does not keep up. `idle_seconds` without a new frame
    mean that the series is whole. Raises `InputError` where nothing was begun.
    """
    name = data_set_name(path)
    folder = RunFolder(Path(resolved.output.folder).resolve() / name)
    info = known_run(folder)
    if info is not None and not is_growing(info) and not resolved.output.overwrite:
        return None  # it is over, or was never followed
    following = _Following(name, path, folder, resolved, idle_seconds, progress)
    try:
        with only_this(path, folder.path):
            following.prepare(workers if at_once else None, opened)
        return following.run(workers)
    finally:
        following.close()


class _Following:
    """One series that is followed."""

    def __init__(
        self,
        name: str,
        path: Path,
        folder: RunFolder,
        resolved: RunConfig,
        idle_seconds: float | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.name, self.path, self.folder, self.resolved = name, path, folder, resolved
        self.idle_seconds = idle_seconds
        self.series = GrowingSeries(path, promised=resolved.follow.frames)
        self.life = Lifecycle(versions())
        self.hands: Here | Workers = Here()
        self.shown = Shown(progress, resolved.follow.peaks)
        self.model: Mapping[str, Any] | None = None
        if resolved.locate.asks_network:
            from braggflow.locate import network_identity

            self.model = network_identity(resolved.locate, resolved.patches.size)
        self.taken = np.zeros(0, bool)
        """(frame,) Which of the selected frames were seen to arrive."""
        self.waiting: dict[int, float] = {}
        """Positions of selected frames that wait to be processed, and when they were seen."""
        self.seen: dict[Group, float] = {}
        """Groups under way, and when the first of their frames was seen."""
        self.failed: dict[int, int] = {}
        """How often the group of a frame failed."""
        self.late, self.killed = 0, False
        self.news, self.look = time.monotonic(), 0

    # ---- the beginning ----

    def prepare(
        self, workers: "Callable[[], Cluster] | None", opened: Callable[[Path, xr.Dataset, int], None] | None
    ) -> None:
        """Wait for the first frames; take the folder; find what an earlier run has done."""
        self.shown.stage("loading and compiling")
        compile_ahead()
        if workers is not None:
            self._start(workers)
        self.news = time.monotonic()
        info = known_run(self.folder)
        known = info["identity"]["frames"]["looked_at"] if info is not None and is_growing(info) else ()
        looked_at = self._first_frames([int(position) for position in known])
        data = growing_data(self.path, looked_at, anew=True)
        self.work = self._prepared(data, tuple(looked_at))
        self._check_memory()
        refuse_full_disk(self.work)
        most = frames_in(min(_GROUP_SECONDS, self.resolved.compute.task_seconds), data["frames"].shape[1:])
        of_memory = _GROUP_BYTES // (data["frames"].dtype.itemsize * int(np.prod(data["frames"].shape[1:])))
        self.most = max(1, min(int(most), of_memory))
        if opened is not None:
            opened(self.path, data, 1)
        self._begin()

    def _first_frames(self, known: Sequence[int]) -> list[int]:
        """Positions of the frames by which the series is described: those `known`, or some of the first that come."""
        came: float | None = None
        while True:
            arrived, why = self._look()
            there = np.flatnonzero(arrived.there) if arrived is not None else np.zeros(0, np.int64)
            if known and arrived is not None and len(arrived.there) > max(known) and arrived.there[known].all():
                return list(known)
            if len(there):
                came = came or time.monotonic()
                enough = len(there) >= _FIRST_FRAMES or time.monotonic() - came > _FIRST_SECONDS
                if not known and (enough or (arrived is not None and arrived.whole)):
                    found: list[int] = there[frames_looked_at(len(there))].tolist()
                    return found
            self.shown.stage(f"waiting for the first frames of {self.path.name}")
            if self._idle() or (arrived is not None and arrived.whole):
                raise InputError(f"--follow {self.path}: no frame came" + (f" ({why})" if why else ""))
            self.hands.tell(1)
            time.sleep(LOOK_SECONDS)

    def _prepared(self, data: xr.Dataset, looked_at: tuple[int, ...]) -> DataSetRun:
        return prepare_data_set(
            self.name, self.path, data, self.resolved, self.model, stamp=NO_STORE, looked_at=looked_at
        )

    def _begin(self) -> None:
        """Take the folder and what is done of this run."""
        work = self.work
        work.started = work.last_part = time.monotonic()
        work.groups = []
        work.folder.path.mkdir(parents=True, exist_ok=True)
        work.resources.enter_context(run_lock(work.folder))
        check_run_folder(work.folder, work.identity, overwrite=self.resolved.output.overwrite)
        info = known_run(work.folder)
        same = info is not None and info["run"] == work.series.run
        if not same:
            work.folder.stamps.unlink(missing_ok=True)
        self.stamps = StampRecord(work.folder.stamps, self.path)
        if info is not None and same:
            self.late = int(info.get("following", {}).get("late", 0))
            self._take_up()
        work.following = self._record()
        (resume_run if same else begin_run)(work.folder, work.config, self.life.info(work, "running"))

    def _take_up(self) -> None:
        """Keep the parts of an earlier process whose frames are still the same; remove the others."""
        work, changed = self.work, self.stamps.changed()
        for file in part_files(work.folder):
            found = look_at_part(file)
            if found is None or found[0] != work.series.run or found[1].failures:
                file.unlink()
                continue
            part = found[1]
            positions = {self._in_series(position) for position in range(part.first, part.stop)}
            if positions & changed or not positions <= self.stamps.known.keys():
                file.unlink()
                continue
            group = Group(part.first, part.stop, ((part.first, part.stop),))
            work.groups.append(group)
            work.done[part.first, part.stop] = part
            self._extend(part.stop)
            self.taken[part.first : part.stop] = True
            self.shown.add(work.folder, part)

    # ---- while frames come ----

    def run(self, workers: "Callable[[], Cluster]") -> Outcome | None:
        """Process frames until the series is whole, and hand over; the outcome where that was broken off."""
        work = self.work
        try:
            why = self._until_whole(workers)
            self.shown.stage(f"{self.path.name} is whole: {why}")
            work.following = self._record() | {"ended": why}
            hand_over(work, self.resolved, self.model, self.stamps, killed=self.killed)
        except KeyboardInterrupt:
            return self._interrupted("")
        except _Ended as ended:
            return self._interrupted(str(ended))
        except OtherFramesError as error:
            self.hands.cancel()
            return self.life.left(work, error)
        except InputError as error:
            return self._interrupted(str(error))
        self.shown.page(work, self._record(), "is whole", ended=True)
        return None

    def _interrupted(self, message: str) -> Outcome:
        self.hands.cancel()
        self.work.following = self._record()
        self.shown.page(self.work, self.work.following, "was broken off; the same command goes on", ended=True)
        return self.life.interrupted(self.work, message)

    def _until_whole(self, workers: "Callable[[], Cluster]") -> str:
        """Process what arrives; why nothing more will come, once all that came is processed."""
        next_look, why = 0.0, ""
        while not (why and not self.waiting and not self.hands.busy):
            self._take_finished()
            if not why and time.monotonic() >= next_look:
                began = time.monotonic()
                why = self._look_for_more()
                next_look = time.monotonic() + max(LOOK_SECONDS, time.monotonic() - began)
            self._submit()
            if isinstance(self.hands, Here) and self._behind():
                self._start(workers)
                self._check_memory()
            self.hands.tell(len(self.waiting))
            self._show()
            if not self.hands.free() or not self.waiting:
                time.sleep(_STEP_SECONDS)
        return why

    def _look(self) -> tuple[Arrived | None, str]:
        """What a look shows, or why there is nothing to be seen: also where a writer is in the middle of something."""
        try:
            return self.series.look(), ""
        except InputError as error:
            return None, str(error)
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            return None, f"{type(error).__name__}: {error}"

    def _look_for_more(self) -> str:
        """Have the frames that arrived since wait for their turn; why nothing more will come, if so."""
        arrived, _ = self._look()
        if arrived is None:
            return self._idle()
        chosen = self._selected(len(arrived.there))
        self.work.numbers = arrived.numbers[chosen].tolist()
        self._extend(len(chosen))
        new = np.flatnonzero(arrived.there[chosen] & ~self.taken[: len(chosen)])
        if len(new):
            by_place = {int(chosen[position]): int(position) for position in new}
            stamped = [by_place[place] for place in self.stamps.add(list(by_place))]
            self._arrived(np.array(sorted(stamped), np.int64))
        return arrived.whole or self._idle()

    def _arrived(self, new: NDArray[np.int64]) -> None:
        """Take frames at these positions, in order, as arrived."""
        if not len(new):
            return
        self.news = time.monotonic()
        before = np.flatnonzero(self.taken)
        self.late += int(np.count_nonzero(new < before[-1])) if len(before) else 0
        self.taken[new] = True
        self.waiting |= dict.fromkeys(new.tolist(), self.news)
        self.look = time.time_ns()  # never one of an earlier run, whose opened series this process may still hold

    def _submit(self) -> None:
        """Give out as many groups of waiting frames as there is room for, the first frames first."""
        waiting = np.array(sorted(self.waiting), np.int64)
        runs = np.split(waiting, np.flatnonzero(np.diff(waiting) != 1) + 1) if len(waiting) else []
        for run in runs:
            for at in range(0, len(run), self.most):
                if self.hands.free() <= 0:
                    return
                first, stop = int(run[at]), int(run[min(at + self.most, len(run)) - 1]) + 1
                group = Group(first, stop, ((first, stop),))
                self.seen[group] = min(self.waiting.pop(position) for position in range(first, stop))
                self.work.groups.append(group)
                self.hands.submit(self._as_of_now(), group)

    def _take_finished(self) -> None:
        for group, result in self.hands.finished():
            self._take(group, result)

    def _take(self, group: Group, result: Result) -> None:
        work, seen = self.work, self.seen.pop(group)
        if not isinstance(result, Exception):
            work.done[group.first, group.stop] = result
            work.part_made(group.stop - group.first)
            self.shown.add(work.folder, result, delay=time.monotonic() - seen)
            return
        work.groups.remove(group)
        if isinstance(result, OtherSourcesError | OtherFramesError):
            raise result
        if is_full(result):
            raise _Ended(full_disk(work)) from result
        self.killed |= type(result).__name__ == "KilledWorker"
        self.failed[group.first] = self.failed.get(group.first, 0) + 1
        if self.failed[group.first] < _TRIES and not self.killed:
            self.waiting |= dict.fromkeys(range(group.first, group.stop), seen)

    def _behind(self) -> bool:
        return bool(self.waiting) and time.monotonic() - min(self.waiting.values()) > _BEHIND_SECONDS

    def _start(self, workers: "Callable[[], Cluster]") -> None:
        self._take_finished()
        self.shown.stage("starting workers")
        self.hands = Workers(workers(), retries=self.resolved.compute.retries)

    def _check_memory(self) -> None:
        """Raise `InputError` where a worker has too little for this series."""
        for limit, threads in self.hands.kinds():
            check_memory(self.work.series.path, self.work.need, limit, threads)

    def _idle(self) -> str:
        """That no frame has come for so long that none will, in words; "" where one may."""
        if self.idle_seconds is None or time.monotonic() - self.news <= self.idle_seconds:
            return ""
        return f"no frame came for {self.idle_seconds:g} s"

    # ---- what is known ----

    def _selected(self, n_frames: int) -> NDArray[np.int64]:
        frames = self.resolved.frames
        return np.arange(n_frames)[frames.start : frames.stop : frames.step]

    def _in_series(self, position: int) -> int:
        """The position in the series of a selected frame."""
        return self.resolved.frames.start + position * self.resolved.frames.step

    def _extend(self, n_frames: int) -> None:
        more = max(0, n_frames - len(self.taken))
        self.taken = np.concatenate([self.taken, np.zeros(more, bool)])

    def _as_of_now(self) -> TaskSeries:
        return replace(self.work.series, look=self.look)

    def _record(self) -> dict[str, Any]:
        """What run.json says of following."""
        return {"late": self.late, "seconds_to_peaks": self.shown.median_delay()}

    def _show(self) -> None:
        self.life.workers = dict(self.hands.workers)
        if self.shown.due():
            self.work.groups.sort(key=lambda group: group.first)
            self.work.following = self._record()
            self.shown.page(self.work, self.work.following, "is being written")
            with suppress(OSError):  # on a full disk the next part says so
                self.life.note(self.work)
        self.shown.progress(self.work, self.hands.summary, self.hands.dashboard)

    def close(self) -> None:
        """Give the folder back."""
        if hasattr(self, "work"):
            self.work.resources.close()
