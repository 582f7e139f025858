"""A frame of a report that can be zoomed until its pixels are seen, with its peaks over it: each says what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image as Pillow

from braggflow.peak_table import Flag, Method
from braggflow.results import SearchedFrame
from braggflow.show.colours import IGNORED, METHOD_COLOURS
from braggflow.show.drawing import Image, grey, intensity_norm, shrink

#: Peaks that are drawn, those of the highest SNR: each takes some 200 bytes of the page.
MOST_PEAKS = 2000
#: Bytes that a frame may take. Noise of the background does not compress: where it would take more, several of its
#: greys are drawn as one.
MOST_BYTES = 400_000
#: Greys of a frame, and the share of its pixels that are background.
_GREYS, _BACKGROUND = 32, 0.99


@dataclass(frozen=True, slots=True)
class Marked:
    """A peak that is drawn."""

    y: float
    x: float
    method: str
    flagged: bool
    told: str
    """What is said of it, in lines."""


@dataclass(frozen=True, slots=True)
class ZoomedFrame:
    """A frame with its peaks, as the page's template draws it."""

    caption: str
    png: bytes
    """A dot for each pixel, or for the highest of some."""
    box: tuple[float, float, float, float]
    """x and y of the picture's upper left corner, its width and height, in pixels of the detector."""
    shape: tuple[int, int]
    """Of the frame (y, x), in pixels of the detector."""
    marks: Sequence[Marked]
    legend: Sequence[tuple[str, str, str]]
    """Class, name and number of each kind of mark."""


def zoomed_frame(seen: SearchedFrame, peaks: xr.Dataset, title: str) -> ZoomedFrame:
    """A searched frame with its peaks, as `open_peaks` gives those of one frame."""
    ranked = np.argsort(-np.nan_to_num(peaks["snr"].values), kind="stable")[:MOST_PEAKS]
    marks = _marks(peaks.isel(peak=np.sort(ranked)))
    content, factor, together = _as_png(seen.searched)
    side = factor * seen.bin
    rows, columns = (-(-n // factor) * side for n in seen.searched.shape)
    n = peaks.sizes["peak"]
    drawn = f"its {n:,} peaks" if n <= MOST_PEAKS else f"the {MOST_PEAKS:,} of its {n:,} peaks of the highest SNR"
    said = [f"{title} with {drawn}, to zoom into; a mark says what its peak is."]
    if factor > 1:
        said.append(f"A dot is the highest of {factor} × {factor} pixels.")
    if together > 1:
        said.append(f"Of the {_GREYS} greys, {together} of the background's are drawn as one.")
    shape = seen.searched.shape[0] * seen.bin, seen.searched.shape[1] * seen.bin
    return ZoomedFrame(" ".join(said), content, (-0.5, -0.5, columns, rows), shape, marks, _legend(marks))


def _as_png(image: Image) -> tuple[bytes, int, int]:
    """A frame as a file of at most about `MOST_BYTES`; the pixels along a dot's side, and the greys drawn as one."""
    factor = 1
    while True:
        small, factor = shrink(image, -(-max(image.shape) // factor))
        missing = ~np.isfinite(small)
        norm = intensity_norm(small)
        values = np.asarray(norm(np.where(missing, np.float32(0), small)))
        shades = np.minimum((values * _GREYS).astype(np.uint8), _GREYS - 1)
        shades[missing] = _GREYS
        counts = np.bincount(shades.ravel(), minlength=_GREYS + 1)
        background = np.searchsorted(np.cumsum(counts[:_GREYS]), _BACKGROUND * counts[:_GREYS].sum())
        for together in (1, 2, 4, 8, 16):
            drawn = np.arange(_GREYS + 1, dtype=np.uint8)
            drawn[: background + 1] -= drawn[: background + 1] % together
            if _bytes_of(np.bincount(drawn, counts)) <= MOST_BYTES:
                return _png(drawn[shades]), factor, together
        factor *= 2


def _bytes_of(counts: NDArray[Any]) -> float:
    """What pixels take whose neighbours say nothing of them, by how many there are of each shade (Shannon)."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum() * counts.sum() / 8)


def _png(shades: NDArray[np.uint8]) -> bytes:
    image = Pillow.fromarray(shades, mode="P")
    colours = np.vstack([grey()(np.linspace(0, 1, _GREYS))[:, :3], to_rgb(IGNORED)])
    image.putpalette((colours * 255).round().astype(np.uint8).tobytes())
    content = BytesIO()
    image.save(content, format="PNG", compress_level=6)
    return content.getvalue()


def _marks(peaks: xr.Dataset) -> list[Marked]:
    names = (
        *("y", "x", "y_std", "x_std", "snr", "intensity", "intensity_std", "significance", "fwhm_major", "fwhm_minor"),
        *("disagreement", "method", "flags"),
    )
    return [_mark(*row) for row in zip(*(peaks[name].values.tolist() for name in names), strict=True)]


def _mark(*values: Any) -> Marked:
    y, x, y_std, x_std, snr, intensity, std, significance, major, minor, apart, method, flags = values
    flagged = ", ".join(str(flag.name) for flag in Flag if flags & flag)
    lines = [
        f"y {_position(y, y_std)}, x {_position(x, x_std)} px",
        f"SNR {snr:.3g}, {intensity:,.0f}{_known(' ± {:,.0f}', std)} counts"
        + _known(", significance {:.3g}", significance),
        _known("FWHM {:.2f} × {:.2f} px", major, minor) + _known(", network to fit {:.3f} px", apart),
        f"{Method(method).name}" + (f"; {flagged}" if flagged else ""),
    ]
    return Marked(y, x, Method(method).name, bool(flagged), "\n".join(filter(None, lines)))


def _position(at: float, std: float) -> str:
    return f"{at:.2f}" + _known(" ± {:.2f}", std)


def _known(words: str, *values: float) -> str:
    return words.format(*values) if np.isfinite(values).all() else ""


def _legend(marks: Sequence[Marked]) -> list[tuple[str, str, str]]:
    counted: dict[tuple[str, bool], int] = {}
    for mark in marks:
        counted[mark.method, mark.flagged] = counted.get((mark.method, mark.flagged), 0) + 1
    return [
        (f"{method} flagged" if flagged else method, f"{method}, flagged" if flagged else method, f"{n:,}")
        for (method, flagged), n in sorted(counted.items())
    ]


def mark_colours() -> dict[str, str]:
    """The colour of each method's marks, by its name."""
    return {method.name: colour for method, colour in METHOD_COLOURS.items()}
