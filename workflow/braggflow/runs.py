"""Data sets in, run folders out: resume, progress, outcome.

Groups of all data sets go through one bounded window in order, so that memory and the amount lost to a crash stay the
same for any number of frames and data sets.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from distributed import Client, Future, as_completed

from braggflow import cluster, config, frames, graph, peaks, prepare, store
from braggflow.config import InputError, RunConfig
from braggflow.prepare import Work

#: Groups in flight per worker thread: one running, one waiting behind it, and some slack for those that end together.
WINDOW_PER_THREAD = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; given to the `progress` callback when workers are up and after each finished group."""

    dataset: str
    frames_done: int
    """In all data sets, also by earlier runs."""
    frames_total: int
    frames_before: int
    """Done by earlier runs: not part of this run's rate."""
    frames_failed: int
    peaks: int
    dashboard: str


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
    """In this run; 0 where all was done before."""
    peaks: int = 0
    seconds: float = 0.0
    message: str = ""


def run(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Process data sets into `OUT/DATASET/`, taking up what an earlier run of the same settings left.

    `settings` is a configuration, plain data, or the path of a YAML file; `data` and `out` stand above its `data` and
    `output.folder`. Runs on `client`'s cluster, or on a local one made for the run. One outcome a data set, in order.
    Raises `InputError`, with nothing written, where the configuration or every data set is refused.
    """
    resolved = _resolve(settings, data, out)
    works, refused = _prepare_all(resolved)
    open_works = [work for work in works if not prepare.take_up(work)]
    outcomes = {work.name: _finished_before(work) for work in works if work not in open_works}
    if open_works:
        with ExitStack() as stack:
            if client is None:
                first = open_works[0].series.path
                graph.compile_kernels(graph.open_series(frames.open_frames(first), resolved))
            used = client or stack.enter_context(cluster.local(resolved.compute))
            outcomes |= {outcome.name: outcome for outcome in _Runner(used, resolved, open_works, progress).run()}
    outcomes |= {outcome.name: outcome for outcome in refused}
    done = [outcomes[name] for name in map(_name, resolved.data)]
    if all(outcome.status == "refused" for outcome in done):
        raise InputError("\n".join(outcome.message for outcome in done))
    return done


def _resolve(
    settings: RunConfig | Mapping[str, Any] | str | Path, data: Sequence[str | Path], out: str | Path | None
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
    if not resolved.data:
        raise InputError("data: no data set is named, neither in the configuration nor on the command line")
    return resolved


def _prepare_all(resolved: RunConfig) -> tuple[list[Work], list[Outcome]]:
    model = None
    if resolved.localise.method != "none":
        from braggflow import localise

        model = localise.identity(resolved.localise, resolved.patches.size)
    names = [_name(path) for path in resolved.data]
    for name, path in zip(names, resolved.data, strict=True):
        if names.count(name) > 1:
            raise InputError(f"data: {path}: another data set is named {name} too; their results would be mixed")
    works, refused = list[Work](), list[Outcome]()
    for name, path in zip(names, resolved.data, strict=True):
        try:
            works.append(prepare.prepare(name, Path(path), resolved, model))
        except InputError as error:
            if len(resolved.data) == 1:
                raise
            refused.append(Outcome(name, Path(resolved.output.folder) / name, "refused", message=str(error)))
    return works, refused


def _name(path: str) -> str:
    return Path(path.rstrip("/")).name.removesuffix(".zarr")


def _finished_before(work: Work) -> Outcome:
    counts = store.read_info(work.folder)["counts"]
    return Outcome(work.name, work.folder.path, "complete", frames=counts["frames"], peaks=counts["peaks"])


class _Runner:
    """One run over all unfinished data sets on one cluster."""

    def __init__(
        self, client: Client, resolved: RunConfig, works: list[Work], progress: Callable[[Progress], None] | None
    ) -> None:
        self.client = client
        self.config = resolved
        self.works = works
        self.progress = progress
        self.pools = cluster.pools(client, network=resolved.localise.method != "none")
        self.in_flight: dict[Any, tuple[Work, graph.Group | None]] = {}
        self.outcomes: list[Outcome] = []
        self.frames_total = sum(len(work.numbers) for work in works)
        self.frames_before = sum(_frames(work.done.values()) for work in works)
        self.peaks = sum(part.peaks for work in works for part in work.done.values())
        self.frames_processed = self.frames_failed = 0

    def run(self) -> list[Outcome]:
        """Feed the window until every data set is concluded; Ctrl-C leaves a resumable state."""
        queue = self._queue()
        finished = as_completed(loop=self.client.loop)
        if self.progress is not None:
            self.progress(self._state(self.works[0]))
        try:
            self._feed(queue, finished)
            for future in finished:
                work, group = self.in_flight.pop(future.key)
                if group is None:
                    self.outcomes.append(self._outcome(work, future))
                else:
                    self._take(work, group, future)
                    if work.finished == len(work.todo):
                        finished.add(self._conclude(work))
                self._feed(queue, finished)
        except KeyboardInterrupt:
            self._interrupt()
        return self.outcomes

    def _queue(self) -> Iterator[tuple[Work, graph.Group | None]]:
        for work in self.works:
            try:
                self._begin(work)
            except (InputError, OSError) as error:
                work.resources.close()
                self.outcomes.append(Outcome(work.name, work.folder.path, "refused", message=str(error)))
                continue
            if not work.todo:
                yield work, None
            for group in work.todo:
                yield work, group

    def _begin(self, work: Work) -> None:
        work.started = time.monotonic()
        work.folder.path.mkdir(parents=True, exist_ok=True)
        work.resources.enter_context(store.lock(work.folder))
        # Another run may have been here since this one was prepared.
        prepare.check_folder(work.folder, work.identity, overwrite=work.config.output.overwrite)
        prepare.take_up(work)
        start = store.resume if work.done else store.begin
        start(work.folder, work.config, self._info(work, "running"))

    def _feed(self, queue: Iterator[tuple[Work, graph.Group | None]], finished: Any) -> None:
        window = WINDOW_PER_THREAD * sum(self.client.nthreads().values())
        while len(self.in_flight) < window and (item := next(queue, None)) is not None:
            work, group = item
            if group is None:
                finished.add(self._conclude(work))
                continue
            future = graph.submit(
                self.client,
                work.series,
                group,
                self.pools,
                retries=self.config.compute.retries,
                priority=-self.works.index(work),
            )
            self.in_flight[future.key] = work, group
            finished.add(future)

    def _take(self, work: Work, group: graph.Group, future: "Future[store.PartSummary]") -> None:
        work.finished += 1
        work.redone += 1
        work.processed += group.stop - group.first
        if future.status == "finished":
            part = work.done[group.first, group.stop] = future.result()
            self.peaks += part.peaks
            self.frames_failed += len(part.failures)
        else:
            reason = _reason(future)
            self.frames_failed += group.stop - group.first
            work.failures += [{"frame": number, "reason": reason} for number in work.numbers[group.first : group.stop]]
        self.frames_processed += group.stop - group.first
        if self.progress is not None:
            self.progress(self._state(work))

    def _state(self, work: Work) -> Progress:
        return Progress(
            dataset=work.name,
            frames_done=self.frames_before + self.frames_processed,
            frames_total=self.frames_total,
            frames_before=self.frames_before,
            frames_failed=self.frames_failed,
            peaks=self.peaks,
            dashboard=self.client.dashboard_link,
        )

    def _conclude(self, work: Work) -> "Future[dict[str, Any]]":
        """Join the parts and write the report, on a worker, so that the window goes on being fed."""
        info = self._info(work, "partial" if _failures(work) else "complete")
        future = self.client.submit(
            conclude,
            work.folder,
            list(work.done.values()),
            work.coords,
            info,
            report=self.config.output.report,
            key=f"conclude-{work.name}-{uuid4().hex[:8]}",
            pure=False,
            priority=1,
            **({"resources": {"CPU": 1}} if self.pools.cpu else {}),
        )
        self.in_flight[future.key] = work, None
        return future

    def _outcome(self, work: Work, future: "Future[dict[str, Any]]") -> Outcome:
        seconds = time.monotonic() - work.started
        if future.status == "finished":
            info = future.result()
            message = f"no report ({info['report_error']})" if "report_error" in info else ""
        else:
            info = self._info(work, "partial")
            message = f"the parts are done, but the table could not be written: {_reason(future)}"
            with suppress(OSError):  # a full disk may be the reason
                store.write_info(work.folder, info | {"error": message})
        counts = info["counts"]
        work.resources.close()
        return Outcome(
            work.name,
            work.folder.path,
            info["status"],
            frames=counts["frames"],
            frames_failed=counts["frames_failed"],
            frames_processed=work.processed,
            peaks=counts["peaks"],
            seconds=seconds,
            message=message,
        )

    def _interrupt(self) -> None:
        """Cancel what runs; parts that are written stay, and the same command goes on from there."""
        concluded = {outcome.name for outcome in self.outcomes}
        for work in self.works:
            if work.name in concluded:
                continue
            if work.started:
                store.write_info(work.folder, self._info(work, "interrupted"))
            self.outcomes.append(
                Outcome(
                    work.name,
                    work.folder.path,
                    "interrupted",
                    frames=len(work.numbers),
                    frames_failed=len(_failures(work)),
                    frames_processed=work.processed,
                    peaks=sum(part.peaks for part in work.done.values()),
                    seconds=time.monotonic() - work.started if work.started else 0.0,
                )
            )
        # Last, because it takes the longest: who presses Ctrl-C again has lost nothing.
        self.client.cancel([Future(key, self.client) for key in self.in_flight])
        for work in self.works:
            work.resources.close()

    def _info(self, work: Work, status: str) -> dict[str, Any]:
        parts = list(work.done.values())
        failures = _failures(work)
        return {
            "status": status,
            "dataset": work.dataset,
            "identity": work.identity,
            "run": work.series.run,
            "plan": [(group.first, group.stop) for group in work.groups],
            "counts": {
                "frames": len(work.numbers),
                "frames_failed": len(failures),
                "peaks": sum(part.peaks for part in parts),
                "removed": store.total(part.removed for part in parts),
                "flags": {},
                "methods": {},
            },
            "seconds": {"wall": time.monotonic() - work.started, "stages": store.total(part.seconds for part in parts)},
            "parts": {"total": len(work.groups), "done": len(parts), "redone": work.redone},
            "failures": failures,
            "versions": store.versions(),
            "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
            "workers": {"threads": sum(self.client.nthreads().values()), **asdict(self.pools)},
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _frames(parts: Any) -> int:
    return sum(part.stop - part.first for part in parts)


def _failures(work: Work) -> list[dict[str, Any]]:
    return [*(failure for part in work.done.values() for failure in part.failures), *work.failures]


def _reason(future: "Future[Any]") -> str:
    if future.status == "cancelled":
        return "cancelled"
    error = future.exception()
    return f"{type(error).__name__}: {error}"


def conclude(
    folder: store.RunFolder,
    parts: list[store.PartSummary],
    coords: xr.Dataset,
    info: dict[str, Any],
    *,
    report: bool,
) -> dict[str, Any]:
    """Join a data set's parts into its table, write `run.json` and the report; returns the content of `run.json`."""
    attributes = {"run": info["run"], "model": str(info["identity"]["model"]), "source": info["dataset"]["path"]}
    failed = [failure["frame"] for failure in info["failures"]]
    counted = store.consolidate(folder, parts, coords, failed, attributes)
    info["counts"] |= counted
    store.write_info(folder, info)
    if report:
        from braggflow.report import write_report

        try:
            write_report(folder.path)
        except Exception as error:  # noqa: BLE001 - the table is whole: whatever ails the pictures must not spoil it
            info["report_error"] = f"{type(error).__name__}: {error}"
            store.write_info(folder, info)
    return info


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
