"""Data sets in turn: each opened when its turn comes, those of a followed folder as they are finished."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import xarray as xr

from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.flow.data_set import DataSetRun, only_this, prepare_data_set, refuse_full_disk, take_up_parts
from braggflow.flow.outcome import Outcome
from braggflow.flow.unchanged import store_stamp
from braggflow.frames import Follower, data_set_name, open_frames
from braggflow.results import read_run_info, remove_unfinished, run_lock

POLL_SECONDS = 2.0


class DataSetQueue:
    """Data sets as the dispatcher asks for them: one opened, the outcome of one that is done, or None for none yet."""

    def __init__(
        self,
        resolved: RunConfig,
        paths: Sequence[Path],
        follower: Follower | None,
        idle_seconds: float | None,
        opened: Callable[[Path, xr.Dataset, int], None] | None = None,
    ) -> None:
        self.resolved, self.waiting, self.follower = resolved, list(paths), follower
        self.alone = len(paths) == 1 and follower is None
        self._named = {os.path.realpath(path) for path in paths}
        self.idle_seconds, self.opened = idle_seconds, opened
        self.given = 0
        self.paths: dict[str, Path] = {}
        """Paths of the data sets given out, by name."""
        self.model = None
        if resolved.locate.asks_network:
            from braggflow.locate import network_identity

            self.model = network_identity(resolved.locate, resolved.patches.size)
        self._polled = self._last_came = time.monotonic()

    def total(self) -> int:
        """Data sets known so far."""
        return self.given + len(self.waiting)

    def __iter__(self) -> Iterator[DataSetRun | Outcome | None]:
        return self

    def __next__(self) -> DataSetRun | Outcome | None:
        if not self.waiting and self.follower is not None:
            self._poll(self.follower)
        if self.waiting:
            return self._open(self.waiting.pop(0))
        if self.follower is None or self._idle():
            raise StopIteration
        return None

    def _poll(self, follower: Follower) -> None:
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return
        self._polled = now
        self.waiting += [path for path in follower.poll() if not self._is_named(path)]
        self._last_came = max(self._last_came, follower.settled)

    def _is_named(self, path: Path) -> bool:
        """Whether a store of the followed folder is one that the user named too."""
        return os.path.realpath(path) in self._named

    def _idle(self) -> bool:
        return self.idle_seconds is not None and self._polled - self._last_came > self.idle_seconds

    def _open(self, path: Path) -> DataSetRun | Outcome:
        self.given += 1
        name = data_set_name(path)
        folder = Path(self.resolved.output.folder) / name
        if name in self.paths:
            return Outcome(name, folder, "refused", message=f"data: {path}: another data set is named {name} too")
        self.paths[name] = path
        try:
            with only_this(path, folder):
                stamp = store_stamp(path)
                data = open_frames(path)
                work = prepare_data_set(name, path, data, self.resolved, self.model, stamp=stamp)
                ended = _ended(work)
                if ended is None:
                    refuse_full_disk(work)
        except InputError as error:
            if self.alone:
                raise
            return Outcome(name, folder, "refused", message=str(error))
        if ended is None and self.opened is not None:
            self.opened(path, data, self.total())
        return work if ended is None else ended

    def not_begun(self) -> list[Outcome]:
        """Data sets that the run ended before."""
        self.paths |= {data_set_name(path): path for path in self.waiting}
        folder = Path(self.resolved.output.folder)
        return [
            Outcome(name, folder / name, "interrupted", message="was not begun")
            for name in map(data_set_name, self.waiting)
        ]

    def unfinished(self) -> list[Outcome]:
        """Stores of the followed folder that were not finished, and so not taken."""
        found = self.follower.waiting() if self.follower is not None else {}
        waiting = {path: why for path, why in found.items() if not self._is_named(path)}
        self.paths |= {data_set_name(path): path for path in waiting}
        return [
            Outcome(
                data_set_name(path),
                Path(self.resolved.output.folder) / data_set_name(path),
                "refused",
                message=f"{path}: was not taken: {why}. Once it is whole, name it on the command line",
            )
            for path, why in waiting.items()
        ]


def _ended(work: DataSetRun) -> Outcome | None:
    """The outcome of a data set of which nothing is left to do; None for any other."""
    if not take_up_parts(work):
        return None
    counts = read_run_info(work.folder).get("counts")
    if not isinstance(counts, dict) or {int} != {*map(type, (counts.get("frames"), counts.get("peaks")))}:
        return None  # the table is joined again, and the record made anew
    with suppress(InputError, OSError), run_lock(work.folder):  # not where another run is at work
        remove_unfinished(work.folder)
    return Outcome(work.name, work.folder.path, "complete", frames=counts["frames"], peaks=counts["peaks"])


def first_work(source: DataSetQueue) -> tuple[list[Outcome], DataSetRun | None]:
    """The first data set with work to do, before which no cluster is needed, and what became of those before it."""
    outcomes = list[Outcome]()
    for item in source:
        if isinstance(item, DataSetRun):
            return outcomes, item
        if item is None:
            time.sleep(POLL_SECONDS)
        else:
            outcomes.append(item)
    return outcomes, None
