"""Data sets in, run folders out: what is asked for, on which cluster, and what became of it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from rich.console import Console

from braggflow import cluster as clusters
from braggflow.config import RunConfig, as_config
from braggflow.errors import InputError
from braggflow.flow.data_set import DataSetRun, existing_folder, only_this
from braggflow.flow.data_set_queue import DataSetQueue, first_work
from braggflow.flow.following import follow_series
from braggflow.flow.in_process import MOST_SECONDS, InProcess
from braggflow.flow.outcome import Outcome, Outcomes, Progress, run_progress
from braggflow.flow.tally import Tally
from braggflow.flow.tasks import opened_series
from braggflow.frames import Follower, data_set_names, done_mark, expand_data_sets, is_growing_series
from braggflow.pipeline import check_memory, compile_kernels, look_at_frames, on_cpu
from braggflow.results import OUTCOMES, append_outcome

if TYPE_CHECKING:
    from distributed import Client

    from braggflow.cluster import Profile

logger = logging.getLogger(__name__)


def run(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    cluster: "Profile | str | Path | None" = None,
    client: "Client | None" = None,
    follow: str | Path | None = None,
    idle_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    opened: Callable[[Path, xr.Dataset, int], None] | None = None,
) -> Outcomes:
    """Process data sets into ``OUT/DATASET/``, taking up what an earlier run of the same settings left.

    Parameters
    ----------
    settings : RunConfig, mapping, str or pathlib.Path
        A configuration, the same as plain data, or the path of a YAML file. Keys that are left out have their defaults.
    data : sequence of str or pathlib.Path, default ()
        Frames stores (``NAME.zarr``), HDF5 files (``FILE`` or ``FILE:/path/in/it``), folders, patterns and list files;
        if any are given they stand above `data` of the configuration.
    out : str or pathlib.Path, optional
        The folder in which one folder for each data set is made; stands above `output.folder` of the configuration.
    cluster : Profile, str or pathlib.Path, optional
        The cluster profile to compute on: what `load_profile` returns, or the path of its YAML file. Default: this
        process, where a look at a few frames says that all of them take seconds; else worker processes on this
        machine (a script that starts them needs the ``if __name__ == "__main__":`` of multiprocessing). With
        `compute.workers` worker processes are started for any amount of work.
    client : distributed.Client, optional
        Compute on the cluster of this client instead, and leave it running.
    follow : str or pathlib.Path, optional
        A series that is still being written, HDF5 or Zarr, there or not yet, whose frames are processed as they come
        (docs/follow.md); `data` must be empty then. Or a folder whose frames stores are taken as they are finished,
        until Ctrl-C or until none has come for `idle_seconds`.
    idle_seconds : float, optional
        With `follow`: end when no frame, or no store, has come for this long, seconds. Default: a series ends by its
        own marks alone, and a folder by Ctrl-C.
    progress : callable, optional
        Called with a `Progress` about twice a second and after each finished group. Default: a notebook shows a line
        that moves, and a script nothing.
    opened : callable, optional
        Called with each data set that has work to do, when it is opened: its path, what `open_frames` returned, and how
        many data sets are known so far.

    Returns
    -------
    Outcomes
        A sequence of `Outcome`, one for each data set, in the order given; `peaks` and `report` where there is one.
        Where there are several they are also written to ``OUT/outcomes.jsonl``, and
        ``OUT/batch.html`` is a page on all of them.

    Raises
    ------
    InputError
        With nothing written, where the configuration, the cluster or every data set is refused. Where only some data
        sets are refused, their outcomes say so.

    Notes
    -----
    Ctrl-C lets running tasks end and leaves a state that the same call takes up; results do not depend on the number of
    workers, nor on interruptions. A data set holds a run of one result configuration: other settings are refused unless
    `output.overwrite` is true.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> settings = {"output": {"report": False}}
    >>> done = braggflow.run(settings, ["scan.zarr"], out="runs")
    >>> done
    <braggflow run: scan complete, 4 frames (0 failed), ... peaks>
    >>> done.peaks.sizes["frame"]
    4

    The same call again finds everything done:

    >>> (again,) = braggflow.run(settings, ["scan.zarr"], out="runs")
    >>> again.status, again.frames_processed
    ('complete', 0)
    """
    series = follow is not None and is_growing_series(follow)
    if series and data:
        named = ", ".join(map(str, data))
        raise InputError(f"--follow {follow}: is one series, which is followed alone; leave out {named}")
    resolved = _resolve(settings, [str(follow)] if series else data, out, follow)
    where = clusters.load_profile(cluster) if isinstance(cluster, str | Path) else cluster
    paths = [Path(str(follow))] if series else expand_data_sets(resolved.data)
    names = data_set_names(paths)
    follower = Follower(Path(follow)) if follow is not None and not series else None
    with _shown(progress) as progress, ExitStack() as held:
        stages = _Stages(progress)
        workers = _Workers(held, resolved, where, client)
        if series:
            outcome = follow_series(
                paths[0],
                resolved,
                idle_seconds=idle_seconds,
                workers=partial(workers.get, str(done_mark(paths[0]).parent.resolve())),
                at_once=client is not None or where is not None or resolved.compute.workers is not None,
                progress=progress,
                opened=opened,
            )
            if outcome is not None:
                return Outcomes([outcome])
        stages.begin(f"opening {names[0] if names else follow}")
        source = DataSetQueue(resolved, paths, follower, idle_seconds, None if series else opened)

        def here(work: DataSetRun) -> bool:
            following = follower is not None
            free = client is None and not workers.there
            return free and _here(work, source.total(), resolved, where, stages, following=following)

        before, first, in_this_process = _beginning(source, here)
        folder, several = Path(resolved.output.folder), len(paths) > 1 or follower is not None

        def record(outcome: Outcome) -> None:
            if not several or (outcome.status == "complete" and not outcome.seconds):
                return  # a complete one was recorded when it was done
            try:
                append_outcome(folder, {**_recorded(outcome), "path": str(source.paths[outcome.name])})
            except OSError as error:  # run.json says the same of all but those refused: no reason to stop
                logger.warning("%s: cannot be written (%s)", folder / OUTCOMES, error.strerror)

        if first is None:
            outcomes = before
        else:
            coming = chain(before, [first], source)
            common: dict[str, Any] = {
                "total": source.total,
                "record": record,
                "progress": None if progress is None else stages.show,
                "notes": stages.notes,
            }
            if in_this_process:
                outcomes = InProcess(coming, task_seconds=resolved.compute.task_seconds, **common).run()
            else:
                outcomes = _on_cluster(workers, first, coming, resolved, stages, common)
                held.close()
        unfinished = source.unfinished()
        outcomes = [*outcomes, *source.not_begun(), *unfinished]
        if outcomes and all(outcome.status == "refused" for outcome in outcomes):
            raise InputError("\n".join(dict.fromkeys(outcome.message for outcome in outcomes)))
        for outcome in (*(before if first is None else ()), *unfinished):
            record(outcome)
        if several and resolved.output.report:
            stages.go_on("making the page on all data sets")
            _write_batch_report(folder)
    order = {name: position for position, name in enumerate([*names, *source.paths])}
    return Outcomes(sorted(outcomes, key=lambda outcome: order[outcome.name]))


def _write_batch_report(folder: Path) -> None:
    """The page on all data sets of a folder; whatever ails it spoils no run."""
    from braggflow.show import write_batch_report  # here, because matplotlib takes half a second

    try:
        write_batch_report(folder)
    except Exception as error:  # noqa: BLE001 - the tables are whole, and the page can be made again
        logger.warning("%s: has no batch.html (%s: %s)", folder, type(error).__name__, error)


@contextmanager
def _shown(progress: Callable[[Progress], None] | None) -> Iterator[Callable[[Progress], None] | None]:
    """The caller's progress, or a line that moves where the caller is a notebook."""
    console = Console(stderr=True)
    if progress is not None or not console.is_jupyter:
        yield progress
        return
    with run_progress(console) as show:
        yield show


