"""Did the experiment go on as it began? What each frame shows, against the run's own frames just before it.

Two kinds of number are watched. Of a frame by itself: its mean count, its peaks, how many of them are saturated or
doubtful; against the median of the frames before it. Of a frame and the one `LAG` before it: where the peaks went that
both have, and how much brighter and wider they are; so that peaks that come and go do not count. A number that leaves
its own scatter, by an amount that matters, for `IN_A_ROW` frames is a change; changes that begin together are one
alarm, with the cause that explains them. Slow drifts, as a battery's, raise none: they are the physics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.peak_table import Flag

#: What is known of each frame when its part is written: mean count of its valid pixels (counts a pixel), number of
#: peaks, and the shares of these that are saturated, and that are out of the network's domain or disagree.
FRAME_STATE = np.dtype([("frame", "i8"), ("mean", "f4"), ("peaks", "i4"), ("saturated", "f4"), ("doubtful", "f4")])

#: Frames before a frame that it is compared with, the fewest of them, and how many frames a change must last.
WINDOW, LEAST_BEFORE, IN_A_ROW = 31, 10, 3
#: Robust standard deviations by which a change must leave the scatter of its window.
_BEYOND = 6.0
#: The frame that peaks are followed from, how far they are looked for (px), and the fewest that must be found.
LAG, REACH, FEWEST_PEAKS = 5, 8.0, 4
#: Peaks that are followed at a time: tens of MB.
BLOCK_PEAKS = 300_000
#: Pixels between the frames' planes when the nearest peaks of all frames are looked for at once.
_APART = 1000.0
#: Peaks further than this (px) from all earlier ones are new; they are a crowd in less than this share of the area.
_ELSEWHERE, _CROWD = 1.5, 0.1
_COLUMNS = ("y", "x", "intensity", "fwhm_major", "fwhm_minor")
_CHANGES = ("y", "x", "brightness", "width", "kept")
#: Changes whose beginnings are no further apart have one cause.
_TOGETHER = 3


class _Watched(NamedTuple):
    """One number that is watched."""

    effect: float
    """The least change that matters, in the number's own unit (of logarithms: their difference)."""
    scatter: float
    """The least standard deviation, where its window shows less."""


