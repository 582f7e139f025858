"""Data sets in, run folders out: what is asked for, on which cluster, and what became of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

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
) -> list[Outcome]:
    """Process data sets into `OUT/DATASET/`, taking up what an earlier run of the same settings left.

    `settings` is a configuration, plain data, or the path of a YAML file; `data` (frames stores, folders, patterns,
    list files) and `out` stand above its `data` and `output.folder`. `follow` is a folder whose frames stores are taken
    as they are finished, until Ctrl-C or until none has come for `idle_seconds`. Runs on `client`'s cluster, on that of
    a cluster profile (a path or what `load_profile` returns), or on a local one. One outcome a data set, in order;
    also written to `OUT/outcomes.jsonl` where there are several. Raises `InputError`, with nothing written, where the
    configuration, the cluster or every data set is refused.
    """
    resolved = _resolve(settings, data, out, follow)
    where = load_profile(cluster) if isinstance(cluster, str | Path) else cluster
    paths = expand_data_sets(resolved.data)
    names = data_set_names(paths)
    follower = Follower(Path(follow)) if follow is not None else None
    source = DataSetQueue(resolved, paths, follower, idle_seconds)
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
                compile_kernels(open_series(open_frames(Path(first.series.path)), resolved))
            needed = [first.series.path, str(existing_folder(folder.resolve()))]
            used = (
                cluster_of_client(client, resolved, needed)
                if client is not None
                else stack.enter_context(open_cluster(where, resolved, needed))
            )
            opened = chain(before, [first], source)
            dispatcher = Dispatcher(used, resolved, opened, total=source.total, record=record, progress=progress)
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
