"""`braggflow export`: the peak table of a run for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import Overwrite
from braggflow.cli.streams import say


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

    with progress_bar("export") as advance:
        path = export_peaks(run, out, to=to, overwrite=overwrite, progress=advance)
    say(path)
