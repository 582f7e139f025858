"""How a frame is drawn: its grey scale, its place in a picture, enlarged parts of it, and the file of a picture.

Frames are drawn as on the detector: `x (pixel)` to the right, `y (pixel)` downwards, pixel centres at whole numbers, in
pixels of the detector also where `bin` × `bin` of them were summed. Low counts are white, high ones black, ignored
pixels (NaN) pale blue.

Axes are put at places given in inches: to let matplotlib find places takes longer than all the drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray
from PIL import Image as Pillow

from braggflow.errors import InputError
from braggflow.results import SearchedFrame
from braggflow.show.colours import GREEN, IGNORED

Image = NDArray[np.float32]

#: Figures are this wide, in inches (at 100 dots an inch: a page's width on a screen).
WIDTH = 11.0
#: Dots an inch: two for each of a page, as sharp as today's screens.
DPI = 200
#: A frame is drawn with at most this many pixels an inch, so that a spot of one pixel is two dots wide.
PIXELS_PER_INCH = 104
#: Free room beside and below a panel, and for each line of words above it, inches.
GAP, LINE = 0.22, 0.17
#: Greys of a frame: as many as eyes tell apart in it, and few enough for small files.
_GREYS = 32
#: Pixels of a frame that its grey scale's background is taken from, at most.
_SAMPLE = 250_000


def intensity_norm(*images: Image) -> FuncNorm:
    """A grey scale for frames (y, x): linear about the background level, logarithmic well above it (asinh).

    Level and width of the background are robust (median, median absolute deviation), so that a few bright pixels or a
    diffuse background leave weak peaks visible. NaN is left out.
    """
    level, width, low, high = _range(images)

    def forward(counts: Any) -> Any:
        return np.arcsinh((counts - level) / width)

    def inverse(grey: Any) -> Any:
        return np.sinh(grey) * width + level

    return FuncNorm((forward, inverse), vmin=low, vmax=high, clip=True)


def _range(images: Sequence[Image]) -> tuple[float, float, float, float]:
    """Level of the background and three times its standard deviation; the counts that are white and black."""
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images]).astype(np.float64)
    if values.size == 0:
        values = np.zeros(1)
    sample = values[:: -(-values.size // _SAMPLE)]
    level = float(np.median(sample))
    width = 3 * 1.4826 * float(np.median(np.abs(sample - level)))
    if width == 0:  # a frame cut off by its detector: its lowest counts, which are peaks, must stand out from white
        above = values[values > level]
        width = (float(above.min()) - level) / 10 if above.size else 1.0
    low = max(float(values.min()), level - width)
    foreground = values[values > level + width]
    high = max(float(np.percentile(foreground, 99.5)) if foreground.size else level, level + 3 * width)
    return level, width, low, high


def contrast_norm(contrast: str, *images: Image) -> FuncNorm:
    """The grey scale that `contrast` names.

    `auto` is `intensity_norm`, `linear` has its ends, in `log` the counts above the background are logarithmic, and
    `LOW:HIGH` is linear between these counts. Raises `InputError` for anything else.
    """
    if contrast == "auto":
        return intensity_norm(*images)
    level, width, low, high = _range(images)
    if contrast == "log":
        least = width / 3

        def forward(counts: Any) -> Any:
            return np.log(np.maximum(counts - level, least))

        return FuncNorm((forward, lambda grey: np.exp(grey) + level), vmin=level + least, vmax=high, clip=True)
    if contrast != "linear":
        try:
            low, high = map(float, contrast.split(":"))
        except ValueError:
            low = high = np.nan
        if not low < high < np.inf:
            raise InputError(f"contrast: {contrast} is not accepted; must be auto, linear, log, or LOW:HIGH (counts)")
    return FuncNorm((np.asarray, np.asarray), vmin=low, vmax=high, clip=True)


def shrink(image: Image, longest: int) -> tuple[Image, int]:
    """The highest count of each `factor` × `factor` pixels, and the factor for a longer side of at most `longest`.

    Averages would hide sharp peaks. A pixel is NaN where all of its pixels are.
    """
    factor = -(-max(image.shape) // longest)
    if factor == 1:
        return image, 1
    rows, columns = (-(-n // factor) for n in image.shape)
    padded = np.full((rows * factor, columns * factor), np.nan, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    tall = np.fmax.reduce([padded[i::factor] for i in range(factor)])
    return np.fmax.reduce([tall[:, i::factor] for i in range(factor)]), factor


def grey() -> Colormap:
    """White to black, and pale blue for NaN."""
    return matplotlib.colormaps["Greys"].resampled(_GREYS).with_extremes(bad=IGNORED)


class _Pixels(AxesImage):
    """An image whose pixels are drawn as they are: five times as fast as matplotlib's ways to resample one."""

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False) -> Any:  # noqa: ARG002
        """The colours of the axes' dots, lowest row first as Agg takes them, and the place of the lower left one."""
        shades = np.ascontiguousarray(self.to_rgba(np.ma.asarray(self.get_array()), bytes=True)).view(np.uint32)[..., 0]
        left, right, bottom, top = self.get_extent()
        box = self.axes.bbox
        x, y = (round(edge * magnification) for edge in (box.x0, box.y0))
        width, height = round(box.x1 * magnification) - x, round(box.y1 * magnification) - y
        columns, beside = _pixels_of_dots(width, self.axes.get_xlim(), left, right, shades.shape[1])
        rows, above = _pixels_of_dots(height, self.axes.get_ylim(), top, bottom, shades.shape[0])
        drawn = shades.take(rows, axis=0).take(columns, axis=1)
        drawn[above] = 0
        drawn[:, beside] = 0
        return drawn.view(np.uint8).reshape(height, width, 4), x, y, IdentityTransform()


