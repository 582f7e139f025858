"""Counts as colours: how bright which count is shown, and by which colours. All of it is decided on this side.

Colours are those that colour-blind eyes can read: greys, and maps whose lightness rises all along.
"""

from typing import NamedTuple

import numpy as np
from bokeh.palettes import Cividis256, Greys256, Inferno256, Magma256, Viridis256
from numpy.typing import NDArray

from braggflow.view.windows import Image

#: Colour maps, from the lowest count to the highest.
MAPS: dict[str, tuple[str, ...]] = {
    "white to black": tuple(reversed(Greys256)),
    "black to white": tuple(Greys256),
    "cividis": tuple(Cividis256),
    "viridis": tuple(Viridis256),
    "inferno": tuple(Inferno256),
    "magma": tuple(Magma256),
}
#: How counts become shades. `auto`: linear about the background, logarithmic well above it (asinh).
SCALES = ("auto", "linear", "log")
IGNORED, DRAWN = "#bcdcf0", "#e69f00"
#: Pixels that limits are taken from, at most, and shades that are told apart.
_SAMPLE, _SHADES = 250_000, 256
#: Pixels that reach so many widths of the background are foreground.
_WIDTHS, _MAD = 3.0, 1.4826


class Contrast(NamedTuple):
    """Which counts are shown as the lowest and as the highest colour, and what is between."""

    scale: str
    low: float
    high: float
    level: float = 0.0
    """The background's level and width, of which `auto` is made."""
    width: float = 1.0

    def shades(self, image: Image) -> NDArray[np.uint8]:
        """0 to 255 of each pixel; of NaN, 0."""
        low, high, values = self._scaled(np.float32(self.low)), self._scaled(np.float32(self.high)), self._scaled(image)
        span = float(high - low) or 1.0
        with np.errstate(invalid="ignore"):
            shades = (values - low) * np.float32((_SHADES - 1) / span)
        shades = np.nan_to_num(np.clip(shades, 0, _SHADES - 1))
        return np.asarray(shades, np.uint8)

    def _scaled(self, values: "Image | np.float32") -> "Image | np.float32":
        if self.scale == "linear":
            return values
        if self.scale == "log":
            return np.log(np.maximum(values, self.low))
        return np.arcsinh((values - np.float32(self.level)) / np.float32(self.width))


def contrast_of(image: Image, scale: str = "auto", percentiles: tuple[float, float] = (0.0, 100.0)) -> Contrast:
    """The contrast for an image (y, x), whose limits are percentiles of its scale's usual ones.

    Level and width of the background are robust, so that a few bright pixels or a diffuse background leave weak peaks
    visible. Percentiles of 0 and 100 show from just below the background to all but the highest pixels.
    """
    finite = image[np.isfinite(image)].ravel()
    if not finite.size:
        return Contrast(scale, 0.5, 1.0)
    sample = finite[:: -(-finite.size // _SAMPLE)].astype(np.float64)
    level = float(np.median(sample))
    width = _WIDTHS * _MAD * float(np.median(np.abs(sample - level)))
    if width == 0:  # a frame cut off by its detector: its lowest counts, which are peaks, must stand out
        above = sample[sample > level]
        width = (float(above.min()) - level) / 10 if above.size else 1.0
    highest, lowest = float(finite.max()), float(finite.min())
    foreground = sample[sample > level + width]
    low = max(lowest, level - width)
    if scale == "log":  # which has no end below
        low = max(low, (level if level > 0 else width) / 3)
    high = max(float(np.percentile(foreground, 99.5)) if foreground.size else level, level + 3 * width)
    if percentiles != (0.0, 100.0):
        values = np.sort(np.append(foreground, [low, min(high, highest)]))
        low, high = (max(low, float(np.percentile(values, share))) for share in percentiles)
    return Contrast(scale, low, max(high, low * (1 + 1e-6), low + 1e-6), level, width)


def coloured(
    image: Image, contrast: Contrast, name: str, *, drawn: NDArray[np.bool_] | None = None
) -> NDArray[np.uint32]:
    """An image (y, x) as RGBA, four bytes a pixel; ignored pixels are pale blue.

    `drawn` (y, x): pixels of a mask that is being drawn, in orange.
    """
    pixels: NDArray[np.uint32] = _table(name)[contrast.shades(image)]
    pixels[~np.isfinite(image)] = _rgba(IGNORED)
    if drawn is not None:
        pixels[drawn] = _rgba(DRAWN)
    return pixels


def _table(name: str) -> NDArray[np.uint32]:
    return np.array([_rgba(colour) for colour in MAPS[name]], np.uint32)


def _rgba(colour: str) -> int:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red | green << 8 | blue << 16 | 255 << 24
