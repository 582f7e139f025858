"""Commands around a run: `run`, `status`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import COMPLETE, PARTIAL, Workers
from braggflow.errors import InputError


def run(
    config: Annotated[Path, typer.Argument(help="Configuration, YAML (see: braggflow config init).")],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Frames stores, HDF5 files, folders of stores, patterns, list files; stand above the configuration's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: output.folder).")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="Change a key: detect.minval=20; repeat.")] = [],  # noqa: B006
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="Refuse a series of which frames were never written.")
    ] = False,
    workers: Workers = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="Where to compute: a cluster profile, YAML (default: here).")
    ] = None,
    follow: Annotated[
        Path | None, typer.Option(help="Also take the frames stores of this folder as they are finished, until Ctrl-C.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, help="With --follow: end when none has come for so many seconds.")
    ] = None,
) -> None:
    """Find, locate and fit the peaks of one or more series. The same command again resumes."""
    from braggflow.config import load_config

    if workers is not None:
        settings = [*settings, f"compute.workers={workers}"]
    if require_complete:
        settings = [*settings, "frames.require_complete=true"]
    resolved = load_config(config, settings)
    if idle is not None and follow is None:
        raise InputError(f"--idle {idle:g}: is for --follow, which is not given")
    if cluster is None and resolved.compute.workers is not None:
        from braggflow.cluster import start_worker_server

        start_worker_server(resolved)  # it imports while this process does
    from braggflow.cli.series_table import run_head
    from braggflow.cli.terminal import show_summary
    from braggflow.console import open_console
    from braggflow.flow import run, run_progress

    console = open_console(stderr=True)
    with run_progress(console) as show:
        outcomes = run(
            resolved,
            data or (),
            out=out,
            cluster=cluster,
            follow=follow,
            idle_seconds=idle,
            progress=show,
            opened=run_head(console),
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and told
    show_summary(outcomes)
    raise typer.Exit(COMPLETE if all(outcome.status == "complete" for outcome in outcomes) else PARTIAL)


def status(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of them.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until no run goes on, or Ctrl-C.")] = False,
) -> None:
    """Show what is done, what failed and why."""
    from braggflow.cli.terminal import show_status

    show_status(folder, watch=watch)
