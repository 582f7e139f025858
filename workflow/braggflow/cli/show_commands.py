"""What comes out of a run: `report`, `movie`, `export`; and whether it is whole: `verify`."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import Overwrite
from braggflow.cli.streams import say


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    frame: Annotated[
        list[int] | None, typer.Option(help="Number of a frame to show, in place of a typical one; repeat for more.")
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(help="Coordinate that the series is drawn against (frame: numbers); by default omega, time, ..."),
    ] = None,
) -> None:
    """Write report.html of a run again."""
    from braggflow.console import saying

    with saying("making the report"):
        from braggflow.show import write_report

        path = write_report(run, frames=frame or [], axis=axis)
    say(path)


def movie(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .gif or .mp4 (default: movie.gif in the run).")
    ] = None,
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames per second.")] = 12,
    start: Annotated[int | None, typer.Option(help="First frame number.")] = None,
    stop: Annotated[int | None, typer.Option(help="Last frame number.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Every step-th frame.")] = 1,
    max_frames: Annotated[int, typer.Option(min=1, help="Thin longer series to this many.")] = 200,
) -> None:
    """Animate the frames with their located peaks."""
    from braggflow.console import saying

    with saying("drawing the movie"):
        from braggflow.show import write_movie

        path = write_movie(run, out, fps=fps, frames=slice(start, stop, step), max_frames=max_frames)
    say(path)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    to: Annotated[
        str | None, typer.Option(help="csv, parquet or hdf5 (default: by the suffix of --out).", metavar="FORMAT")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the peaks to a CSV, Parquet or HDF5 file. One row a peak, with its frame's number and coordinates."""
    from braggflow.cli.terminal import progress_bar
    from braggflow.results import export_peaks

    with progress_bar("export", unit="rows") as advance:
        path = export_peaks(run, out, to=to, overwrite=overwrite, progress=advance)
    say(path)


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, frames stores, or folders of them.")],
    frames: Annotated[int, typer.Option(min=0, help="Frames of each run that are searched again.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of these frames.")] = 0,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take frames stores that were changed on purpose as they are now.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with an object for each.")] = False,
) -> None:
    """Check runs and frames stores against their checksums. Ends with status 1 where anything is damaged."""
    from dataclasses import asdict
    from json import dumps

    from braggflow.console import open_console, plain, saying

    with saying("checking"):
        from braggflow.evaluate import verify
        from braggflow.frames import accept_store

        if accept:
            for path in paths:
                accept_store(path)
        found = [one for path in paths for one in verify(path, frames=frames, seed=seed)]
    if json:
        say(dumps([asdict(one) | {"damaged": one.damaged} for one in found], indent=1, default=str))
    else:
        console = open_console()
        for one in found:
            plain(console, f"{one.kind} {one.path}: {'DAMAGED' if one.damaged else 'as it was written'}")
            for check in one.checks:
                plain(console, f"  {check.what:<13}{check.state:<13}{check.said}")
    if any(one.damaged for one in found):
        raise typer.Exit(1)
