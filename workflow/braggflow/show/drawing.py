"""How a frame is drawn: its grey scale, its place in a picture, marks on it, and enlarged parts of it.

Frames are drawn as on the detector: `x (pixel)` to the right, `y (pixel)` downwards, pixel centres at whole numbers, in
pixels of the detector also where `bin` × `bin` of them were summed. Low counts are white, high ones black, ignored
pixels (NaN) pale blue. Markers are in the colours of Okabe & Ito (Color Universal Design, 2008), which colour-blind
eyes tell apart.

Axes are put at places given in inches: to let matplotlib find places takes longer than all the drawing.
"""

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from braggflow.peak_table import Method
from braggflow.results import SearchedFrame

Image = NDArray[np.float32]

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"
IGNORED = "#bcdcf0"
METHOD_COLOURS = {
    Method.braggnn: PURPLE,
    Method.compact: BLUE,
    Method.gaussian: VERMILLION,
    Method.pseudo_voigt: ORANGE,
    Method.centroid: GREEN,
    Method.pixel: BLACK,
    Method.disk: VERMILLION,
}
#: Figures are this wide, in inches (at 100 dots an inch: a page's width on a screen).
WIDTH = 11.0
#: Dots an inch: two for each of a page, as sharp as today's screens.
DPI = 200
#: Greys of a frame: as many as eyes tell apart in it, and few enough for small files.
_GREYS = 48
#: Pixels of a frame that its grey scale's background is taken from, at most.
_SAMPLE = 250_000


def intensity_norm(*images: Image) -> FuncNorm:
    """A grey scale for frames (y, x): linear about the background level, logarithmic well above it (asinh).

    Level and width of the background are robust (median, median absolute deviation), so that a few bright pixels or a
    diffuse background leave weak peaks visible. NaN is left out.
    """
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

    def forward(counts: Any) -> Any:
        return np.arcsinh((counts - level) / width)

    def inverse(grey: Any) -> Any:
        return np.sinh(grey) * width + level

    return FuncNorm((forward, inverse), vmin=low, vmax=high, clip=True)


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


def draw_frame(
    axes: Axes,
    image: Image,
    bin: int,  # noqa: A002
    norm: FuncNorm | None = None,
    *,
    longest: int,
) -> FuncNorm:
    """Draw a frame (y, x), of `bin` × `bin` detector pixels each, with at most `longest` drawn pixels along a side.

    Returns the grey scale: `norm`, or without one that of the drawn pixels.
    """
    small, factor = shrink(image, longest)
    norm = intensity_norm(small) if norm is None else norm
    bottom, right = (n * factor * bin - 0.5 for n in small.shape)
    place: dict[str, Any] = {"extent": (-0.5, right, bottom, -0.5), "origin": "upper", "aspect": "auto"}
    axes.imshow(small, cmap=grey(), norm=norm, interpolation="nearest", **place)
    axes.set(
        xlim=(-0.5, image.shape[1] * bin - 0.5),
        ylim=(image.shape[0] * bin - 0.5, -0.5),
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


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float, **keywords: Any) -> Axes:
    """Axes at a place in inches from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), **keywords)


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
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("counts")
    axes.tick_params(labelsize=9)
    return axes


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


def draw_around(axes: Axes, seen: SearchedFrame, peak: xr.Dataset, half: int, *, norm: Normalize | None) -> None:
    """Draw the square around a peak's maximum; without a `norm` from its lowest pixel to the maximum."""
    window, extent = around(seen, peak, half)
    if norm is None:  # a brighter neighbour does not set the scale
        finite = window[np.isfinite(window)]
        low, high = (float(finite.min()), float(window[half, half])) if finite.size else (0.0, 1.0)
        norm = Normalize(low, high if high > low else low + 1)
    axes.imshow(window, cmap=grey(), norm=norm, extent=extent, origin="upper", interpolation="nearest", aspect="auto")
    axes.set(xlim=extent[:2], ylim=extent[2:], autoscale_on=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=8, length=2, pad=2)


def mark(axes: Axes, x: Any, y: Any, marker: str, colour: str) -> None:
    """A marker of thin lines with white around it, which keeps it visible on dark pixels."""
    for width, under in ((3.5, "white"), (1.6, colour)):
        axes.scatter([float(x)], [float(y)], s=130, marker=marker, color=under, linewidths=width)
