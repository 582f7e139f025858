"""The animation of a run's frames with their located peaks, as GIF or MP4."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image as Pillow

from braggflow.errors import InputError
from braggflow.files import written_whole
from braggflow.frames import OpenedSeries
from braggflow.peak_table import Method
from braggflow.results import RunFolder, open_peaks, open_run_frames, read_run_frame
from braggflow.show.colours import BLACK, IGNORED, METHOD_COLOURS, TRACK_COLOURS
from braggflow.show.drawing import Image, contrast_norm, draw_frame, shrink
from braggflow.show.of_tracks.trails import Trails
from braggflow.show.series_axis import axis_of_series, coordinates

#: Pixels along the longer side of a drawn frame.
FRAME_PIXELS = 600
_DPI = 100
#: Frames that the movie's one intensity scale is taken from.
_SCALE_FRAMES = 9
#: Quality of a video, of 10: spots of one pixel stay sharp.
_QUALITY = 8
#: Coordinates of the frame in the caption, at most, and letters on a line of it.
_COORDINATES, _LINE = 4, 72


def write_movie(
    run: Path,
    out: Path | None = None,
    *,
    fps: int = 12,
    frames: slice = slice(None),
    max_frames: int = 200,
    trails: int = 0,
    crop: tuple[slice, slice] | None = None,
    contrast: str = "auto",
) -> Path:
    """Write the frames of a run with their located peaks as an animation.

    Parameters
    ----------
    run : pathlib.Path or str
        The run folder, ``OUT/DATASET``.
    out : pathlib.Path or str, optional
        The file, .gif or .mp4; default: `movie.gif` in the run folder.
    fps : int, default 12
        Frames a second, 1 to 60.
    frames : slice, default slice(None)
        Which frames, by their numbers, both ends included: ``slice(10, 20, 2)``.
    max_frames : int, default 200
        Of longer series every n-th frame is shown, at most so many; the title then says so.
    trails : int, default 0
        Where the peaks of so many frames before were, the paler the older: lines in the colour of each track where the
        peaks were followed, dots of the others.
    crop : tuple of slice, optional
        Rows and columns that are shown, pixels of the detector: ``(slice(100, 200), slice(0, 300))``.
    contrast : str, default "auto"
        ``"auto"``: linear near the background and logarithmic above it; ``"linear"``; ``"log"``; or ``"LOW:HIGH"``:
        linear between these counts.

    Returns
    -------
    pathlib.Path
        The file. The title has the frame's number and its coordinates (omega, time, voltage, ...). Large frames are
        reduced by the highest of their pixels; all frames share one intensity scale.

    Raises
    ------
    InputError
        Naming what is wrong: no run, no frames, another ending, no folder, a crop beyond the frame, or no encoder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.show import write_movie
    >>> write_movie(Path("runs/scan"), frames=slice(0, 1)).name
    'movie.gif'

    A part of the frames, with where the peaks of two frames before were:

    >>> write_movie("runs/scan", "part.mp4", trails=2, crop=(slice(0, 40), slice(10, 60))).name
    'part.mp4'
    """
    folder = RunFolder(Path(run))
    out = folder.path / "movie.gif" if out is None else Path(out)
    _check(out, fps, frames, max_frames, trails)
    with open_peaks(folder.path) as table:
        every = table["frame"].sel(frame=frames)
        step = -(-every.sizes["frame"] // max_frames)
        if not step:
            raise InputError(f"frames: {frames} selects none of frames {_span(table)}")
        numbers = every.values[::step].tolist()
        skipped = step * (frames.step or 1)
        series = open_run_frames(folder)
        picture = _Picture(series, table, numbers, skipped=skipped, trails=trails, crop=crop, contrast=contrast)
        with written_whole(out) as unfinished:  # an interrupted movie does not look like a finished one
            write = _write_gif if out.suffix == ".gif" else _write_mp4
            write(unfinished, picture.draw_all(numbers), fps)
    return out


def _check(out: Path, fps: int, frames: slice, max_frames: int, trails: int) -> None:
    if out.suffix not in (".gif", ".mp4"):
        raise InputError(f"movie {out}: must end in .gif or .mp4")
    if out.suffix == ".mp4":
        from imageio_ffmpeg import get_ffmpeg_exe  # here, because a GIF does not need it

        try:
            get_ffmpeg_exe()
        except RuntimeError as error:  # a machine that imageio-ffmpeg has no encoder for
            raise InputError(f"movie {out}: .mp4 needs the encoder ffmpeg ({error}); .gif works without") from error
    if not out.parent.is_dir():
        raise InputError(f"movie {out}: there is no folder {out.parent}")
    if not 1 <= fps <= 60:
        raise InputError(f"fps: {fps} is not accepted; must be 1 to 60")
    if frames.step is not None and frames.step < 1:
        raise InputError(f"frames: a step of {frames.step} is not accepted; must be at least 1")
    if max_frames < 1:
        raise InputError(f"max_frames: {max_frames} is not accepted; must be at least 1")
    if trails < 0:
        raise InputError(f"trails: {trails} is not accepted; must be at least 0")


def _span(table: xr.Dataset) -> str:
    return f"{int(table['frame'].min())} to {int(table['frame'].max())}"


class _Picture:
    """One figure, whose frame, peaks and title are exchanged."""

    def __init__(
        self,
        series: OpenedSeries,
        table: xr.Dataset,
        numbers: list[int],
        *,
        skipped: int = 1,
        trails: int = 0,
        crop: tuple[slice, slice] | None = None,
        contrast: str = "auto",
    ) -> None:
        self.series, self.table, self.trails = series, table, trails
        self.note = (
            f" (every {skipped}th is shown)" if skipped > 3 else ("", "", " (every 2nd)", " (every 3rd)")[skipped]
        )
        self.coordinates = _told_coordinates(table)
        self.failed = set(table["frame"].values[table["frame_failed"].values != 0].tolist())
        good = [number for number in numbers if number not in self.failed]
        if not good:
            raise InputError("frames: none of those selected could be processed by the run, so none can be shown")
        self.crop, bin_ = crop, series.config.frames.bin
        first, corner = self._shown(good[0])
        scale = np.unique(np.linspace(0, len(good) - 1, _SCALE_FRAMES).round().astype(int))
        images = [shrink(read_run_frame(series, good[i]).searched, FRAME_PIXELS)[0] for i in scale]
        height, width = first.shape
        inches = 0.01 * FRAME_PIXELS * np.array([width, height]) / max(height, width) + (0.9, 1.25)
        inches = np.maximum(inches, (4.5, 2))  # room for words, also above a narrow frame
        # Even numbers of pixels, as video encoders ask for.
        self.figure = Figure(figsize=np.round(inches * _DPI / 2) * 2 / _DPI, dpi=_DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.blank = np.full(shrink(first, FRAME_PIXELS)[0].shape, np.nan, np.float32)
        left, bottom = 0.7 / inches[0], 0.55 / inches[1]
        self.axes = self.figure.add_axes((left, bottom, 1 - left - 0.2 / inches[0], 1 - bottom - 0.7 / inches[1]))
        draw_frame(self.axes, first, bin_, contrast_norm(contrast, *images), longest=FRAME_PIXELS, corner=corner)
        (self.image,) = self.axes.images
        self.dots = self.axes.scatter([], [], s=9, linewidths=0)
        self.paths = LineCollection([], linewidths=1.4, capstyle="butt")
        self.axes.add_collection(self.paths, autolim=False)
        self.tracks = Trails(table) if trails else None
        self.rings = {
            method: self.axes.scatter([], [], s=50, facecolors="none", edgecolors=colour)
            for method, colour in METHOD_COLOURS.items()
        }
        used = set(table["method"].values.tolist())
        handles = [
            Line2D([], [], linestyle="none", marker="o", fillstyle="none", color=colour, label=method.name)
            for method, colour in METHOD_COLOURS.items()
            if method in used
        ]
        if handles:
            self.figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False, fontsize=9)
        self.title = self.axes.set_title("", fontsize=10)

    def _shown(self, number: int) -> tuple[Image, tuple[int, int]]:
        """The part of a frame that is shown, and where it begins on the detector (y, x)."""
        image, bin_ = read_run_frame(self.series, number).searched, self.series.config.frames.bin
        if self.crop is None:
            return image, (0, 0)
        rows, columns = (
            _cut(part, n, bin_, name) for part, n, name in zip(self.crop, image.shape, ("rows", "columns"), strict=True)
        )
        return image[rows, columns], (rows.start * bin_, columns.start * bin_)

    def show(self, number: int) -> None:
        peaks = self.table[["y", "x", "method"]].sel(peak_frame=number).load()
        self.image.set_data(self.blank if number in self.failed else shrink(self._shown(number)[0], FRAME_PIXELS)[0])
        for method, ring in self.rings.items():
            chosen = peaks["method"].values == method
            ring.set_offsets(_points(peaks)[chosen])
        self._trail(number)
        self.title.set_text(self._words(number, peaks.sizes["peak"]))

    def _words(self, number: int, n: int) -> str:
        """What stands above a frame of `n` peaks, on a second line what its coordinates are where that is long."""
        named, told = f"frame {number}{self.note}", [say(number) for say in self.coordinates]
        found = ": could not be processed" * (number in self.failed) + f", {n} peaks"
        line = ", ".join([named, *told]) + found
        return line if len(line) <= _LINE else "\n".join([named + found, *wrap(", ".join(told), _LINE)])

    def _trail(self, number: int) -> None:
        """Lines along tracks of the frames before, and dots where peaks were that are on none."""
        if self.tracks is not None:
            found = self.tracks.before(number, self.trails)
            self.paths.set_segments(list(found.places[:, :, ::-1]))
            colours = [TRACK_COLOURS[track % len(TRACK_COLOURS)] for track in found.track.tolist()]
            self.paths.set_color([to_rgba(name, 0.9 * (1 - age)) for name, age in zip(colours, found.age, strict=True)])
        numbers = self.table["frame"].values
        at = int(np.searchsorted(numbers, number))
        before = numbers[max(0, at - self.trails) : at]
        if not len(before):
            self.dots.set_offsets(np.empty((0, 2)))
            return
        followed = self.tracks is not None and self.tracks.followed
        columns = ["y", "x", "method", *(["track_id"] if followed else [])]
        peaks = self.table[columns].sel(peak_frame=slice(before[0], before[-1])).load()
        if followed:
            peaks = peaks.isel(peak=np.flatnonzero(peaks["track_id"].values < 0))
        ago = at - np.searchsorted(numbers, peaks["peak_frame"].values)
        methods, alpha = peaks["method"].values, 0.9 * (1 - (ago - 1) / self.trails)
        rgba: Any = [to_rgba(METHOD_COLOURS[Method(of)], a) for of, a in zip(methods, alpha, strict=True)]
        self.dots.set_offsets(_points(peaks))
        self.dots.set_facecolor(rgba)

    def draw_all(self, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Pictures (y, x, 3) of frames, one by one."""
        for number in numbers:
            self.show(number)
            self.canvas.draw()  # type: ignore[no-untyped-call]
            yield np.asarray(self.canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _points(peaks: xr.Dataset) -> NDArray[np.float64]:
    return np.column_stack([peaks["x"].values, peaks["y"].values])


def _cut(part: slice, n: int, bin_: int, name: str) -> slice:
    """The pixels of the searched frame, `n` along an axis, that a part of the detector's lies in."""
    first, stop = part.start or 0, n * bin_ if part.stop is None else part.stop
    if part.step not in (None, 1) or not 0 <= first < stop <= n * bin_:
        raise InputError(f"crop: {name} {first}:{stop} are not accepted; must be a part of 0:{n * bin_}")
    return slice(first // bin_, -(-stop // bin_))


def _told_coordinates(table: xr.Dataset) -> list[Callable[[int], str]]:
    """What is said of a frame's coordinates, by its number: of the series' axis first, then of others that vary."""
    first = axis_of_series(table).name
    names = sorted(coordinates(table), key=lambda name: name != first)
    return [partial(_told, table[name]) for name in names[:_COORDINATES]]


def _told(coordinate: xr.DataArray, number: int) -> str:
    value = coordinate.sel(frame=number)
    if value.dtype.kind == "M":
        words = str(value.values.astype("datetime64[s]")).replace("T", " ")
    elif value.dtype.kind == "m":
        words = f"{value.values / np.timedelta64(1, 's'):.5g} s"
    else:
        words = f"{float(value):.5g} {value.attrs.get('units', '')}".rstrip()
    return f"{coordinate.name} {words}"


def _write_gif(path: Path, pictures: Iterator[NDArray[np.uint8]], fps: int) -> None:
    palette = _palette()
    # One palette for all frames, without dithering: greys stay the same from frame to frame, and files small.
    frames = (Pillow.fromarray(picture).quantize(palette=palette, dither=Pillow.Dither.NONE) for picture in pictures)
    first = next(frames)
    first.save(path, format="GIF", save_all=True, append_images=frames, duration=round(1000 / fps), loop=0)


def _palette() -> Pillow.Image:
    """64 greys, and the other colours of the picture mixed with white."""
    # Pillow takes the colour nearest to the multiples of 4 below a pixel's: the last grey but one lets white be white.
    colours = [np.full(3, grey / 255) for grey in (*range(0, 252, 4), 255)]
    for name in {*METHOD_COLOURS.values(), IGNORED} - {BLACK}:
        colours += [np.array(to_rgb(name)) * (1 - white) + white for white in np.linspace(0, 0.75, 16)]
    image = Pillow.new("P", (1, 1))
    image.putpalette((np.array(colours) * 255).round().astype(np.uint8).tobytes())
    return image


def _write_mp4(path: Path, pictures: Iterator[NDArray[np.uint8]], fps: int) -> None:
    from imageio_ffmpeg import write_frames

    first = next(pictures)
    height, width = first.shape[:2]
    encoder = write_frames(path, (width, height), fps=fps, codec="libx264", quality=_QUALITY, macro_block_size=2)
    encoder.send(None)
    try:
        for picture in chain([first], pictures):
            encoder.send(np.ascontiguousarray(picture))
    finally:
        encoder.close()
