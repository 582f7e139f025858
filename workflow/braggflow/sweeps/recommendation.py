"""Which setting of a sweep is recommended: on the plateau, where the number of peaks hardly depends on the levels.

A setting is trusted where its peaks are there again in the next frame, and where few of them are expected to be false.
Of the trusted ones those are on the plateau whose number of peaks changes least when levels are one step looser or
stricter; the ends of the lists are not, for what lies beyond them is not known. Of these the one is taken with the most
peaks, as far as they persist: each that does counts for its setting, and each peak, whether it does or not, a part
against it, so that looser levels must add peaks most of which persist. Where several are alike, it is the
configuration's own, or the one with the fewest cuts.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from braggflow.sweeps.levels import Levels, in_words

#: A setting is trusted where its share of persisting peaks, less chance, is at least this part of the highest one, and
#: where no more than this share of its peaks is expected to be false. Faint peaks persist less often than bright
#: ones, and what noise makes on the flanks of bright peaks more often than by chance: the part lies between.
TRUSTED, MOST_FALSE = 0.7, 0.05
#: On the plateau are settings whose number of peaks changes by no more than so many times the least change and `ALIKE`.
PLATEAU_WIDTH = 1.5
#: Settings whose numbers differ by no more than this are as good as each other.
ALIKE = 0.01
#: Of fewer peaks no share is the highest one.
_ENOUGH = 50


class Candidates(NamedTuple):
    """What is known of each setting, arrays of the map's shape."""

    peaks: NDArray[np.float64]
    """Mean number a frame."""
    persisting: NDArray[np.float64]
    """Share of the peaks that persist, less chance; NaN where not known."""
    followed: NDArray[np.float64]
    """Peaks that this share is of."""
    false: NDArray[np.float64]
    """Expected false peaks a frame; NaN where not known."""


def recommended(
    found: Candidates, levels: Levels, own: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...] | None, str]:
    """The place of the recommended setting in the map, and why; None where no setting finds a peak.

    `own` is where the configuration's own setting stands, if it is in the map.
    """
    if not np.nanmax(found.peaks, initial=0) > 0:
        return None, "no setting finds a peak"
    change = changes(found.peaks, levels)
    trusted, best = _trusted(found)
    inner = trusted & ~_open_end(levels)
    asked = inner if (inner & np.isfinite(change)).any() else trusted
    change = np.where(asked, change, np.inf)
    least = float(change.min())
    plateau = asked & (change <= PLATEAU_WIDTH * least + ALIKE)
    worth = found.peaks * (found.persisting - TRUSTED * best) if best > 0 else found.peaks
    most = plateau & (worth >= (1 - ALIKE) * worth[plateau].max())
    if own is not None and most[own]:
        place = own
    else:
        # The fewest cuts first, then the strictest `false_peaks`.
        minval, minscore, false_peaks = np.nonzero(most)
        first = np.lexsort((false_peaks, minval + minscore))[0]
        place = int(minval[first]), int(minscore[first]), int(false_peaks[first])
    return place, _reason(found, levels, place, float(change[place]), best)


def changes(peaks: NDArray[np.float64], levels: Levels) -> NDArray[np.float64]:
    """The largest relative change of the number of peaks to a setting one step away in any of the levels.

    In several at once too: `minval` does nothing as long as `minscore` is higher, and the reverse. Infinite where a
    setting finds no peak and one beside it does, 0 where there is no other setting.
    """
    change = np.zeros(peaks.shape)
    rules = len(levels.false_peaks) - (None in levels.false_peaks)
    for part in (np.s_[..., :rules], np.s_[..., rules:]):  # findpeaks' rule is no step of the other
        here = peaks[part]
        if not here.size:
            continue
        around = sliding_window_view(np.pad(here, 1, constant_values=np.nan), (3, 3, 3))
        most, least = (find(around, axis=(-3, -2, -1), initial=start) for find, start in _ENDS)
        with np.errstate(divide="ignore", invalid="ignore"):
            change[part] = np.fmax(most / here, here / least) - 1
    return np.where(peaks > 0, change, np.inf)


#: How the most and the least of numbers some of which are not known are found.
_ENDS = (np.nanmax, 0.0), (np.nanmin, np.inf)


def _open_end(levels: Levels) -> NDArray[np.bool_]:
    """Settings at the end of a list of levels, beyond which it is not known what is found.

    Beyond no `minval` and no `minscore` there is nothing where significance decides.
    """
    end = np.zeros(levels.shape, bool)
    rules = len(levels.false_peaks) - (None in levels.false_peaks)
    if rules > 1:
        end[..., rules - 1] = True
    if rules > 2:
        end[..., 0] = True
    for axis, of in enumerate((levels.minval, levels.minscore)):
        lines = np.moveaxis(end, axis, 0)
        if len(of) > 2:
            lines[-1] = True
        if len(of) > 1:
            lines[0, ..., slice(rules, None) if None in of else slice(None)] = True
    return end


def _trusted(found: Candidates) -> tuple[NDArray[np.bool_], float]:
    """Which settings are trusted, and the highest share of persisting peaks (NaN: not known)."""
    trusted = found.peaks > 0
    known = trusted & np.isfinite(found.persisting)
    enough = known & (found.followed >= _ENOUGH)
    enough = enough if enough.any() else known
    best = float(found.persisting[enough].max()) if enough.any() else float("nan")
    if best > 0:
        trusted &= ~(found.persisting < TRUSTED * best)
    few_false = trusted & ~(found.false > MOST_FALSE * found.peaks)
    return few_false if few_false.any() else trusted, best


def _reason(found: Candidates, levels: Levels, place: tuple[int, ...], change: float, best: float) -> str:
    peaks = found.peaks[place]
    told = [
        f"{in_words([of[at] for of, at in zip(levels, place, strict=True)])}: {peaks:.4g} peaks a frame on "
        f"average, and one step of any levels changes that by {_percent(change)} at most"
        if np.isfinite(change) and found.peaks.size > 1
        else f"{peaks:.4g} peaks a frame on average"
    ]
    persisting = found.persisting[place]
    if np.isfinite(persisting):
        told.append(f"{_percent(persisting)} persist into the next frame, chance taken off (at best {_percent(best)})")
    else:
        told.append("no frame has a next one here, so that persistence is not known")
    if np.isfinite(found.false[place]):
        told.append(f"{found.false[place]:.2g} false ones expected a frame at most")
    looser = (*place[:2], place[2] + 1)
    if looser[2] < len(levels.false_peaks) and levels.false_peaks[looser[2]] is not None:
        told.append(_looser(found, levels, place, looser))
    return "; ".join(part for part in told if part) + "."


def _looser(found: Candidates, levels: Levels, place: tuple[int, ...], looser: tuple[int, ...]) -> str:
    """What the next looser `false_peaks` would add, and how much of that persists."""
    added = found.peaks[looser] - found.peaks[place]
    if not added > 0:
        return ""
    kept = found.peaks[looser] * found.persisting[looser] - found.peaks[place] * found.persisting[place]
    told = f"false_peaks {levels.false_peaks[looser[2]]:g} adds {added:.2g} a frame"
    return told + (f", of which {_percent(float(np.clip(kept / added, 0, 1)))} persist" if np.isfinite(kept) else "")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
