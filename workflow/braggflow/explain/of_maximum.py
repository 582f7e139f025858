"""Maxima that are no peaks: by which rule each was dropped, with its number and the rule's."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggflow.config import DetectConfig, NoiseMultiple
from braggflow.detect import JudgedMaxima
from braggflow.explain.findings import Maximum, Place
from braggflow.explain.found_frame import FoundFrame


def described_maximum(found: FoundFrame, judged: JudgedMaxima, row: int) -> Maximum:
    """A row of the judged maxima, with where it merges and by what it was dropped, in pixels of the detector."""
    one = judged.table[row]
    dropped_by = str(judged.dropped_by[row])
    if not dropped_by:
        dropped_by = _dropped_later(found, int(one["y_pixel"]), int(one["x_pixel"]))
    saddle = int(one["saddle"])
    in_foreground = judged.foreground[one["y_pixel"], one["x_pixel"]] > 0
    merges = saddle >= 0 and in_foreground
    width = judged.foreground.shape[1]
    maximum = Maximum(
        place=found.on_detector(one["y_pixel"], one["x_pixel"]),
        birth=float(one["birth"]),
        death=float(one["death"]),
        score=float(one["score"]),
        significance=float(one["significance"]),
        least=judged.least,
        area=int(one["area"]) * found.bin**2,
        saddle=found.on_detector(*divmod(saddle, width)) if merges else None,
        into=found.on_detector(*higher_maximum(judged.foreground, one)) if merges else None,
        dropped_by=dropped_by,
    )
    value, limit = _asked(found, judged, maximum, row)
    return Maximum(**{name: getattr(maximum, name) for name in Maximum.__slots__} | {"value": value, "limit": limit})


def higher_maximum(foreground: NDArray[Any], one: np.void) -> tuple[int, int]:
    """The pixel (y, x) of the maximum that one merges into: the highest of what is connected when its saddle rises."""
    saddle = int(one["saddle"])
    at_saddle = foreground.ravel()[saddle]
    risen = foreground >= at_saddle
    # Pixels of equal value rise from the last in the frame on.
    risen.ravel()[:saddle] &= foreground.ravel()[:saddle] > at_saddle
    labels, _ = ndimage.label(risen, np.ones((3, 3)))
    island = np.flatnonzero(labels == labels.ravel()[saddle])
    values = foreground.ravel()[island]
    highest = int(island[np.flatnonzero(values == values.max())[-1]])
    y, x = divmod(highest, foreground.shape[1])
    return y, x


def _dropped_later(found: FoundFrame, y: int, x: int) -> str:
    """What dropped a maximum that detection kept, "" where it is a peak."""
    of = found.searched
    if ((of["y_pixel"] == y) & (of["x_pixel"] == x)).any():
        return ""
    measured = found.measured_maxima()
    there = (measured["y_pixel"] == y) & (measured["x_pixel"] == x)
    return "min_snr" if there.any() else "disk"


def _asked(found: FoundFrame, judged: JudgedMaxima, maximum: Maximum, row: int) -> tuple[float, float]:
    """The number that dropped a maximum, and the limit that it is on the wrong side of."""
    detect = found.opened.config.detect
    y, x = int(judged.table["y_pixel"][row]), int(judged.table["x_pixel"][row])
    shape = judged.foreground.shape
    numbers: dict[str, Callable[[], tuple[float, float]]] = {
        "false_peaks": lambda: (maximum.significance, judged.least),
        "floor": lambda: (maximum.significance, judged.least),
        "minval": lambda: (maximum.birth, judged.minval),
        "minscore": lambda: (maximum.score, judged.minscore),
        "min_area": lambda: (maximum.area, detect.min_area),
        "max_area": lambda: (maximum.area, detect.max_area or np.nan),
        "min_edge_distance": lambda: (min(y, x, shape[0] - 1 - y, shape[1] - 1 - x), detect.min_edge_distance),
        "min_neighbour_distance": lambda: (_to_higher(judged, row), detect.min_neighbour_distance),
        "min_snr": lambda: (_snr(found, y, x), detect.min_snr),
    }
    value, limit = numbers.get(maximum.dropped_by, lambda: (np.nan, np.nan))()
    return float(value), float(limit)


def _to_higher(judged: JudgedMaxima, row: int) -> float:
    """Distance to the nearest higher maximum that no other filter dropped, pixels."""
    left = np.isin(judged.dropped_by, ("", "min_neighbour_distance"))
    rank = list(zip(judged.table["birth"].tolist(), *judged.detected.T.tolist(), strict=True))
    higher = left & np.array([other > rank[row] for other in rank], bool)
    return float(np.hypot(*(judged.detected[higher] - judged.detected[row]).T).min())


def _snr(found: FoundFrame, y: int, x: int) -> float:
    measured = found.measured_maxima()
    return float(measured["snr"][(measured["y_pixel"] == y) & (measured["x_pixel"] == x)][0])


def surroundings(found: FoundFrame, judged: JudgedMaxima, pixel: tuple[int, int], place: Place) -> list[str]:
    """What a pixel holds and what lies around it, a sentence."""
    holds = f"{found.frame.counts[pixel]:.5g} counts"
    return [f"Pixel {at(place)} of frame {found.number}: {holds}; {background_words(judged, pixel)}."]


def background_words(judged: JudgedMaxima, pixel: tuple[int, int]) -> str:
    """The local background at a searched pixel."""
    level, deviation = judged.level[pixel] + 0.0, judged.deviation[pixel]  # -0 is 0
    return f"the local background is {level:.4g} counts, a pixel of it scatters by {deviation:.3g}"


def at(place: Place) -> str:
    """A place as words."""
    return f"({place[0]:g}, {place[1]:g})"


def maximum_words(found: FoundFrame, judged: JudgedMaxima, maximum: Maximum) -> list[str]:
    """Why a maximum is no peak."""
    detect = found.opened.config.detect
    words = [_head(maximum, judged, detect), _reason(maximum, detect)]
    risen = judged.foreground[found.searched_pixel(*maximum.place)] > 0
    return words + (persistence_words(maximum, judged) if risen else [])


def _head(maximum: Maximum, judged: JudgedMaxima, detect: DetectConfig) -> str:
    above = "" if detect.background == "none" else " above the background"
    words = f"It is a maximum of {maximum.birth:.4g} counts{above}"
    if np.isfinite(maximum.significance):
        words += f", significance {maximum.significance:.2f}"
    if np.isfinite(judged.least):
        words += f", cut at {judged.least:.2f}"
    return f"{words}: no peak."


def _reason(maximum: Maximum, detect: DetectConfig) -> str:
    value, limit = f"{maximum.value:.4g}", f"{maximum.limit:.4g}"
    rate = f"(detect.false_peaks: {detect.false_peaks:g})" if detect.false_peaks is not None else ""
    sentences = {
        "false_peaks": f"Dropped as noise {rate}: "
        + (
            "its 3 × 3 pixels do not rise above the background around it."
            if np.isnan(maximum.significance)
            else "the noise of its place makes maxima as significant as it."
        ),
        "floor": f"It is not looked at {rate}: it does not rise far enough above the noise of a single pixel.",
        "minval": f"Dropped by detect.minval: {_level(detect.levels()[0])}: it holds {value} counts, needed are "
        f"{limit}.",
        "minscore": f"Dropped by detect.minscore: {_level(detect.levels()[1])}: it stands {value} counts above its "
        f"saddle, needed are more than {limit}.",
        "min_area": f"Dropped by detect.min_area: it covers {value} pixels, needed are {limit}.",
        "max_area": f"Dropped by detect.max_area: it covers {value} pixels, allowed are {limit}.",
        "min_edge_distance": f"Dropped by detect.min_edge_distance: it is {value} pixels from the edge, needed are "
        f"{limit}.",
        "min_neighbour_distance": f"Dropped by detect.min_neighbour_distance: a higher maximum is {value} pixels away, "
        f"needed are {limit}.",
        "min_snr": f"Dropped by detect.min_snr: its snr is {value}, needed are {limit}.",
        "disk": "Dropped as one of several maxima on a disk (fit.model: disk): the disk has one row, at its middle.",
    }
    return sentences[maximum.dropped_by]


def _level(level: float | NoiseMultiple) -> str:
    return f"{level.sigma:g} sigma" if isinstance(level, NoiseMultiple) else f"{level:g}"


def persistence_words(maximum: Maximum, judged: JudgedMaxima) -> list[str]:
    """Where a maximum is born and where it merges, a sentence."""
    born = f"It is born at {maximum.birth:.4g} counts"
    if maximum.saddle is None or maximum.into is None:
        return [f"{born} and merges with no higher maximum before the water is down at the noise."]
    merges = f"merges into the higher maximum at {at(maximum.into)}, at the saddle {at(maximum.saddle)}"
    if maximum.death == 0 and judged.minval > 0:
        return [f"{born} and {merges}, below detect.minval: it counts as one that dies at 0."]
    return [f"{born}, dies at {maximum.death:.4g} and {merges}: its persistence is {maximum.score:.4g} counts."]
