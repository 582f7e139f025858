"""Why a pixel is ignored."""

from typing import Any

import numpy as np

from braggflow.explain.found_frame import FoundFrame
from braggflow.explain.of_maximum import at
from braggflow.frames import correction_of
from braggflow.masks import load_mask


def why_ignored(found: FoundFrame, y: float, x: float) -> list[str]:
    """Why the searched pixel at a place of the detector is ignored, a sentence each."""
    scale = found.bin
    top, left = (int((place + 0.5) // scale) * scale for place in (y, x))
    words = [f"The pixel at {at((y, x))} of frame {found.number} is ignored: nothing is looked for in it."]
    if scale > 1:
        words.append(f"It is the sum of {scale} × {scale} pixels (frames.bin), and is ignored as one of them is.")
    for row in range(top, top + scale):
        for column in range(left, left + scale):
            reasons = _reasons(found, row, column)
            if reasons:
                words.append(f"Pixel ({row}, {column}) {' and '.join(reasons)}.")
    return words


def _reasons(found: FoundFrame, y: int, x: int) -> list[str]:
    """What is wrong with a pixel of the detector, empty where nothing is."""
    opened, value = found.opened, found.raw[y, x]
    correction, data, frames = opened.correction, opened.data, opened.config.frames
    reasons = []
    if found.raw.dtype.kind == "f" and not np.isfinite(value):
        reasons.append(f"holds {value}, which is no count")
    elif value < correction.masked_below:
        reasons.append(
            f"holds {value:g}, below {correction.masked_below:g} counts (frames.negative: {frames.negative})"
        )
    if correction.missing_value is not None and value == correction.missing_value:
        reasons.append(f"holds {value:g}, the series' sign of a pixel that was not measured")
    if not correction.mask[y, x]:
        return reasons
    given = correction_of(data, frames.model_copy(update={"dark": "none", "flat": "none"})).mask
    reasons += _of_series(data, y, x) if given[y, x] else []
    if given[y, x] and frames.mask is not None and _in_file(found, y, x):
        reasons.append(f"is in the mask file {frames.mask} (frames.mask)")
    if not given[y, x]:
        corrected = correction_of(data, frames).mask[y, x]
        reasons.append(
            "has no dark or flat value that makes sense (frames.dark, frames.flat)"
            if corrected
            else "is a hot, noisy or dead pixel (frames.find_bad_pixels)"
        )
    return reasons


def _of_series(data: Any, y: int, x: int) -> list[str]:
    """What the series' own mask says of a pixel."""
    if "mask" not in data or not data["mask"].values[y, x]:
        return []
    if "negative_marks" in data and data["negative_marks"].values[y, x]:
        return ["is below 0 in every frame that was looked at: the detector's mark of a pixel without a count"]
    store = str(data.encoding.get("source", ""))
    if store.endswith(".zarr") and (drawn := load_mask(store)).array[y, x]:
        return [f"was drawn into the mask of the store by {drawn.drawn_by} at {drawn.drawn_at}"]
    return ["is in the series' mask"]


def _in_file(found: FoundFrame, y: int, x: int) -> bool:
    frames = found.opened.config.frames
    bare = found.opened.data.drop_vars(["mask", "negative_marks", "dark", "flat"], errors="ignore")
    return bool(correction_of(bare, frames.model_copy(update={"dark": "none", "flat": "none"})).mask[y, x])
