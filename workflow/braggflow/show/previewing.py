"""One frame looked at before a run: its peaks, what filters dropped, what looks wrong; in this process."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from braggflow.config import RunConfig, as_config
from braggflow.convert import open_source
from braggflow.errors import InputError
from braggflow.frames import OpenedSeries, frames_from_array, open_series, settled_constants
from braggflow.peak_table import Flag, to_dataset
from braggflow.pipeline import SampledFrame, look_at_frame, look_at_frames, sample_warnings
from braggflow.results import SearchedFrame, read_run_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Peaks that the table shows, from the highest SNR on.
_LISTED = 10


@dataclass(frozen=True)
class Preview:
    """A frame and its peaks, as `preview` finds them; a notebook shows picture, table and warnings.

    Attributes
    ----------
    source : str
        What the frame is of.
    frame : int
        Its number.
    frames : int
        Frames of the series that the configuration selects.
    peaks : xarray.Dataset
        The peak table of the frame, as `find_peaks` returns it.
    removed : dict of str to int
        Maxima that filters dropped, by filter.
    warnings : list of str
        What looks wrong in this frame and in up to five others, a sentence each.
    seconds_per_frame : float
        What one core takes for a frame.
    seen : SearchedFrame
        The frame as it was searched.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("series.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> seen = braggflow.preview("series.zarr", frame=2)
    >>> seen.frame, seen.frames, seen.counts["peaks"] == seen.peaks.sizes["peak"]
    (2, 4, True)
    """

    source: str
    frame: int
    frames: int
    peaks: xr.Dataset
    removed: dict[str, int]
    warnings: list[str]
    seconds_per_frame: float
    seen: SearchedFrame

    @cached_property
    def figure(self) -> "Figure":
        """The picture of the frame with its peaks."""
        from braggflow.show.frame_pictures import frame_figure  # matplotlib takes half a second

        n = self.peaks.sizes["peak"]
        title = f"{Path(self.source).name}, frame {self.frame}: {n:,} peak{'s' * (n != 1)}"
        return frame_figure(self.seen, self.peaks, title=title)

    @property
    def counts(self) -> dict[str, int]:
        """Peaks, those without a flag, those with each flag, and what filters dropped."""
        flags = self.peaks["flags"].values
        of_flags = {str(flag.name): int(np.count_nonzero(flags & flag)) for flag in Flag}
        return {
            "peaks": len(flags),
            "without flags": int(np.count_nonzero(flags == 0)),
            **{name: n for name, n in of_flags.items() if n},
            **{f"dropped by {name}": n for name, n in self.removed.items() if n},
        }

    #: Heads of what `rows` gives.
    columns = ("y, px", "x, px", "SNR", "FWHM, px", "flags")

    def rows(self) -> list[tuple[str, ...]]:
        """The peaks of the highest SNR as text: y, x with their uncertainty, SNR, width, flags."""
        strongest = np.argsort(-np.nan_to_num(self.peaks["snr"].values), kind="stable")[:_LISTED]
        names = ("y", "y_std", "x", "x_std", "snr", "fwhm_major", "fwhm_minor", "flags")
        table = self.peaks.isel(peak=strongest)
        return [_row(*values) for values in zip(*(table[name].values for name in names), strict=True)]

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.counts.items())
        lines = [f"<braggflow preview of {self.source}, frame {self.frame} of {self.frames:,}: {counts}>"]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _repr_html_(self) -> str:
        content = BytesIO()
        self.figure.savefig(content, format="png")
        picture = (
            f'<img style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
        )
        told = "".join(f"<p>warning: {escape(warning)}</p>" for warning in self.warnings)
        counts = escape(", ".join(f"{n:,} {name}" for name, n in self.counts.items()))
        head = "".join(f"<th>{name}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        return f"{told}<p>{counts}</p>{picture}<table><tr>{head}</tr>{body}</table>"


def _row(*values: Any) -> tuple[str, ...]:
    y, y_std, x, x_std, snr, major, minor, flags = values

    def position(at: float, std: float) -> str:
        return f"{at:.2f}" if not np.isfinite(std) else f"{at:.2f} ± {std:.2f}"

    width = f"{major:.1f} × {minor:.1f}" if np.isfinite(major) else ""
    named = ", ".join(str(flag.name) for flag in Flag if flags & flag)
    return position(y, y_std), position(x, x_std), f"{snr:.1f}", width, named


def preview(
    source: "str | Path | xr.Dataset | xr.DataArray",
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    frame: int | None = None,
) -> Preview:
    """Look at one frame with its peaks, before a run, in this process: no workers are started, nothing is written.

    Parameters
    ----------
    source : str, pathlib.Path, xarray.Dataset or xarray.DataArray
        A frames store, or anything that `ingest` reads: a file, ``FILE.h5:/path/in/it``, a folder, a pattern; or
        frames in memory, as `find_peaks` takes them.
    config : RunConfig, mapping, str or pathlib.Path, optional
        The configuration, or the name of its YAML file. Default: every key at its default.
    frame : int, optional
        The number of the frame. Default: the middle one of those selected.

    Returns
    -------
    Preview
        The frame's peaks, what filters dropped, and warnings; a notebook shows them with a picture. The peaks are
        exactly those that `run` finds in this frame with this configuration.

    Raises
    ------
    InputError
        Where the source cannot be opened, has no frame of this number, or the frame cannot be processed.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    >>> seen = braggflow.preview("scan.zarr", {"detect": {"minval": "6 sigma"}}, frame=2)
    >>> seen
    <braggflow preview of scan.zarr, frame 2 of 4: ... peaks, ... without flags...
    >>> seen.figure.savefig("frame_2.png")
    """
    settings = as_config(config if config is not None else {})
    in_memory = isinstance(source, xr.Dataset | xr.DataArray)
    data = frames_from_array(source) if in_memory else open_source(source)  # type: ignore[arg-type]
    name = "array" if in_memory else str(source)
    opened, constants = settled_constants(open_series(data, settings), judge=True)
    if not opened.numbers:
        raise InputError(f"frames.start: {settings.frames.start} selects none of the frames of {name}")
    position = _position(opened, frame, name)
    shown = look_at_frame(opened, position)
    if shown.failure:
        raise InputError(f"{name}: frame {shown.number}: {shown.failure}")
    others = look_at_frames(opened)
    return Preview(
        source=name,
        frame=shown.number,
        frames=len(opened.numbers),
        peaks=_table(opened, position, shown),
        removed=shown.removed,
        warnings=[*constants.notes, *sample_warnings(settings, [shown, *others.frames])],
        seconds_per_frame=others.seconds_per_frame,
        seen=read_run_frame(opened, shown.number),
    )


def _position(opened: OpenedSeries, frame: int | None, name: str) -> int:
    numbers = opened.numbers
    if frame is None:
        return len(numbers) // 2
    if frame not in numbers:
        raise InputError(
            f"--frame {frame}: {name} has no such frame; there are {len(numbers):,}, {numbers[0]} to {numbers[-1]}"
        )
    return opened.position_of(frame)


def _table(opened: OpenedSeries, position: int, shown: SampledFrame) -> xr.Dataset:
    coords = opened.data[["frame"]].isel(frame=opened.positions[position : position + 1]).load()
    return to_dataset(shown.table, coords, (), {"source": "preview"})
