"""Commands around frames and their stores: `inspect`, `ingest`, `simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import PARTIAL, Overwrite, Workers, name_and_value
from braggflow.cli.streams import say

Dataset = Annotated[str | None, typer.Option(help="HDF5 data set with the frames, if not the only one.")]
Coord = Annotated[list[str], typer.Option(help="Per-frame coordinate, NAME=/path/in/file; repeat for more.")]


def inspect(
    sources: Annotated[
        list[str],
        typer.Argument(help="Files, folders or globs, as ingest takes them (FILE.h5:/path), or stores, NAME.zarr."),
    ],
    dataset: Dataset = None,
    coord: Coord = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with an object for each series.")] = False,
) -> None:
    """Show what would be read, before anything is: frames, mask, saturation, coordinates, what is missing or odd."""
    from dataclasses import asdict
    from json import dumps

    from braggflow.console import saying

    coords = dict(name_and_value(text, "--coord") for text in coord)
    with saying("looking at the files"):
        from braggflow.cli.series_table import show_series
        from braggflow.convert import inspect_series

        found = inspect_series(list(sources), dataset=dataset, coords=coords)
    if json:
        say(dumps([asdict(facts) for facts in found], indent=1))
    else:
        for facts in found:
            show_series(facts)
    if any(facts.missing_frames for facts in found):
        raise typer.Exit(PARTIAL)


def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or globs; FILE.h5:/path names a data set.")],
    out: Annotated[Path, typer.Option(help="Frames store to make, NAME.zarr.")],
    dataset: Dataset = None,
    coord: Coord = [],  # noqa: B006
    mask: Annotated[str | None, typer.Option(help="Image, non-zero = ignore.")] = None,
    dark: Annotated[str | None, typer.Option(help="Dark frame.")] = None,
    flat: Annotated[str | None, typer.Option(help="Flat field.")] = None,
    workers: Workers = None,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="Refuse a series of which frames were never written.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert detector files into a frames store. HDF5/NeXus, TIFF, CBF, EDF, GE, ADSC, ... are read."""
    coords = dict(name_and_value(text, "--coord") for text in coord)
    from braggflow.console import open_console, saying

    with saying("loading"):
        from braggflow.cli.series_table import show_frames_store, show_series
        from braggflow.cli.terminal import progress_bar
        from braggflow.convert import ingest

    console = open_console(stderr=True)
    with progress_bar("ingest", console, before="looking at the files") as advance:
        path = ingest(
            list(sources),
            out,
            dataset=dataset,
            coords=coords,
            mask=mask,
            dark=dark,
            flat=flat,
            overwrite=overwrite,
            require_complete=require_complete,
            workers=workers,
            progress=advance,
            opened=lambda facts: show_series(facts, console),
        )
    if show_frames_store(path):
        raise typer.Exit(PARTIAL)


def simulate(
    out: Annotated[Path, typer.Argument(help="Frames store to make, NAME.zarr.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 480,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Rows and columns of a frame.")] = 512,
    peaks: Annotated[int, typer.Option(min=1, help="Peaks per frame, about.")] = 14,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same frames.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make an operando-like series with known peaks. The exact truth is written beside it, NAME.truth.zarr."""
    from braggflow.console import saying

    with saying("loading"):
        from braggflow.cli.series_table import show_frames_store
        from braggflow.cli.terminal import progress_bar
        from braggflow.errors import not_written
        from braggflow.simulate import simulate_series

    with progress_bar("simulate", compiles=True) as advance:
        try:
            truth = simulate_series(
                out, n_frames=frames, shape=(size, size), peaks=peaks, seed=seed, overwrite=overwrite, progress=advance
            )
        except OSError as error:
            raise not_written(out, error) from error
    show_frames_store(out)
    say(f"truth: {truth}")
