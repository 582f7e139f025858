"""Maxima of saturated peaks, in the middle of their flat tops.

A clipped peak has a plateau, and of equal pixels the last one is the maximum: at the edge of the plateau, where little
of the peak is on one side of the patch and what neither network nor fit expects. Each maximum that has a plateau for
itself is moved to the pixel nearest to its centre of mass.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel
from braggflow.detect.filters import Detection
from braggflow.detect.pixels import as_searched


def on_plateaus(
    found: Detection,
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    *,
    saturated: NDArray[np.bool_] | None = None,
    saturation: float = np.inf,
) -> Detection:
    """The peaks of frames, the maxima of saturated ones in the middle of their plateaus.

    Where several maxima lie on one plateau (saturated pixels that touch, corners too), each stays where it is.

    Parameters
    ----------
    found : Detection
        What `detect_stack` found, or `detect` in one frame.
    frames : numpy.ndarray
        Shape (n, y, x) or (y, x), of any real dtype, in counts.
    mask : numpy.ndarray of bool
        Shape (y, x), True = ignore.
    saturated : numpy.ndarray of bool, optional
        Shape (y, x): saturated pixels of all frames.
    saturation : float
        Counts at and above which a pixel is saturated.

    Returns
    -------
    Detection
        The same rows with other `y_pixel`, `x_pixel`, sorted by (frame, y_pixel, x_pixel).

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import DetectConfig
    >>> from braggflow.detect import detect, on_plateaus
    >>> y, x = np.mgrid[:48, :48]
    >>> expected = 4 + 9000 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 9)
    >>> frame, mask = np.minimum(np.random.default_rng(0).poisson(expected), 1000), np.zeros((48, 48), bool)
    >>> found = detect(frame, mask, DetectConfig())
    >>> found.table[["y_pixel", "x_pixel"]].tolist()
    [(24, 34)]
    >>> on_plateaus(found, frame, mask, saturation=1000).table[["y_pixel", "x_pixel"]].tolist()
    [(20, 32)]
    """
    table = found.table
    stack = frames if frames.ndim == 3 else frames[None]
    places = table["peak_frame"], table["y_pixel"], table["x_pixel"]
    ys, xs = plateau_middles(stack, mask, *places, saturated=saturated, saturation=saturation)
    if np.array_equal(ys, table["y_pixel"]) and np.array_equal(xs, table["x_pixel"]):
        return found
    table = table.copy()
    table["y_pixel"], table["x_pixel"] = ys, xs
    return replace(found, table=table[np.lexsort((xs, ys, table["peak_frame"]))])


def plateau_middles(
    frames: NDArray[Any],
    mask: NDArray[np.bool_],
    frame: NDArray[np.integer[Any]],
    ys: NDArray[np.integer[Any]],
    xs: NDArray[np.integer[Any]],
    *,
    saturated: NDArray[np.bool_] | None = None,
    saturation: float = np.inf,
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """The pixels (y, x) of `on_plateaus` of the maxima at (frame, y, x), each (m,) and frame after frame."""
    if saturated is None and saturation == np.inf:
        return ys, xs
    frames, mask = as_searched(frames, mask)
    middles: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]] = _middles(
        frames,
        mask,
        np.zeros((1, 1), bool) if saturated is None else saturated,
        saturated is not None,
        float(saturation),
        *(np.ascontiguousarray(place, np.int64) for place in (frame, ys, xs)),
    )
    return middles


@kernel(nogil=True)
def _middles(
    frames: Any, mask: Any, saturated: Any, any_saturated: bool, saturation: float, of_frame: Any, ys: Any, xs: Any
) -> Any:
    """`plateau_middles`. Only plateaus with maxima are gone through: labelling whole frames takes longer by far."""
    n = len(ys)
    new_ys, new_xs = ys.copy(), xs.copy()
    # The plateau of each maximum, 0 where it is on none; of each plateau its middle, and how many maxima it has.
    of_plateau, middles, maxima = np.zeros(n, np.int64), np.empty(n + 1, np.int64), np.zeros(n + 1, np.int64)
    plateaus, known, taken = np.zeros((1, 1), np.int32), np.empty(1024, np.int64), 0
    n_plateaus, before = 0, -1
    for i in range(n):
        counts, y, x = frames[of_frame[i]], ys[i], xs[i]
        if not _is_full(counts, mask, saturated, any_saturated, saturation, y, x):
            continue
        if plateaus.shape != mask.shape:
            plateaus = np.zeros(mask.shape, np.int32)
        if of_frame[i] != before:  # plateaus are those of one frame
            for k in range(taken):
                plateaus[known[k] // mask.shape[1], known[k] % mask.shape[1]] = 0
            taken, before = 0, of_frame[i]
        if plateaus[y, x] == 0:
            n_plateaus += 1
            first = taken
            known, taken = _with_plateau(
                counts, mask, saturated, any_saturated, saturation, y, x, n_plateaus, plateaus, known, taken
            )
            middles[n_plateaus] = _middle(known[first:taken], mask.shape[1])
        of_plateau[i] = plateaus[y, x]
        maxima[of_plateau[i]] += 1
    for i in range(n):
        number = of_plateau[i]
        if number > 0 and maxima[number] == 1:
            new_ys[i], new_xs[i] = middles[number] // mask.shape[1], middles[number] % mask.shape[1]
    return new_ys, new_xs


@inner(nogil=True)
def _is_full(counts: Any, mask: Any, saturated: Any, any_saturated: bool, saturation: float, y: int, x: int) -> bool:
    return not mask[y, x] and (counts[y, x] >= saturation or (any_saturated and saturated[y, x]))


@inner(nogil=True)
def _with_plateau(
    counts: Any,
    mask: Any,
    saturated: Any,
    any_saturated: bool,
    saturation: float,
    y: int,
    x: int,
    number: int,
    plateaus: Any,
    known: Any,
    taken: int,
) -> Any:
    """`known`, of which `taken` are, with the flat indices of the saturated pixels that are connected with (y, x)."""
    height, width = mask.shape
    plateaus[y, x] = number
    known[taken] = y * width + x
    looked_at, taken = taken, taken + 1
    while looked_at < taken:
        j, i = known[looked_at] // width, known[looked_at] % width
        looked_at += 1
        if taken + 8 >= len(known):
            known = np.concatenate((known, np.empty_like(known)))
        for jj in range(max(j - 1, 0), min(j + 2, height)):
            for ii in range(max(i - 1, 0), min(i + 2, width)):
                if plateaus[jj, ii] == 0 and _is_full(counts, mask, saturated, any_saturated, saturation, jj, ii):
                    plateaus[jj, ii] = number
                    known[taken] = jj * width + ii
                    taken += 1
    return known, taken


@inner(nogil=True)
def _middle(pixels: Any, width: int) -> int:
    """Of flat indices that nearest to their centre of mass; of several the first."""
    y, x, nearest, middle = 0.0, 0.0, np.inf, -1
    for k in range(len(pixels)):
        y += pixels[k] // width
        x += pixels[k] % width
    for k in range(len(pixels)):
        # Of whole numbers, so that equal distances are equal.
        away = (len(pixels) * (pixels[k] // width) - y) ** 2 + (len(pixels) * (pixels[k] % width) - x) ** 2
        if away < nearest or (away == nearest and pixels[k] < middle):
            nearest, middle = away, pixels[k]
    return middle
