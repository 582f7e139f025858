"""Data sets in, run folders out: what is asked for, on which cluster, and what became of it."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from distributed import Client

from braggflow import campaign, cluster, config, frames, graph, peaks, prepare, profiles, store
from braggflow.campaign import Follower
from braggflow.config import InputError, RunConfig
from braggflow.outcome import Outcome, Progress
from braggflow.prepare import Work
from braggflow.profiles import Profile
from braggflow.runner import Runner

__all__ = ["Outcome", "Progress", "find_peaks", "run"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 2.0


def run(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    profile: Profile | str | Path | None = None,
    client: Client | None = None,
    follow: str | Path | None = None,
    idle_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Process data sets into `OUT/DATASET/`, taking up what an earlier run of the same settings left.

    `settings` is a configuration, plain data, or the path of a YAML file; `data` (frames stores, folders, patterns,
    list files) and `out` stand above its `data` and `output.folder`. `follow` is a folder whose frames stores are taken
    as they are finished, until Ctrl-C or until none has come for `idle_seconds`. Runs on `client`'s cluster, on that of
    a cluster profile (a path or what `profiles.load` returns), or on a local one. One outcome a data set, in order;
    also written to `OUT/outcomes.jsonl` where there are several. Raises `InputError`, with nothing written, where the
    configuration, the cluster or every data set is refused.
    """
    resolved = _resolve(settings, data, out, follow)
    where = profiles.load(profile) if isinstance(profile, str | Path) else profile
    paths = campaign.expand(resolved.data)
    names = campaign.names(paths)
    follower = Follower(Path(follow)) if follow is not None else None
    source = _Source(resolved, paths, follower, idle_seconds)
    before, first = _first_work(source)
    folder, several = Path(resolved.output.folder), len(paths) > 1 or follower is not None

    def record(outcome: Outcome) -> None:
        if not several or (outcome.status == "complete" and not outcome.seconds):
            return  # a complete one was recorded when it was done
        try:
            campaign.append(folder, {**_recorded(outcome), "path": str(source.paths[outcome.name])})
        except OSError as error:  # run.json says the same of all but those refused: no reason to stop
            logger.warning("%s: cannot be written (%s)", folder / campaign.OUTCOMES, error.strerror)

    if first is None:
        outcomes = before
    else:
        with ExitStack() as stack:
            if client is None and (where is None or where.kind == "local"):
                graph.compile_kernels(graph.open_series(frames.open_frames(Path(first.series.path)), resolved))
            needed = [first.series.path, str(prepare.existing(folder.resolve()))]
            used = (
                cluster.of_client(client, resolved, needed)
                if client is not None
                else stack.enter_context(cluster.open_cluster(where, resolved, needed))
            )
            opened = chain(before, [first], source)
            runner = Runner(used, resolved, opened, total=source.total, record=record, progress=progress)
            outcomes = runner.run()
    unfinished = source.unfinished()
    outcomes = [*outcomes, *source.not_begun(), *unfinished]
    if outcomes and all(outcome.status == "refused" for outcome in outcomes):
        raise InputError("\n".join(outcome.message for outcome in outcomes))
    for outcome in (*(before if first is None else ()), *unfinished):
        record(outcome)
    order = {name: position for position, name in enumerate([*names, *source.paths])}
    return sorted(outcomes, key=lambda outcome: order[outcome.name])


def _resolve(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path],
    out: str | Path | None,
    follow: str | Path | None,
) -> RunConfig:
    if isinstance(settings, str | Path):
        resolved = config.load(settings)
    elif isinstance(settings, RunConfig):
        resolved = settings
    else:
        resolved = config.resolve(dict(settings))
    if data:
        resolved = resolved.model_copy(update={"data": tuple(map(str, data))})
    if out is not None:
        resolved = resolved.model_copy(update={"output": resolved.output.model_copy(update={"folder": str(out)})})
    if not resolved.data and follow is None:
        raise InputError("data: no data set is named, neither in the configuration nor on the command line")
    return resolved


