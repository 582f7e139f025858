"""The animation of a run's frames with their located peaks: GIF always, MP4 where ffmpeg is at hand."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.animation import FFMpegWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image as Pillow

from braggflow.errors import InputError
from braggflow.files import written_whole
from braggflow.frames import OpenedSeries
from braggflow.results import RunFolder, open_peaks, open_run_frames, read_run_frame
from braggflow.show.drawing import BLACK, IGNORED, METHOD_COLOURS, Image, draw_frame, intensity_norm, shrink

#: Pixels along the longer side of a drawn frame.
FRAME_PIXELS = 600
_DPI = 100
#: Frames that the movie's one intensity scale is taken from.
_SCALE_FRAMES = 9


def write_movie(
    run: Path,
    out: Path | None = None,
    *,
    fps: int = 12,
    frames: slice = slice(None),
    max_frames: int = 200,
) -> Path:
    """Write the frames of a run with their located peaks as an animation.

    Parameters
    ----------
    run : pathlib.Path or str
        The run folder, ``OUT/DATASET``.
    out : pathlib.Path or str, optional
        The file, .gif or .mp4; default: `movie.gif` in the run folder. An .mp4 needs the encoder ffmpeg.
    fps : int, default 12
        Frames a second, 1 to 60.
    frames : slice, default slice(None)
        Which frames, by their numbers, both ends included: ``slice(10, 20, 2)``.
    max_frames : int, default 200
        Of longer series every n-th frame is shown, at most so many; the title then says so.

    Returns
    -------
    pathlib.Path
        The file. Large frames are reduced by the highest of their pixels; all frames share one intensity scale.

    Raises
    ------
    InputError
        Naming what is wrong: no run, no frames, another ending, no folder, or no encoder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braggflow.show import write_movie
    >>> write_movie(Path("runs/scan"), frames=slice(0, 1)).name
    'movie.gif'
    """
    folder = RunFolder(Path(run))
    out = folder.path / "movie.gif" if out is None else Path(out)
    _check(out, fps, frames, max_frames)
    with open_peaks(folder.path) as table:
        every = table["frame"].sel(frame=frames)
        step = -(-every.sizes["frame"] // max_frames)
        if not step:
            raise InputError(f"frames: {frames} selects none of frames {_span(table)}")
        numbers = every.values[::step].tolist()
        figure = _Picture(open_run_frames(folder), table, numbers, skipped=step * (frames.step or 1))
        with written_whole(out) as unfinished:  # an interrupted movie does not look like a finished one
            if out.suffix == ".gif":
                _write_gif(unfinished, figure.draw_all(numbers), fps)
            else:
                _write_mp4(unfinished, figure, numbers, fps)
    return out


def _check(out: Path, fps: int, frames: slice, max_frames: int) -> None:
    if out.suffix not in (".gif", ".mp4"):
        raise InputError(f"movie {out}: must end in .gif or .mp4")
    if out.suffix == ".mp4" and not FFMpegWriter.isAvailable():
        encoder = matplotlib.rcParams["animation.ffmpeg_path"]
        raise InputError(f"movie {out}: .mp4 needs the encoder {encoder}, which is not installed; .gif works without")
    if not out.parent.is_dir():
        raise InputError(f"movie {out}: there is no folder {out.parent}")
    if not 1 <= fps <= 60:
        raise InputError(f"fps: {fps} is not accepted; must be 1 to 60")
    if frames.step is not None and frames.step < 1:
        raise InputError(f"frames: a step of {frames.step} is not accepted; must be at least 1")
    if max_frames < 1:
        raise InputError(f"max_frames: {max_frames} is not accepted; must be at least 1")


def _span(table: xr.Dataset) -> str:
    return f"{int(table['frame'].min())} to {int(table['frame'].max())}"


class _Picture:
    """One figure, whose frame, peaks and title are exchanged."""

    def __init__(self, series: OpenedSeries, table: xr.Dataset, numbers: list[int], *, skipped: int) -> None:
        self.series, self.table = series, table
        self.note = (
            f" (every {skipped}th is shown)" if skipped > 3 else ("", "", " (every 2nd)", " (every 3rd)")[skipped]
        )
        names = (str(name) for name, values in table.coords.items() if values.dims == ("frame",) and name != "frame")
        self.coordinate = next((name for name in names if table[name].dtype.kind in "iuf"), None)
        failed = set(table["frame"].values[table["frame_failed"].values != 0].tolist())
        self.failed = failed
        good = [number for number in numbers if number not in failed]
        if not good:
            raise InputError("frames: none of those selected could be processed by the run, so none can be shown")
        scale = np.unique(np.linspace(0, len(good) - 1, _SCALE_FRAMES).round().astype(int))
        images = [shrink(self._searched(good[i]), FRAME_PIXELS)[0] for i in scale]
        height, width = (n * series.config.frames.bin for n in self._searched(good[0]).shape)
        inches = 0.01 * FRAME_PIXELS * np.array([width, height]) / max(height, width) + (0.9, 1.25)
        # Even numbers of pixels, as video encoders ask for.
        self.figure = Figure(figsize=np.round(inches * _DPI / 2) * 2 / _DPI, dpi=_DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.blank = np.full(images[0].shape, np.nan, np.float32)
        left, bottom = 0.7 / inches[0], 0.55 / inches[1]
        self.axes = self.figure.add_axes((left, bottom, 1 - left - 0.2 / inches[0], 1 - bottom - 0.7 / inches[1]))
        norm = intensity_norm(*images)
        draw_frame(self.axes, self._searched(good[0]), series.config.frames.bin, norm, longest=FRAME_PIXELS)
        (self.image,) = self.axes.images
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

    def _searched(self, number: int) -> Image:
        return read_run_frame(self.series, number).searched

    def show(self, number: int) -> None:
        title = f"frame {number}{self.note}"
        if self.coordinate is not None:
            value = self.table[self.coordinate].sel(frame=number)
            title += f", {self.coordinate} {float(value):.5g} {value.attrs.get('units', '')}".rstrip()
        if number in self.failed:
            self.image.set_data(self.blank)
            title += ": could not be processed"
        else:
            self.image.set_data(shrink(self._searched(number), FRAME_PIXELS)[0])
        peaks = self.table[["y", "x", "method"]].sel(peak_frame=number).load()
        for method, ring in self.rings.items():
            chosen = peaks["method"].values == method
            ring.set_offsets(np.column_stack([peaks["x"].values[chosen], peaks["y"].values[chosen]]))
        self.title.set_text(f"{title}, {peaks.sizes['peak']} peaks")

    def draw_all(self, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Pictures (y, x, 3) of frames, one by one."""
        for number in numbers:
            self.show(number)
            self.canvas.draw()  # type: ignore[no-untyped-call]
            yield np.asarray(self.canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


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


def _write_mp4(path: Path, picture: _Picture, numbers: list[int], fps: int) -> None:
    writer = FFMpegWriter(fps=fps, extra_args=["-pix_fmt", "yuv420p"])
    with writer.saving(picture.figure, str(path), _DPI):
        for number in numbers:
            picture.show(number)
            writer.grab_frame()
