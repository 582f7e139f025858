"""A frame with its peaks drawn: the picture for a notebook, a report, a preview."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braggflow.errors import InputError
from braggflow.results import Run, RunFolder, SearchedFrame, open_peaks, open_run_frames, read_run_frame
from braggflow.show.colours import BLUE, VERMILLION
from braggflow.show.drawing import (
    DPI,
    GAP,
    LINE,
    PIXELS_PER_INCH,
    WIDTH,
    Mark,
    NotebookFigure,
    Panel,
    axes_at,
    draw_frame,
    draw_panels,
    fitted_size,
    scale_bar,
)
from braggflow.show.labels import place_labels

#: Enlarged peaks beside a frame that is larger than its picture, and searched pixels on each side of their maxima.
_ENLARGED, _HALF = 4, 7
#: Around the frame, inches: numbers and names of the axes, title and legend, scale of counts.
_LEFT, _BOTTOM, _TOP, _SCALE = 0.75, 0.6, 0.75, 1.0


def frame_figure(seen: SearchedFrame, peaks: xr.Dataset, *, title: str = "") -> NotebookFigure:
    """Draw one frame with its peaks: circles, and squares around those that carry a flag.

    Parameters
    ----------
    seen : SearchedFrame
        The frame; `searched` (y, x) is drawn, its NaN pixels, which were ignored, in blue.
    peaks : xarray.Dataset
        The peaks of this frame on dimension `peak`, as a peak table has them: `y`, `x`, `y_pixel`, `x_pixel`, `snr`,
        `flags`. No peak is no error.
    title : str, optional
        Stands above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Up to 11 inches wide, 200 dots an inch. Grey values are linear near the background and logarithmic above it. A
        frame of more pixels than the picture is drawn by the highest of those that share a place, and up to four peaks,
        of the highest SNR, are enlarged beside it.

    Raises
    ------
    InputError
        Where `peaks` lacks a column.

    Examples
    --------
    >>> import numpy as np
    >>> import braggflow
    >>> from braggflow.results import SearchedFrame
    >>> from braggflow.show import frame_figure
    >>> y, x = np.mgrid[:64, :64]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> floor = np.zeros((), np.float32)
    >>> seen = SearchedFrame(frame, np.zeros(frame.shape, bool), frame.astype(np.float32), floor, bin=1)
    >>> figure = frame_figure(seen, braggflow.find_peaks(frame), title="one spot")
    >>> figure.savefig("spot.png")
    """
    lacking = [name for name in ("y", "x", "y_pixel", "x_pixel", "snr", "flags") if name not in peaks]
    if lacking:
        raise InputError(f"peaks: has no column {lacking[0]!r}; give the table of one frame, as find_peaks returns it")
    shape = seen.searched.shape
    room = (WIDTH - _LEFT - _SCALE, 8.0)
    enlarged = peaks.isel(peak=[])
    if max(shape) / max(fitted_size(shape, *room)) > PIXELS_PER_INCH:
        ranked = np.argsort(-np.nan_to_num(peaks["snr"].values), kind="stable")
        enlarged = peaks.isel(peak=ranked[:_ENLARGED])
    column = 2.5 if enlarged.sizes["peak"] else 0.0
    width, height = fitted_size(shape, room[0] - column, room[1])
    figure = NotebookFigure(figsize=(_LEFT + width + _SCALE + column, height + _BOTTOM + _TOP), dpi=DPI)
    axes = axes_at(figure, _LEFT, _BOTTOM, width, height)
    norm = draw_frame(axes, seen.searched, seen.bin, longest=round(PIXELS_PER_INCH * max(width, height)))
    scale_bar(figure, (_LEFT + width + 0.12, _BOTTOM, 0.16, height), norm)
    _draw_peaks(axes, peaks)
    across, up = figure.get_size_inches()
    figure.text(_LEFT / across, 1 - 0.12 / up, title, fontsize=12, va="top")
    if column:
        letters = list("abcd"[: enlarged.sizes["peak"]])
        panels = [_panel(letter, seen, enlarged.isel(peak=i)) for i, letter in enumerate(letters)]
        side = min(column - 0.45, height / len(letters) - GAP - LINE)
        left = _LEFT + width + _SCALE + 0.3
        draw_panels(figure, panels, left=left, top=_BOTTOM + height + LINE, side=side, columns=1, half=_HALF)
        place_labels(axes, _xy(enlarged), letters, markers=_xy(peaks))
    return figure


def plot_frame(
    shown: "Run | str | Path | ArrayLike", frame: int | None = None, *, peaks: xr.Dataset | None = None, title: str = ""
) -> NotebookFigure:
    """Draw a frame of a run, or of an array, with its peaks: one line in a notebook.

    Parameters
    ----------
    shown : Run, str, pathlib.Path or array_like
        A run, as `open_run` returns it, or its folder; or an array (y, x) of counts, NaN where a pixel is ignored.
    frame : int, optional
        The number of the frame; without it, the run's frame with the most peaks, and for an array all of `peaks`.
    peaks : xarray.Dataset, optional
        The peaks to draw; by default those of the run, and for an array those that `find_peaks` finds in it.
    title : str, optional
        Stands above the picture; by default the frame's number and how many peaks it has.

    Returns
    -------
    matplotlib.figure.Figure
        The picture, as `frame_figure` describes it. A notebook shows it; `savefig` writes it.

    Raises
    ------
    InputError
        For a frame that the run does not have or could not process, frames that cannot be read, and an array that is
        no single frame.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.show import plot_frame
    >>> run = braggflow.open_run("runs/scan")
    >>> plot_frame(run, 2).savefig("frame.png")

    An array, and what `find_peaks` finds in it:

    >>> plot_frame(braggflow.open_frames("scan.zarr")["frames"].sel(frame=2)).savefig("frame.png")
    """
    if isinstance(shown, Run | str | Path):
        folder = RunFolder(shown.path if isinstance(shown, Run) else Path(shown))
        with open_peaks(folder.path) as table:
            number = processed_frame(table, frame) if frame is not None else fullest_frame(table)
            seen = read_run_frame(open_run_frames(folder), number)
            of_frame = (table if peaks is None else peaks).sel(peak_frame=number).load()
        return frame_figure(seen, of_frame, title=title or f"frame {number}, {_counted(of_frame)}")
    image = np.asarray(shown)
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise InputError(f"array: has shape {image.shape} and dtype {image.dtype}; must be numbers (y, x), one frame")
    seen = SearchedFrame(image, np.zeros(image.shape, bool), image.astype(np.float32), np.zeros((), np.float32), 1)
    if peaks is None:
        from braggflow.pipeline import find_peaks  # here, because its kernels take a second to load

        peaks = find_peaks(image)
    if frame is not None:
        peaks = peaks.sel(peak_frame=frame)
    return frame_figure(seen, peaks, title=title or _counted(peaks))


def processed_frame(table: xr.Dataset, number: int) -> int:
    """`number`, where the run has processed a frame of it; else an `InputError` that says which there are."""
    numbers = table["frame"].values
    at = np.flatnonzero(numbers == number)
    if not len(at):
        span = f"{numbers.min()} to {numbers.max()}" if len(numbers) else "none"
        step = np.unique(np.diff(np.sort(numbers)))
        steps = f" in steps of {step[0]}" if len(step) == 1 and step[0] > 1 else ""
        raise InputError(f"frame {number}: is not in the run, whose {len(numbers):,} frames are {span}{steps}")
    if table["frame_failed"].values[at[0]]:
        raise InputError(f"frame {number}: could not be processed by the run (run.json says why); choose another")
    return int(number)


def fullest_frame(table: xr.Dataset) -> int:
    """The number of the frame with the most peaks; raises `InputError` where no frame could be processed."""
    good = np.flatnonzero(table["frame_failed"].values == 0)
    if not len(good):
        raise InputError("frame: no frame of the run could be processed, so there is none to draw")
    return int(table["frame"].values[good[np.argmax(table["peak_count"].values[good])]])


def _counted(peaks: xr.Dataset) -> str:
    n = peaks.sizes["peak"]
    return f"{n:,} {'peak' if n == 1 else 'peaks'}"


def _xy(peaks: xr.Dataset) -> NDArray[np.float64]:
    return np.column_stack([peaks["x"].values, peaks["y"].values])


def _draw_peaks(axes: Any, peaks: xr.Dataset) -> None:
    flagged = peaks["flags"].values != 0
    handles = []
    for where, marker, colour, name in (
        (~flagged, "o", VERMILLION, "without flags"),
        (flagged, "s", BLUE, "flagged (see the column flags)"),
    ):
        if n := np.count_nonzero(where):
            x, y = _xy(peaks)[where].T
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": colour, "marker": marker, "linewidths": 1.1}
            handles.append(axes.scatter(x, y, s=55, label=f"{n:,} {name}", **ring))
    if handles:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=10, borderpad=0.2
        )


def _panel(letter: str, seen: SearchedFrame, peak: xr.Dataset) -> Panel:
    mark = Mark(float(peak["y"]), float(peak["x"]), "+", BLUE if int(peak["flags"]) else VERMILLION)
    return Panel([f"{letter}: SNR {float(peak['snr']):.3g}"], seen, peak, [mark])
