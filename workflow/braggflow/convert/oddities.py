"""What a user should know of a series before it is processed: its first and last frame, a sentence on each oddity."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import FramesConfig
from braggflow.convert.storage import Storage
from braggflow.errors import InputError
from braggflow.frames import UNREADABLE, correct_frame, correction_of, read_raw

#: A mask over more than this share of the frame is worth a word.
_MUCH_MASKED = 0.5
#: Ranges of missing frames that a sentence names.
_RANGES = 5

#: Frames that are not there: (first, the one after the last, reason), positions in the series.
Missing = Sequence[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """One frame of a series, read."""

    frame: int
    """Its number."""
    mean: float | None = None
    """Counts, in the mean over the pixels that are not ignored; None where there are none."""
    maximum: float | None = None
    """The highest of them, counts."""
    unreadable: str = ""
    """Why it cannot be read, else empty."""


def frames_at_ends(data: xr.Dataset, missing: Missing) -> tuple[list[FrameFacts], list[str]]:
    """The first and the last frame that are there (one where they are the same), and a sentence on each oddity."""
    there = np.ones(data.sizes["frame"], bool)
    for first, stop, _ in missing:
        there[first:stop] = False
    positions = np.flatnonzero(there)
    found: list[FrameFacts] = []
    said: list[str] = []
    for position in dict.fromkeys(positions[[0, -1]].tolist() if len(positions) else ()):
        number = int(data["frame"].values[position])
        try:
            raw = read_raw(data, np.array([position]))[0]
        except UNREADABLE as error:
            found.append(FrameFacts(number, unreadable=" ".join(str(error).split()) or type(error).__name__))
            said.append(f"Frame {number} cannot be read: {found[-1].unreadable}.")
            continue
        counts = _counted(data, raw)
        mean, maximum = (float(counts.mean(dtype=np.float64)), float(counts.max())) if counts.size else (None, None)
        found.append(FrameFacts(number, mean, maximum))
        said += _odd_values(data, number, raw, counts)
    return found, said


def _counted(data: xr.Dataset, raw: NDArray[Any]) -> NDArray[Any]:
    """The pixels of a frame (y, x) that are not ignored, shape (n,)."""
    try:
        correction = correction_of(data, FramesConfig(dark="none", flat="none"))
    except InputError:  # no pixel is left outside the mask
        return np.empty(0, raw.dtype)
    return raw[~correct_frame(raw, correction).mask]


def _odd_values(data: xr.Dataset, number: int, raw: NDArray[Any], counts: NDArray[Any]) -> Iterator[str]:
    if not counts.size:
        yield f"Frame {number} has no pixel that is not ignored."
        return
    if counts.min() == counts.max():
        yield f"Frame {number} is empty: all its pixels are {counts[0]:g}."
    if raw.dtype.kind == "f":
        if (odd := np.mean(~np.isfinite(raw))) > 0:
            yield f"{_percent(float(odd))} of the pixels of frame {number} are NaN or infinite, and are ignored."
        if (counts == np.round(counts)).all() and counts.min() != counts.max():
            yield f"Frame {number} holds whole numbers only, stored as {raw.dtype}: an integer type takes less space."
    source = data.attrs.get("saturation_source", "")
    if "saturation" in data.attrs and (beyond := int(np.count_nonzero(counts > data.attrs["saturation"]))):
        yield (
            f"{beyond} pixels of frame {number} are above the saturation of {data.attrs['saturation']:g}"
            f"{f' ({source})' if source else ''}: frames.saturation sets another."
        )


def odd_series(data: xr.Dataset, storage: Storage, missing: Missing) -> Iterator[str]:
    """A sentence on each oddity of what a series states and of what the frames looked at have shown."""
    if missing:
        yield _missing_text(missing, data.sizes["frame"])
    if storage.absent:
        yield (
            f"{storage.absent} of {storage.chunks_in_all} chunks of frames are not stored: they are read as "
            f"{storage.fill_value}, the fill value. They may be empty frames, or were never written."
        )
    yield from (f"{note[:1].upper()}{note[1:]}." for note in data.attrs.get("notes", []))
    if "mask" in data and (share := float(np.mean(data["mask"].values != 0))) > _MUCH_MASKED:
        yield f"The mask covers {_percent(share)} of the frame."
    marks = data.attrs.get("marks", {})
    negative = _percent(marks.get("negative_share", 0.0))
    if marks.get("negative") == "count":
        yield (
            f"{negative} of the pixels looked at are below 0: taken for counts, noise around 0 "
            "(frames.negative: mark ignores them)."
        )
    source = data.attrs.get("saturation_source", "")
    if "saturation" not in data.attrs:
        yield "No saturation is stated or seen: no peak will be flagged saturated; frames.saturation sets one."
    elif source.startswith("counts pile up"):
        level = f"{data.attrs['saturation']:g}"
        yield f"No saturation is stated; {level} is used, as {source}. frames.saturation sets another."


def joined(missing: Iterable[Sequence[Any]]) -> list[tuple[int, int, str]]:
    """Ranges of frames in order, those that follow each other for the same reason as one."""
    found: list[tuple[int, int, str]] = []
    for first, stop, reason in sorted((int(first), int(stop), str(reason)) for first, stop, reason in missing):
        if found and found[-1][1] == first and found[-1][2] == reason:
            found[-1] = (found[-1][0], stop, reason)
        else:
            found.append((first, stop, reason))
    return found


def missing_text(data: xr.Dataset) -> str:
    """A sentence on the frames of a series that were never written, "" where none is."""
    missing = joined(data.attrs.get("missing_frames", []))
    return _missing_text(missing, data.sizes["frame"]) if missing else ""


def _missing_text(missing: Missing, n_frames: int) -> str:
    gone = sum(stop - first for first, stop, _ in missing)
    ranges = [
        f"{first}{f'-{stop - 1}' if stop - 1 > first else ''} ({reason})" for first, stop, reason in missing[:_RANGES]
    ]
    more = f", and {len(missing) - _RANGES} more ranges" if len(missing) > _RANGES else ""
    return f"{gone} of {n_frames} frames are missing: {', '.join(ranges)}{more}."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
