"""Commands that make frames stores: `ingest`, `simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import Overwrite, Workers, name_and_value


def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or globs; FILE.h5:/path names a data set.")],
    out: Annotated[Path, typer.Option(help="Frames store to make, NAME.zarr.")],
    dataset: Annotated[str | None, typer.Option(help="HDF5 data set with the frames, if not the only one.")] = None,
    coord: Annotated[list[str], typer.Option(help="Per-frame coordinate, NAME=/path/in/file; repeat for more.")] = [],  # noqa: B006
    mask: Annotated[str | None, typer.Option(help="Image, non-zero = ignore.")] = None,
    dark: Annotated[str | None, typer.Option(help="Dark frame.")] = None,
    flat: Annotated[str | None, typer.Option(help="Flat field.")] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert detector files into a frames store. HDF5/NeXus, TIFF, CBF, EDF, GE, ADSC, ... are read."""
    coords = dict(name_and_value(text, "--coord") for text in coord)
    from braggflow.cli.terminal import progress_bar, show_frames_store
    from braggflow.convert import ingest

    with progress_bar("ingest") as advance:
        path = ingest(
            list(sources),
            out,
            dataset=dataset,
            coords=coords,
            mask=mask,
            dark=dark,
            flat=flat,
            overwrite=overwrite,
            workers=workers,
            progress=advance,
        )
    show_frames_store(path)


def simulate(
    out: Annotated[Path, typer.Argument(help="Frames store to make, NAME.zarr.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 480,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Rows and columns of a frame.")] = 512,
    peaks: Annotated[int, typer.Option(min=1, help="Peaks per frame, about.")] = 14,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same frames.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make an operando-like series with known peaks. The exact truth is written beside it, NAME.truth.zarr."""
    from braggflow.cli.terminal import progress_bar, show_frames_store
    from braggflow.simulate import simulate_series

    with progress_bar("simulate") as advance:
        truth = simulate_series(
            out, n_frames=frames, shape=(size, size), peaks=peaks, seed=seed, overwrite=overwrite, progress=advance
        )
    show_frames_store(out)
    typer.echo(f"truth: {truth}")
