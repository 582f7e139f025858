"""What `preview` prints, and the picture that it writes."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table

from braggflow.console import open_console, plain
from braggflow.errors import InputError
from braggflow.files import written_whole

if TYPE_CHECKING:
    from braggflow.show import Preview

_PICTURES = (".png", ".svg", ".pdf")


def show_preview(found: "Preview") -> None:
    """Counts by flag and filter, the strongest peaks, warnings, and what a run would take."""
    console = open_console()
    plain(console, f"{found.source}, frame {found.frame} of {found.frames:,}")
    plain(console, "  " + ", ".join(f"{n:,} {name}" for name, n in found.counts.items()))
    rows = found.rows()
    if rows:
        table = Table(*(Column(name, justify="left" if name == "flags" else "right") for name in found.columns))
        for row in rows:
            table.add_row(*row)
        console.print(table)
        more = found.peaks.sizes["peak"] - len(rows)
        if more > 0:
            plain(console, f"and {more:,} more of lower SNR")
    for warning in found.warnings:
        plain(console, f"warning: {warning}")
    rate = 1 / found.seconds_per_frame if found.seconds_per_frame else 0
    plain(console, f"one core does about {rate:.3g} such frames a second")


def write_picture(found: "Preview", out: Path | None) -> Path:
    """Write the picture; raises `InputError` where the file's kind is not known or it cannot be written."""
    from braggflow.frames import data_set_name

    path = out if out is not None else Path(f"preview_{data_set_name(found.source)}_{found.frame}.png")
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"--out {path}: must end in {', '.join(_PICTURES)}")
    try:
        with written_whole(path) as temporary:
            found.figure.savefig(temporary)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror})") from error
    return path
