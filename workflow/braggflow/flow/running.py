"""Data sets in, run folders out: what is asked for, on which cluster, and what became of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import xarray as xr
from distributed import Client

from braggflow.cluster import Profile, cluster_of_client, load_profile, open_cluster
from braggflow.config import RunConfig, as_config
from braggflow.errors import InputError
from braggflow.flow.data_set import existing_folder
from braggflow.flow.data_set_queue import DataSetQueue, first_work
from braggflow.flow.dispatch import Dispatcher
from braggflow.flow.outcome import Outcome, Progress
from braggflow.frames import Follower, data_set_names, expand_data_sets, open_frames, open_series
from braggflow.pipeline import compile_kernels
from braggflow.results import OUTCOMES, append_outcome

logger = logging.getLogger(__name__)


def run(
    settings: RunConfig | Mapping[str, Any] | str | Path,
    data: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    cluster: Profile | str | Path | None = None,
    client: Client | None = None,
    follow: str | Path | None = None,
    idle_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    opened: Callable[[Path, xr.Dataset, int], None] | None = None,
) -> list[Outcome]:
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
        The cluster profile to compute on: what `load_profile` returns, or the path of its YAML file. Default: worker
        processes on this machine; a script that starts them needs the ``if __name__ == "__main__":`` of
        multiprocessing.
    client : distributed.Client, optional
        Compute on the cluster of this client instead, and leave it running.
    follow : str or pathlib.Path, optional
        A folder whose frames stores are taken as they are finished, until Ctrl-C or until none has come for
        `idle_seconds`.
    idle_seconds : float, optional
        With `follow`: end when no store has come for this long, seconds. Default: only Ctrl-C ends it.
    progress : callable, optional
        Called with a `Progress` about twice a second and after each finished group.
    opened : callable, optional
        Called with each data set that has work to do, when it is opened: its path, what `open_frames` returned, and how
        many data sets are known so far.

    Returns
    -------
    list of Outcome
        One for each data set, in the order given. Where there are several they are also written to
        ``OUT/outcomes.jsonl``.

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
    A client without processes of its own computes in this one, which suits a notebook and small data:

    >>> import braggflow
    >>> from distributed import Client
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> settings = {"detect": {"minval": "6 sigma", "background": "local"}, "output": {"report": False}}
    >>> with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
    ...     (outcome,) = braggflow.run(settings, ["scan.zarr"], out="runs", client=client)
    >>> outcome.status, outcome.frames, outcome.frames_processed
    ('complete', 4, 4)

    The same call again finds everything done:

    >>> (again,) = braggflow.run(settings, ["scan.zarr"], out="runs")
    >>> again.status, again.frames_processed
    ('complete', 0)
    """
    resolved = _resolve(settings, data, out, follow)
    where = load_profile(cluster) if isinstance(cluster, str | Path) else cluster
    paths = expand_data_sets(resolved.data)
    names = data_set_names(paths)
    follower = Follower(Path(follow)) if follow is not None else None
    source = DataSetQueue(resolved, paths, follower, idle_seconds, opened)
    before, first = first_work(source)
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
        with ExitStack() as stack:
            if client is None and (where is None or where.kind == "local"):
                compile_kernels(open_series(open_frames(Path(first.series.path)), first.resolved))
            needed = [first.series.path, str(existing_folder(folder.resolve()))]
            used = (
                cluster_of_client(client, resolved, needed)
                if client is not None
                else stack.enter_context(open_cluster(where, resolved, needed))
            )
            coming = chain(before, [first], source)
            dispatcher = Dispatcher(used, resolved, coming, total=source.total, record=record, progress=progress)
            outcomes = dispatcher.run()
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
