"""A self-check in words and as a table."""

from collections.abc import Mapping
from typing import Any

#: Of fewer peaks nothing is said.
_ENOUGH = 20
_WHERE = {"edge": "near edges", "gap": "near gaps", "peak": "near other peaks"}
#: Columns of `check_table`; errors are those along an axis, in pixels.
CHECK_COLUMNS = (
    *("peaks", "added", "found", "95 % interval", "bias y, x", "rms error", "stated", "error over stated"),
    *("in 1 σ", "in 2 σ"),
)


def verdict(found: Mapping[str, Any]) -> str:
    """What the figures of a check say, in one sentence or a few."""
    limit, rows = found["limit"], found["rows"]
    if limit["peaks"] < _ENOUGH:
        return f"too few peaks were added to judge: {limit['peaks']} above SNR {limit['snr']:g} by themselves"
    recall = limit["recall"]
    told = [
        f"peaks above {limit['height']:.3g} counts (SNR {limit['snr']:g}): {_percent(recall['share'])} found "
        f"({_interval(recall)})"
    ]
    if found["half_found_snr"] is not None:
        told.append(f"half of those of SNR {found['half_found_snr']:.2g}")
    told.append(_honesty(limit))
    lost = [_lost(of, recall) for of in found["by_place"] if of["place"] in _WHERE]
    told += [said for said in lost if said]
    if rows["gained"]:
        told.append(f"{rows['gained']:,} false for {found['peaks']:,} added")
    if rows["lost"]:
        told.append(f"{rows['lost']:,} of {rows['before']:,} other rows lost")
    return "; ".join(part for part in told if part)


def _honesty(limit: Mapping[str, Any]) -> str:
    """Whether stated uncertainties are those of the errors."""
    scatter, std = limit["scatter"], limit["scatter_std"]
    if scatter is None:
        return "no uncertainties are stated" if limit["found"] else ""
    if abs(scatter - 1) <= 2 * std:
        return f"sigma honest to {max(abs(scatter - 1), std):.0%}"
    return f"stated sigma {abs(1 - 1 / scatter):.0%} too {'small' if scatter > 1 else 'large'} (± {std / scatter:.0%})"


def _lost(of: Mapping[str, Any], free: Mapping[str, Any]) -> str:
    """What is lost near something, where that is more than chance has it."""
    recall = of["recall"]
    if recall["high"] >= free["low"]:
        return ""
    return f"{_WHERE[of['place']]} {_percent(1 - recall['share'])} lost"


def check_table(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, a cell for each of `CHECK_COLUMNS`: by SNR in the open, then by place above the limit."""
    limit = found["limit"]["snr"]
    rows = [(_band(of["snr"]), of) for of in found["by_snr"]]
    rows += [(f"{_WHERE.get(of['place'], 'by themselves')}, SNR {limit:g} and more", of) for of in found["by_place"]]
    return [(name, *_cells(of)) for name, of in rows]


def scope_of(found: Mapping[str, Any]) -> str:
    """What a check was made of, in a sentence."""
    frames, copies, failed = found["frames"], found["copies"], found["failed"]
    where = f"{frames:,} {'frame' if frames == 1 else 'frames'}" + (f" ({copies} copies of each)" if copies > 1 else "")
    gone = f" {failed:,} of these could then not be processed and are left out." if failed else ""
    rows = found["rows"]
    return (
        f"{found['peaks']:,} peaks of known place were added, with their photons' noise, to copies of {where}, and "
        f"looked for by the same search.{gone} Of {rows['before']:,} rows of these frames as they are "
        f"{rows['lost_beside']:,} were lost beside an added one and {rows['lost']:,} elsewhere, and {rows['gained']:,} "
        "gained that were not added."
    )


def _band(limits: list[float | None]) -> str:
    low, high = limits
    return f"SNR {low:g} and more" if high is None else f"SNR {low:g} to {high:g}"


def _cells(of: Mapping[str, Any]) -> tuple[str, ...]:
    def number(value: float | None, digits: int = 3) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    bias = of["bias"]
    scatter = "–" if of["scatter"] is None else f"{of['scatter']:.2f} ± {of['scatter_std']:.2f}"
    return (
        f"{of['peaks']:,}",
        "–" if of["recall"]["share"] is None else _percent(of["recall"]["share"]),
        _interval(of["recall"]),
        "–" if bias is None else f"{bias[0]:+.3f}, {bias[1]:+.3f}",
        number(of["rms"]),
        number(of["stated"]),
        scatter,
        *(("–", "–") if of["scatter"] is None else (f"{of[f'within_{k}']['share']:.2f}" for k in (1, 2))),
    )


def _interval(share: Mapping[str, float | None]) -> str:
    low, high = share["low"], share["high"]
    return "–" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
