"""Commands around a run: `run`, `status`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from braggflow.cli.options import COMPLETE, PARTIAL, Workers
from braggflow.cli.streams import say
from braggflow.errors import InputError, printable

if TYPE_CHECKING:
    from braggflow.flow import Progress


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
        Path | None,
        typer.Option(
            metavar="SERIES|FOLDER",
            help="Process one series (HDF5, Zarr) while it is written; or also take the frames stores of a folder as "
            "they are finished, until Ctrl-C.",
        ),
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(min=0, help="With --follow: end when no frame, or no store, has come for so many seconds."),
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
    from braggflow.cli.stopping import may_leave_at_once, nothing_left_to_stop
    from braggflow.console import open_console, saying

    console = open_console(stderr=True)
    here = cluster is None  # jobs of a batch system must be cancelled
    may_leave_at_once(here)
    with saying("loading"):
        from braggflow.cli.series_table import run_head
        from braggflow.cli.terminal import show_summary
        from braggflow.flow import run, run_progress
    with run_progress(console) as show_line:

        def show(state: "Progress") -> None:
            may_leave_at_once(here and bool(state.stage) and not (state.dashboard or state.frames_total))
            show_line(state)

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
    nothing_left_to_stop()
    show_summary(outcomes)
    raise typer.Exit(COMPLETE if all(outcome.status == "complete" for outcome in outcomes) else PARTIAL)


def preview(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG] SOURCE",
            help="A frames store, or any file, folder or pattern that ingest reads; before it a configuration, YAML "
            "(default: every key at its default).",
            show_default=False,
        ),
    ],
    frame: Annotated[int | None, typer.Option(help="Number of the frame (default: the middle one).")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="As for braggflow run.")] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .png, .svg or .pdf (default: preview_NAME_FRAME.png).")
    ] = None,
) -> None:
    """Find the peaks of one frame, here and now: a picture, a short table, and what looks wrong."""
    from braggflow.cli.terminal import show_preview, write_picture
    from braggflow.config import load_config, resolve_config
    from braggflow.console import moving_line, open_console

    if len(source) > 2:
        raise InputError(f"preview: {' '.join(source)} are {len(source)}; must be SOURCE, or CONFIG SOURCE")
    given, named = (None, source[0]) if len(source) == 1 else source
    with moving_line(open_console(stderr=True), "loading") as line:
        line("loading", None, "")
        resolved = resolve_config({}, settings) if given is None else load_config(given, settings)
        from braggflow.compiled import compiling_told
        from braggflow.show import preview

        with compiling_told(line) as line_too:
            line_too(f"finding the peaks of {named}", None, "")
            found = preview(named, resolved, frame=frame)
        line("drawing", None, "")
        path = write_picture(found, out)
    show_preview(found)
    say(f"picture: {printable(str(path))}")


def status(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of them.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew until no run goes on, or Ctrl-C; waits for one to begin.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with an object for each data set.")] = False,
) -> None:
    """Show what is done, what failed and why, of a run or of all runs below a folder."""
    if json:
        from braggflow.cli.terminal import statuses_as_json

        if watch:
            raise InputError("--json: is for one look, and --watch for many; give one of them")
        say(statuses_as_json(folder))
        return
    from braggflow.cli.terminal import show_status

    show_status(folder, watch=watch)