class _Stages:
    """What is said before the first data set is begun, and after the last: what is done now, what one should know."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self.notes: list[str] = []
        self._progress, self._tally = progress, Tally(1.0, on_gpu=False)
        self._last: Progress | None = None

    def begin(self, stage: str) -> None:
        """Say what is done from now on."""
        if self._progress is not None:
            self._progress(self._tally.progress((), ended=0, total=1, stage=stage, notes=self.notes))

    def show(self, state: Progress) -> None:
        """Say how far the run is."""
        self._last = state
        if self._progress is not None:
            self._progress(state)

    def go_on(self, stage: str) -> None:
        """Say what is done after all data sets, of a run that said how far it was."""
        if self._last is not None:
            self.show(replace(self._last, stage=stage))


def _beginning(
    source: DataSetQueue, here: Callable[[DataSetRun], bool]
) -> tuple[list[Outcome], DataSetRun | None, bool]:
    """What ended before the first data set with work to do, that one, and whether `here` has the work done here.

    A data set of which `here` raises `InputError` is refused, as far as is known for its own sake: the next is tried.
    """
    ended = list[Outcome]()
    while True:
        before, first = first_work(source)
        ended += before
        if first is None:
            return ended, None, False
        try:
            with only_this(Path(first.series.path), first.folder.path):
                return ended, first, here(first)
        except InputError as error:
            if source.alone:
                raise
            ended.append(Outcome(first.name, first.folder.path, "refused", message=str(error)))


def _here(
    first: DataSetRun,
    data_sets: int,
    resolved: RunConfig,
    where: "Profile | None",
    stages: _Stages,
    *,
    following: bool,
) -> bool:
    """Whether the work is done in this process: little of it, by a look at a few frames, and no workers asked for.

    Raises `InputError` where this machine cannot do it, before any worker is started.
    """
    profile = where if where is not None and where.kind == "local" else None
    if where is not None and profile is None:
        _look(first, stages, here=False)
        return False
    clusters.refuse_crowd(resolved.compute.workers, "compute.workers")
    clusters.refuse_crowd(profile.workers if profile is not None else None, "workers of the cluster profile")
    if clusters.memory_limit_asked(resolved.compute, profile) != "auto":
        check_memory(first.series.path, first.need, clusters.memory_of_worker(resolved.compute, profile), 1)
    seconds = _look(first, stages, here=True) * data_sets
    asked = resolved.compute.workers is not None or profile is not None or following
    # What killed a run before must not kill this process: workers are there to be killed.
    if seconds <= MOST_SECONDS and not asked and not first.killed:
        return True
    check_memory(first.series.path, first.need, clusters.memory_of_worker(resolved.compute, profile), 1)
    stages.begin("compiling what other frames may need")
    compile_kernels(opened_series(first.series))
    return False


def _look(first: DataSetRun, stages: _Stages, *, here: bool) -> float:
    """Look at a few frames of the first data set; the seconds that what is left of it takes on one core.

    A GPU is asked only where the work is to be done `here`: otherwise that is for the jobs to have.
    """
    stages.begin("looking at a few frames")
    if first.resolved.check.fraction:
        from braggflow.selfcheck import compile_check  # here, as what it needs is loaded where it is asked for

        compile_check()
    if first.resolved.track.enabled and len(first.numbers) > 2:  # fewer are followed only where that is asked for
        from braggflow.tracks import compile_tracks

        compile_tracks()
    todo = [position for group in first.todo for position in range(group.first, group.stop)]
    opened = opened_series(first.series)
    config = opened.config if here else on_cpu(opened.config)
    looked = look_at_frames(replace(opened, config=config), todo)
    first.warnings = looked.warnings
    stages.notes += [f"warning: {first.name}: {warning}" for warning in looked.warnings]
    return looked.seconds_per_frame * len(todo)


class _Workers:
    """The cluster of a run, opened when it is first asked for, and ended with what is `held`."""

    def __init__(
        self,
        held: ExitStack,
        resolved: RunConfig,
        where: "Profile | None",
        client: "Client | None",
    ) -> None:
        self._held, self._resolved, self._where, self._client = held, resolved, where, client
        self._cluster: clusters.Cluster | None = None

    @property
    def there(self) -> bool:
        """Whether it was opened."""
        return self._cluster is not None

    def get(self, path: str) -> "clusters.Cluster":
        """The cluster, whose workers must see `path`; raises `InputError` where it cannot do the work."""
        if self._cluster is None:
            folder = existing_folder(Path(self._resolved.output.folder).resolve())
            needed = [path, str(folder)]
            self._cluster = (
                clusters.cluster_of_client(self._client, self._resolved, needed)
                if self._client is not None
                else self._held.enter_context(clusters.open_cluster(self._where, self._resolved, needed))
            )
        return self._cluster


def _on_cluster(
    workers: _Workers,
    first: DataSetRun,
    coming: Iterator[DataSetRun | Outcome | None],
    resolved: RunConfig,
    stages: _Stages,
    common: dict[str, Any],
) -> list[Outcome]:
    from braggflow.flow.dispatch import Dispatcher  # with Dask, which takes most of a second

    if not workers.there:
        stages.begin("starting workers")
    return Dispatcher(workers.get(first.series.path), resolved, coming, **common).run()


def _resolve(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path],
    out: str | Path | None,
    follow: str | Path | None,
) -> RunConfig:
    resolved = as_config(settings)
    if data:
        resolved = resolved.model_copy(update={"data": tuple(map(str, data))})
    if out is not None:
        resolved = resolved.model_copy(update={"output": resolved.output.model_copy(update={"folder": str(out)})})
    if not resolved.data and follow is None:
        raise InputError("data: no data set is named, neither in the configuration nor on the command line")
    return resolved


def _recorded(outcome: Outcome) -> dict[str, Any]:
    names = ("status", "message", "frames", "frames_failed", "peaks", "seconds")
    return {"dataset": outcome.name, **{name: getattr(outcome, name) for name in names}}