_WATCHED = {
    "mean": _Watched(np.log(1.25), 0.01),
    "peaks": _Watched(0.0, 0.2),  # square roots, which scatter by 1/2 whatever the count, if peaks come independently
    "saturated": _Watched(0.1, 0.02),
    "doubtful": _Watched(0.25, 0.05),
    "y": _Watched(0.5, 0.02),
    "x": _Watched(0.5, 0.02),
    "brightness": _Watched(np.log(1.25), 0.02),
    "width": _Watched(np.log(1.12), 0.01),
    "kept": _Watched(0.4, 0.05),
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change of the experiment, with what may have caused it."""

    frame: int
    """The number of the first frame that shows it."""
    cause: str
    """beam lost, saturation, hot pixels, pattern moved, peaks broader, intensity changed, background changed, doubtful
    positions, or peaks changed."""
    told: str
    """What was seen, and what to do, in words."""

    def __str__(self) -> str:
        return f"from frame {self.frame} on: {self.told}"


def frame_states(table: peak_table.Table, means: Mapping[int, float]) -> NDArray[np.void]:
    """The state (`FRAME_STATE`) of each frame in `means`, its mean count by number, whose peaks are in `table`."""
    numbers = np.fromiter(means, np.int64, len(means))
    states = np.zeros(len(numbers), FRAME_STATE)
    states["frame"], states["mean"] = numbers, list(means.values())
    order = np.argsort(numbers, kind="stable")
    row = order[np.searchsorted(numbers, table["peak_frame"], sorter=order)] if len(numbers) else np.zeros(0, np.int64)
    states["peaks"] = np.bincount(row, minlength=len(numbers))
    for name, flags in (("saturated", Flag.saturated), ("doubtful", Flag.out_of_domain | Flag.disagree)):
        flagged = np.bincount(row[table["flags"] & np.uint16(flags) != 0], minlength=len(numbers))
        states[name] = flagged / np.maximum(states["peaks"], 1)
    return states


def find_alarms(states: NDArray[np.void], peaks: xr.Dataset | None = None) -> list[Alarm]:
    """The alarms of a series, in order.

    Parameters
    ----------
    states : ndarray, shape (n,), dtype `FRAME_STATE`
        The frames that were processed, by ascending number.
    peaks : xarray.Dataset, optional
        The run's peak table: with it peaks are followed from frame to frame, and hot pixels are placed.

    Returns
    -------
    list of Alarm
        One for each change; none where fewer than `LEAST_BEFORE` frames were processed.
    """
    numbers = {"mean": np.log(np.maximum(states["mean"], 1e-6)), "peaks": np.sqrt(states["peaks"])}
    numbers |= {name: states[name].astype(np.float64) for name in ("saturated", "doubtful")}
    followed = None if peaks is None else _Followed(peaks)
    if followed is not None:
        numbers |= followed.changes(states["frame"])
    found = sorted(
        (begin, name, change)
        for name, values in numbers.items()
        for begin, change in _changes(np.asarray(values, np.float64), _WATCHED[name])
    )
    alarms: list[Alarm] = []
    while found:
        first = found[0][0]
        together = {name: change for begin, name, change in reversed(found) if begin <= first + _TOGETHER}
        # A number that follows later, while the event lasts, belongs to it.
        found = [entry for entry in found if entry[0] > first + WINDOW // 2]
        number = int(states["frame"][first])
        cause = _cause(together, states, first, followed)
        if cause is not None:
            alarms.append(Alarm(number, *cause))
    return alarms


def _changes(values: NDArray[np.float64], watched: _Watched) -> list[tuple[int, float]]:
    """Where a number leaves what it was in the frames before, and by how much: (index, change)."""
    if len(values) < LEAST_BEFORE + IN_A_ROW:
        return []
    padded = np.concatenate([np.full(WINDOW, np.nan), values])[:-1]
    before = sliding_window_view(padded, WINDOW)
    enough = np.count_nonzero(np.isfinite(before), axis=1) >= LEAST_BEFORE
    change = np.zeros(len(values))
    limit = np.full(len(values), np.inf)
    usual = np.nanmedian(before[enough], axis=1)
    scatter = 1.4826 * np.nanmedian(np.abs(before[enough] - usual[:, None]), axis=1)
    change[enough] = np.nan_to_num(values[enough] - usual)
    limit[enough] = np.maximum(watched.effect, _BEYOND * np.maximum(scatter, watched.scatter))
    out = (np.abs(change) > limit) * np.sign(change)
    lasting = np.abs(sliding_window_view(out, IN_A_ROW).sum(axis=1)) == IN_A_ROW
    begins = np.flatnonzero(lasting & ~np.concatenate([[False], lasting[:-1]]))
    # From the frames just before: the window's median lags behind a drift.
    return [
        (int(at), step)
        for at in begins
        if np.isfinite(step := _middle(values[at : at + IN_A_ROW]) - _middle(values[max(0, at - LAG) : at]))
    ]


def _middle(values: NDArray[np.float64]) -> float:
    """The median of those that are known; NaN of none, without a warning."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


class _Followed:
    """The peaks of a table, followed from each frame to the one `LAG` after it."""

    def __init__(self, peaks: xr.Dataset) -> None:
        self._numbers = peaks["frame"].values
        self._ends = np.concatenate([[0], np.cumsum(peaks["peak_count"].values)])
        self._columns = {name: peaks[name].variable for name in _COLUMNS}

    def _rows(self, first: int, stop: int, names: Sequence[str] = _COLUMNS) -> dict[str, NDArray[Any]]:
        """Peaks of the frames at positions [first, stop) of the table."""
        rows = slice(int(self._ends[first]), int(self._ends[stop]))
        return {name: self._columns[name][rows].values for name in names}

    def changes(self, frames: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Medians over the peaks that `frames` and the one `LAG` before each have; NaN where these are too few."""
        n = len(self._numbers)
        values = {name: np.full(n, np.nan) for name in _CHANGES}
        first = 0
        while first < n - LAG:
            # As many frames as hold a block of peaks, and those that the first of them are compared with.
            room = self._ends[first] + BLOCK_PEAKS
            stop = min(n, max(int(np.searchsorted(self._ends, room)) - 1, first + 2 * LAG))
            found = self._changes_within(first, stop)
            for name in _CHANGES:
                values[name][first + LAG : stop] = found[name][LAG:]
            first = stop - LAG
        at = np.searchsorted(self._numbers, frames)
        return {name: of_frames[at] for name, of_frames in values.items()}

    def _changes_within(self, first: int, stop: int) -> dict[str, NDArray[np.float64]]:
        from scipy.spatial import KDTree  # here, as few that open a table look for changes

        rows, counts = self._rows(first, stop), np.diff(self._ends[first : stop + 1])
        n = stop - first
        frame = np.repeat(np.arange(n), counts)
        place = np.stack([rows["y"], rows["x"], frame * _APART], axis=1)
        if not len(place):
            return {name: np.full(n, np.nan) for name in _CHANGES}
        # Frames lie one above the other, too far apart to be taken for one another: nearest peaks of all at once.
        tree = KDTree(place)
        step = np.array([0, 0, LAG * _APART])
        back, on = (np.asarray(tree.query(at, distance_upper_bound=REACH)[1]) for at in (place - step, place + step))
        now = np.flatnonzero(back < len(place))
        now = now[on[back[now]] == now]
        then = back[now]
        with np.errstate(all="ignore"):
            area = rows["fwhm_major"] * rows["fwhm_minor"]
            moved = {
                "y": rows["y"][now] - rows["y"][then],
                "x": rows["x"][now] - rows["x"][then],
                "brightness": np.log(rows["intensity"][now] / rows["intensity"][then]),
                "width": np.log(area[now] / area[then]) / 2,
            }
        of_frame = pd.DataFrame(moved).replace([np.inf, -np.inf], np.nan).groupby(frame[now])
        medians = of_frame.median().where(of_frame.count() >= FEWEST_PEAKS).reindex(range(n))
        fewer = np.minimum(counts, np.concatenate([np.zeros(LAG, int), counts])[:n])
        kept = np.bincount(frame[now], minlength=n) / np.where(fewer >= FEWEST_PEAKS, fewer, np.nan)
        return {name: medians[name].to_numpy(np.float64) for name in moved} | {"kept": kept}

    def crowd(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> str:
        """Where most of the peaks lie that frames have and earlier ones had not; "" where they are all over."""
        from scipy.spatial import KDTree

        had, have = (
            np.stack(list(self._rows(at[0], at[-1] + 1, ("y", "x")).values()), axis=1)
            for at in (np.searchsorted(self._numbers, before), np.searchsorted(self._numbers, after))
        )
        new = have[KDTree(had).query(have)[0] > _ELSEWHERE] if len(had) and len(have) else have
        if len(new) < 2 * FEWEST_PEAKS:
            return ""
        low, high = np.quantile(new, (0.1, 0.9), axis=0)
        if np.prod((high - low) / np.maximum(np.ptp(np.concatenate([had, have]), axis=0), 1)) > _CROWD:
            return ""
        (y0, x0), (y1, x1) = np.floor(low).astype(int), np.ceil(high).astype(int)
        return f"rows {y0} to {y1}, columns {x0} to {x1}"


def _cause(
    changed: Mapping[str, float], states: NDArray[np.void], first: int, followed: _Followed | None
) -> tuple[str, str] | None:
    """The cause and the words for changes that begin together at index `first`; None for what nobody need know."""
    before, after = states[max(0, first - WINDOW) : first], states[first : first + IN_A_ROW]
    n_before, n_after = float(np.median(before["peaks"])), float(np.median(after["peaks"]))
    counts = f"{n_before:.0f} → {n_after:.0f} peaks a frame"
    factor = {name: float(np.exp(changed.get(name, 0.0))) for name in ("mean", "brightness", "width")}
    fewer = n_after < 0.5 * n_before
    share = float(np.median(after["saturated"]))
    if changed.get("saturated", 0.0) > 0 and share > 2 * float(np.median(before["saturated"])):
        return "saturation", f"{share:.0%} of the peaks are saturated: attenuate, or expose for less time"
    if (factor["mean"] < 0.5 and fewer) or (n_before >= 1 and n_after == 0):
        return "beam lost", f"no beam, or a closed shutter ({counts}, mean count × {factor['mean']:.2g})"
    if changed.get("peaks", 0.0) > 0:
        where = "" if followed is None else followed.crowd(before["frame"][-LAG:], after["frame"])
        if where:
            return "hot pixels", f"new hot pixels or a noisy module, {where} ({counts}): mask them (frames.mask)"
    if "y" in changed or "x" in changed or "kept" in changed:
        if "y" in changed or "x" in changed:
            moved = f"the pattern moved by ({changed.get('y', 0.0):+.1f}, {changed.get('x', 0.0):+.1f}) px (y, x)"
        else:
            moved = "the peaks are no longer where they were"
        return "pattern moved", f"{moved}: sample, beam or detector moved"
    if changed.get("width", 0.0) > 0:
        return "peaks broader", f"peaks are {factor['width']:.2f} times as wide: look at focus and sample position"
    if "brightness" in changed:
        what = f"peaks have {factor['brightness']:.2g} times their intensity"
        return "intensity changed", f"{what} (mean count × {factor['mean']:.2g}): look at beam and attenuators"
    if "mean" in changed:
        what = f"the mean count is {factor['mean']:.2g} times what it was"
        return "background changed", f"{what} ({counts}): look at beam, scatter and light leaks"
    if changed.get("doubtful", 0.0) > 0:
        share = float(np.median(after["doubtful"]))
        what = f"for {share:.0%} of the peaks network and fit disagree, or the network was not made for them"
        return "doubtful positions", f"{what}: take locate.position: fit, or retrain (braggflow train)"
    if "peaks" in changed:
        return "peaks changed", f"{counts}: look at a frame before and after (braggflow preview)"
    return None