class _Source:
    """Data sets as the runner asks for them: opened work, the outcome of one that needs none, None for nothing yet."""

    def __init__(
        self, resolved: RunConfig, paths: Sequence[Path], follower: Follower | None, idle_seconds: float | None
    ) -> None:
        self.resolved, self.waiting, self.follower = resolved, list(paths), follower
        self.alone = len(paths) == 1 and follower is None
        self._named = {os.path.realpath(path) for path in paths}
        self.idle_seconds = idle_seconds
        self.given = 0
        self.paths: dict[str, Path] = {}
        """Those given out, by name."""
        self.model = None
        if resolved.localise.method != "none":
            from braggflow import localise

            self.model = localise.identity(resolved.localise, resolved.patches.size)
        self._polled = self._last_came = time.monotonic()

    def total(self) -> int:
        """Data sets known so far."""
        return self.given + len(self.waiting)

    def __iter__(self) -> Iterator[Work | Outcome | None]:
        return self

    def __next__(self) -> Work | Outcome | None:
        if not self.waiting and self.follower is not None:
            self._poll(self.follower)
        if self.waiting:
            return self._open(self.waiting.pop(0))
        if self.follower is None or self._idle():
            raise StopIteration
        return None

    def _poll(self, follower: Follower) -> None:
        now = time.monotonic()
        if now - self._polled < _POLL_SECONDS:
            return
        self._polled = now
        self.waiting += [path for path in follower.poll() if not self._is_named(path)]
        self._last_came = max(self._last_came, follower.settled)

    def _is_named(self, path: Path) -> bool:
        """Whether a store of the followed folder is one that the user named too."""
        return os.path.realpath(path) in self._named

    def _idle(self) -> bool:
        return self.idle_seconds is not None and self._polled - self._last_came > self.idle_seconds

    def _open(self, path: Path) -> Work | Outcome:
        self.given += 1
        name = campaign.name(path)
        folder = Path(self.resolved.output.folder) / name
        if name in self.paths:
            return Outcome(name, folder, "refused", message=f"data: {path}: another data set is named {name} too")
        self.paths[name] = path
        try:
            work = prepare.prepare(name, path, self.resolved, self.model)
        except (InputError, OSError) as error:
            if self.alone:
                raise
            return Outcome(name, folder, "refused", message=str(error))
        if not prepare.take_up(work):
            return work
        counts = store.read_info(work.folder)["counts"]
        return Outcome(name, work.folder.path, "complete", frames=counts["frames"], peaks=counts["peaks"])

    def not_begun(self) -> list[Outcome]:
        """Data sets that the run ended before."""
        self.paths |= {campaign.name(path): path for path in self.waiting}
        folder = Path(self.resolved.output.folder)
        return [
            Outcome(name, folder / name, "interrupted", message="was not begun")
            for name in map(campaign.name, self.waiting)
        ]

    def unfinished(self) -> list[Outcome]:
        """Stores of the followed folder that were not finished, and so not taken."""
        found = self.follower.waiting() if self.follower is not None else {}
        waiting = {path: why for path, why in found.items() if not self._is_named(path)}
        self.paths |= {campaign.name(path): path for path in waiting}
        return [
            Outcome(
                campaign.name(path),
                Path(self.resolved.output.folder) / campaign.name(path),
                "refused",
                message=f"{path}: was not taken: {why}. Once it is whole, name it on the command line",
            )
            for path, why in waiting.items()
        ]


def _first_work(source: _Source) -> tuple[list[Outcome], Work | None]:
    """The first data set with work to do, before which no cluster is needed, and what became of those before it."""
    outcomes = list[Outcome]()
    for item in source:
        if isinstance(item, Work):
            return outcomes, item
        if item is None:
            time.sleep(_POLL_SECONDS)
        else:
            outcomes.append(item)
    return outcomes, None


def _recorded(outcome: Outcome) -> dict[str, Any]:
    names = ("status", "message", "frames", "frames_failed", "peaks", "seconds")
    return {"dataset": outcome.name, **{name: getattr(outcome, name) for name in names}}


def find_peaks(images: "xr.Dataset | xr.DataArray | np.ndarray[Any, Any]", **sections: Mapping[str, Any]) -> xr.Dataset:
    """Peaks of one array, in this process: for a notebook.

    `images` is (frame, y, x) or one frame (y, x); a DataArray's `frame` coordinate and per-frame coordinates are kept.
    A Dataset, as `open_frames` returns, brings its mask, dark, flat and saturation too; an array alone has none.
    Sections are those of the configuration: `find_peaks(images, detect={"minval": 20, "minscore": 10})`. Returns the
    peak table as `open_peaks` does; raises `InputError` for bad settings or where a frame cannot be processed.
    """
    settings = config.resolve(sections, source="find_peaks")
    data = frames.from_array(images)
    opened = graph.open_series(data, settings)
    found = [graph.search(opened, position, position + 1) for position in range(len(opened.numbers))]
    failures = [failure for chunk in found for failure in chunk.failures]
    if failures:
        raise InputError("; ".join(f"frame {failure['frame']}: {failure['reason']}" for failure in failures[:5]))
    table, _ = graph.complete(settings, found, graph.locate(settings, found)) if found else (peaks.empty(), {})
    coords = data[["frame"]].isel(frame=opened.positions).load()
    return store.to_dataset(table, coords, [], {"source": "array"})
