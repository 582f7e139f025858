"""A sweep as files: one page that works from disk, a picture, a table, and the recommended configuration."""

import base64
import csv
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from braggflow.errors import not_written
from braggflow.files import written_whole
from braggflow.sweeps.levels import NAMES, Levels, height, units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1120px;
margin: 2em auto; padding: 0 1em } img { max-width: 100% } table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd }
tr.recommended td { background: #fde3d0; font-weight: 600 }
pre { background: #f4f4f4; padding: 0.8em; white-space: pre-wrap }"""
_HELP = (
    "minval and minscore: in the units that are given (–: no such cut). false_peaks: a megapixel (–: null). "
    "Persist: found again in the next frame within {radius:g} px, less what chance does. Repeatability: scatter of the "
    "positions of two halves of the pixels over the stated one; 1 is honest. Distance: of network and fit, median and "
    "95th percentile. False: expected a frame, at most."
)

#: Rows of a table that is unfolded at first.
_FEW = 30


def write_files(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files into a folder, which is made; raises `InputError` where they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with written_whole(folder / name) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise not_written(f"--out {folder}", error) from error
    return {name: folder / name for name in contents}


def page(source: str, looked: str, parts: str, settings: "Figure | None", configuration: str) -> str:
    """The whole sweep as one page; `parts` is HTML, all else plain text."""
    title = escape(f"braggflow sweep: {source}")
    picture = "" if settings is None else f'<img src="{_as_url(settings)}" alt="settings against frame number">'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>"
        f"<body><h1>{title}</h1><p>{escape(looked)}</p>{parts}<h2>Against the frame number</h2>{picture}"
        f"<h2>Recommended</h2><pre>{escape(configuration)}</pre></body></html>"
    )


def as_html(reason: str, figure: "Figure", radius: float, rows: Sequence[Sequence[str]], marked: int | None) -> str:
    """Reason, picture and table; of the `rows` the first are the heads, and the one `marked` is recommended."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body, n = "".join(_row(cells, marked=at == marked) for at, cells in enumerate(rows[1:])), len(rows) - 1
    return (
        f'<p>{escape(reason)}</p><img style="max-width: 100%" src="{_as_url(figure)}" alt="the map of the sweep">'
        f"<details{' open' * (n <= _FEW)}><summary>{n:,} settings</summary><p>{_HELP.format(radius=radius)}</p>"
        f"<table><tr>{head}</tr>{body}</table></details>"
    )


def _row(cells: Sequence[str], *, marked: bool) -> str:
    style = ' class="recommended"' if marked else ""
    return f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def as_csv(found: xr.Dataset, levels: Levels, recommended: tuple[int, ...] | None) -> str:
    """One row a setting: its levels with their units, then every measure of the map; empty: null, or not known."""
    measures = [str(name) for name, values in found.data_vars.items() if "frame" not in values.dims]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_counts = [f"{name}_{units(getattr(levels, name))}" for name in NAMES[:2]]
    writer.writerow([*of_counts, NAMES[2], *measures, "recommended"])
    for place in np.ndindex(*levels.shape):
        of_place = [height(of[at]) for of, at in zip(levels, place, strict=True)]
        values = [*of_place, *(float(found[name].values[place]) for name in measures)]
        writer.writerow([*(f"{v:.6g}" if np.isfinite(v) else "" for v in values), int(place == recommended)])
    return text.getvalue()


def as_png(figure: "Figure") -> bytes:
    """A figure as the content of a file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _as_url(figure: "Figure") -> str:
    return f"data:image/png;base64,{base64.b64encode(as_png(figure)).decode()}"
