# mypy: allow-untyped-calls
"""The common shift of all tracks from frame to frame: the detector's or the beam's."""

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import inner, kernel

#: Deviations beyond so many sigma weigh less (Huber's); rounds in which tracks' places and the shift are found in turn.
_HUBER, _ROUNDS = 1.5, 5
#: Fewer tracks in a frame say nothing of a common shift.
LEAST_TRACKS = 3


def common_shift(
    track: NDArray[np.int64], frame: NDArray[np.int64], place: NDArray[np.float64], n_frames: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far all tracks are shifted in each frame against the first, robustly, with its standard error.

    A peak's place is taken for its track's own plus the frame's shift plus what is its own: a few tracks that move by
    themselves do no harm, but a motion that most of them share is the shift, whatever its cause.

    Parameters
    ----------
    track : numpy.ndarray of int64
        (n,) the track of each peak, −1: none.
    frame : numpy.ndarray of int64
        (n,) position of its frame in the series, 0 to `n_frames` − 1.
    place : numpy.ndarray of float64
        (n, 2) positions (y, x), pixels.
    n_frames : int
        Frames of the series.

    Returns
    -------
    shift, std : numpy.ndarray of float64
        (n_frames, 2) each, pixels; NaN where fewer than three tracks are seen. The first frame's shift is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.tracks import common_shift
    >>> track, frame = np.tile(np.arange(5), 3), np.repeat(np.arange(3), 5)
    >>> place = np.stack([track * 10.0 + frame, track * 7.0], axis=1)
    >>> common_shift(track, frame, place, 3)[0][:, 0].round(6).tolist()
    [0.0, 1.0, 2.0]
    """
    there = track >= 0
    track, frame, place = track[there], frame[there], place[there]
    shift, std = np.full((n_frames, 2), np.nan), np.full((n_frames, 2), np.nan)
    if not len(track):
        return shift, std
    order = np.argsort(frame, kind="stable")
    bounds = np.searchsorted(frame[order], np.arange(n_frames + 1))
    own = np.lexsort((frame, track))
    for axis in range(2):
        value = place[:, axis]
        spread = np.full(n_frames, np.nan)
        found = np.cumsum(_steps(track[own], frame[own], value[own], n_frames))
        spread = np.full(n_frames, np.nan)
        for _ in range(_ROUNDS):
            counts = np.maximum(np.bincount(track), 1)
            at = np.bincount(track, value - found[frame]) / counts
            left = (value - at[track])[order]
            middles, spread = _middles(left, bounds)
            found = np.where(np.isfinite(spread), middles, found)
        known = np.isfinite(spread)
        if known.any():
            shift[known, axis], std[known, axis] = found[known] - found[np.argmax(known)], spread[known]
    return shift, std


def _steps(
    track: NDArray[np.int64], frame: NDArray[np.int64], value: NDArray[np.float64], n_frames: int
) -> NDArray[np.float64]:
    """The common step into each frame, of peaks that were seen in the frame before too; 0 where nothing is known."""
    same = (np.diff(track) == 0) & (np.diff(frame) == 1)
    into, by = frame[1:][same], np.diff(value)[same]
    order = np.argsort(into, kind="stable")
    bounds = np.searchsorted(into[order], np.arange(n_frames + 1))
    return np.nan_to_num(_middles(by[order], bounds)[0])


@inner()
def _median(values: NDArray[np.float64]) -> float:
    values.sort()
    n = len(values)
    return float((values[(n - 1) // 2] + values[n // 2]) / 2)


@kernel(nogil=True)
def _middles(values: NDArray[np.float64], bounds: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Huber's estimate of location of each group, begun at the median, and its standard error; NaN of a small group."""
    middles, errors = np.full(len(bounds) - 1, np.nan), np.full(len(bounds) - 1, np.nan)
    for k in range(len(bounds) - 1):
        group = values[bounds[k] : bounds[k + 1]]
        n = len(group)
        if n < LEAST_TRACKS:
            continue
        middle = _median(group.copy())
        scale = 1.4826 * _median(np.abs(group - middle)) + 1e-12
        for _ in range(5):
            total, whole = 0.0, 0.0
            for value in group:
                weight = 1 / max(abs(value - middle) / (_HUBER * scale), 1.0)
                total += weight * value
                whole += weight
            middle = total / whole
        squares, inside = 0.0, 0
        for value in group:
            off = min(abs(value - middle) / scale, _HUBER)
            squares += off * off
            inside += off < _HUBER
        middles[k] = middle
        errors[k] = scale * np.sqrt(squares / n / n) / max(inside / n, 0.1)
    return middles, errors