def _pixels_of_dots(
    n: int, limits: tuple[float, float], start: float, stop: float, n_pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The pixel of an image from `start` to `stop` at each of `n` dots between `limits`, and where there is none."""
    at = limits[0] + (np.arange(n) + 0.5) / n * (limits[1] - limits[0])
    pixel = np.floor((at - start) / (stop - start) * n_pixels).astype(np.int64)
    return np.clip(pixel, 0, n_pixels - 1), (pixel < 0) | (pixel >= n_pixels)


def add_image(axes: Axes, image: Image, extent: tuple[float, float, float, float], norm: Normalize) -> None:
    """Draw an image (y, x) with its first row on top, at (left, right, bottom, top) of the axes' data."""
    pixels = _Pixels(axes, cmap=grey(), norm=norm, interpolation="nearest", extent=extent, origin="upper")
    pixels.set_data(image)
    pixels.set_clip_path(axes.patch)
    axes.add_image(pixels)


def draw_frame(
    axes: Axes,
    image: Image,
    bin: int,  # noqa: A002
    norm: FuncNorm | None = None,
    *,
    longest: int,
    corner: tuple[int, int] = (0, 0),
) -> FuncNorm:
    """Draw a frame (y, x), of `bin` × `bin` detector pixels each, with at most `longest` drawn pixels along a side.

    `corner` is the (y, x) of its first pixel on the detector.
    Returns the grey scale: `norm`, or without one that of the drawn pixels.
    """
    small, factor = shrink(image, longest)
    norm = intensity_norm(small) if norm is None else norm
    top, left = (start - 0.5 for start in corner)
    rows, columns = (n * factor * bin for n in small.shape)
    add_image(axes, small, (left, left + columns, top + rows, top), norm)
    axes.set(
        xlim=(left, left + image.shape[1] * bin),
        ylim=(top + image.shape[0] * bin, top),
        xlabel="x (pixel)",
        ylabel="y (pixel)",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    return norm


def fitted_size(shape: tuple[int, int], width: float, height: float) -> tuple[float, float]:
    """Width and height of a frame of `shape` (y, x) with square pixels, in a room of `width` × `height` (inches)."""
    scale = min(width / shape[1], height / shape[0])
    # Pixels of a very long or flat frame are not square, or nothing of it would be seen.
    return max(shape[1] * scale, 0.08 * width), max(shape[0] * scale, 0.08 * height)


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float, *, ylabel: float = 0.47) -> Axes:
    """Axes at a place in inches from the figure's lower left corner; their y label stands `ylabel` inches beside them.

    Where labels and title stand is said, for to find that out from the extents of all numbers is half of the drawing.
    """
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.xaxis.set_label_coords(0.5, -0.28 / height)
    axes.yaxis.set_label_coords(-ylabel / width, 0.5)
    axes.set_title("", y=1.0)
    return axes


def scale_bar(figure: Figure, place: tuple[float, float, float, float], norm: FuncNorm) -> Axes:
    """The grey scale with its counts, at a place (left, bottom, width, height) in inches."""
    axes = axes_at(figure, *place)
    greys = np.linspace(0, 1, _GREYS)
    axes.imshow(greys[:, None], cmap=grey(), vmin=0, vmax=1, extent=(0, 1, 0, 1), origin="lower", aspect="auto")
    counts = np.unique([float(f"{value:.2g}") for value in np.asarray(norm.inverse(np.linspace(0.02, 0.98, 5)))])
    counts = counts[(counts >= norm.vmin) & (counts <= norm.vmax)]
    axes.set_yticks(np.asarray(norm(counts)), [f"{value:g}" for value in counts])
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_title("counts", fontsize=9, y=1.0)
    axes.tick_params(labelsize=9)
    return axes


def png(figure: Figure, *, dpi: float = DPI) -> bytes:
    """A figure as a PNG file of up to 256 colours: a third of the size of one of all, in a third of the time."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    dots = np.array(canvas.buffer_rgba()).view("<u4")[..., 0]  # type: ignore[no-untyped-call]
    del canvas.renderer  # its memory would wait for the collector of circles
    cells = ((dots << 7) & 0x7C00 | (dots >> 6) & 0x3E0 | (dots >> 19) & 0x1F).astype(np.uint16)
    there = np.zeros(1 << 15, bool)
    there[cells] = True
    kept = np.flatnonzero(there)
    if len(kept) > 256:
        kept = np.argsort(-np.bincount(cells.ravel(), minlength=1 << 15), kind="stable")[:256]
    colours = _colours_of(kept)
    nearest = np.zeros(1 << 15, np.uint8)
    for of in np.array_split(np.flatnonzero(there), 16):
        nearest[of] = ((_colours_of(of)[:, None] - colours) ** 2).sum(axis=2).argmin(axis=1)
    image = Pillow.fromarray(nearest[cells])
    image.putpalette(colours.astype(np.uint8).tobytes())
    content = BytesIO()
    image.save(content, format="PNG", compress_level=3)
    return content.getvalue()


def _colours_of(cells: NDArray[Any]) -> NDArray[np.int64]:
    """The colour (n, 3) that stands for each cell of 5 bits a band; black and white stand for themselves."""
    return np.stack([(cells >> shift & 31).astype(np.int64) * 255 // 31 for shift in (10, 5, 0)], axis=1)


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


@dataclass(frozen=True, slots=True)
class Mark:
    """A position drawn in a panel, in pixels of the detector; one that is NaN or lies outside is not drawn."""

    y: float
    x: float
    marker: str
    colour: str
    y_std: float = np.nan
    """Standard uncertainty; NaN where it is unknown."""
    x_std: float = np.nan


@dataclass(frozen=True, slots=True)
class Panel:
    """One enlarged peak."""

    lines: Sequence[str]
    """Words above it."""
    seen: SearchedFrame
    """The frame that it was found in."""
    peak: xr.Dataset
    """Its variables, without dimension."""
    marks: Sequence[Mark] = ()


def around(seen: SearchedFrame, peak: xr.Dataset, half: int) -> tuple[Image, tuple[float, float, float, float]]:
    """The square of `half` searched pixels on each side of a peak's maximum, NaN beyond the frame, and its extent.

    `peak` holds `y_pixel` and `x_pixel` without dimension; the extent (left, right, bottom, top) is in detector pixels.
    """
    row, column = (int(peak[name]) // seen.bin for name in ("y_pixel", "x_pixel"))
    side = 2 * half + 1
    window = np.full((side, side), np.nan, np.float32)
    top, left = row - half, column - half
    inside = seen.searched[max(0, top) : top + side, max(0, left) : left + side]
    window[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
    upper, outer = (start * seen.bin - 0.5 for start in (top, left))
    return window, (outer, outer + side * seen.bin, upper + side * seen.bin, upper)


def panels_height(n_rows: int, side: float, lines: int) -> float:
    """Inches that rows of panels of a `side` take, with so many lines of words above each."""
    return n_rows * (side + GAP + lines * LINE)


def draw_panels(
    figure: Figure,
    panels: Sequence[Panel],
    *,
    left: float,
    top: float,
    side: float,
    columns: int,
    half: int,
    norm: Normalize | None = None,
    lines: int = 1,
    maxima: bool = False,
) -> Axes:
    """Draw panels in rows of `columns`, downwards from a corner (`left`, `top`), all in inches.

    A panel shows `half` searched pixels on each side of its peak's maximum; without a `norm` from white at its lowest
    pixel to black at the maximum, so that a brighter neighbour does not set the scale. All lie in one axes, in inches
    from its upper left corner: many axes would take most of the time of a report. With `maxima` the pixel of the
    maximum is framed.
    """
    rows = -(-len(panels) // columns)
    pitch = side + GAP, side + GAP + lines * LINE
    width, height = columns * pitch[0], rows * pitch[1]
    axes = axes_at(figure, left, top - height, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    borders, bars = [], []
    for i, panel in enumerate(panels):
        x, y = i % columns * pitch[0], i // columns * pitch[1] + lines * LINE
        window, (outer, right, bottom, upper) = around(panel.seen, panel.peak, half)
        scale = side / (right - outer)
        own = _own_norm(window, half) if norm is None else norm
        add_image(axes, window, (x, x + side, y + side, y), own)
        borders.append(_square(x, y, side))
        words = "\n".join(panel.lines)
        axes.text(x + side / 2, y - 0.05, words, ha="center", va="bottom", fontsize=9, linespacing=1.15)
        if maxima:
            pixel = side / (2 * half + 1)
            bars.append((_square(x + half * pixel, y + half * pixel, pixel), GREEN))
        for mark in panel.marks:
            if outer <= mark.x <= right and upper <= mark.y <= bottom:
                at = np.array([x + (mark.x - outer) * scale, y + (mark.y - upper) * scale])
                for thick, colour in ((3.0, "white"), (1.5, mark.colour)):
                    axes.scatter(at[0], at[1], s=90, marker=mark.marker, color=colour, linewidths=thick)
                for std, direction in ((mark.x_std, (1, 0)), (mark.y_std, (0, 1))):
                    if np.isfinite(std):
                        reach = np.multiply(direction, std * scale)
                        ends = np.clip([at - reach, at + reach], (x, y), (x + side, y + side))
                        bars.append(([tuple(end) for end in ends], mark.colour))
    axes.add_collection(LineCollection(borders, colors="black", linewidths=0.8, clip_on=False))
    if bars:
        drawn, colours = zip(*bars, strict=True)
        axes.add_collection(LineCollection(drawn, colors=colours, linewidths=1.5))
    return axes


def _own_norm(window: Image, half: int) -> Normalize:
    finite = window[np.isfinite(window)]
    low = float(finite.min()) if finite.size else 0.0
    high = float(window[half, half])
    return Normalize(low, high if high > low else low + 1)


def _square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
