"""What became of the added peaks, in figures with intervals: share found, bias, errors against what is stated."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from braggflow.selfcheck.places import Place

#: One added peak: its frame's number, its place in pixels of the detector, height in counts, SNR as expected, kind of
#: place, the height at which it would have the SNR `LIMIT_SNR`, whether it was found, and if so the error (y, x) of its
#: position and the standard uncertainty that is stated.
ADDED_DTYPE = np.dtype(
    [
        *[("frame", "i8"), ("y", "f8"), ("x", "f8"), ("height", "f8"), ("snr", "f8"), ("place", "i1"), ("limit", "f8")],
        *[("found", "?"), ("error", "f8", 2), ("std", "f8", 2)],
    ]
)
#: Limits of the bands of SNR, and that from which on peaks are expected to be found wherever they are.
SNR = (0.0, 5.0, 7.0, 10.0, 20.0, 50.0, np.inf)
LIMIT_SNR = 10.0
#: Of fewer errors along an axis no scatter is given.
_LEAST = 20
#: Share of a normal distribution within one standard deviation, and the relative standard error of that quantile of
#: n absolute deviations, times sqrt(n): sqrt(p (1 - p)) / (2 φ(1)).
_ONE_SIGMA, _QUANTILE_ERROR = 0.6827, 0.962
#: Standard deviations that an interval reaches to either side: 95 %.
_INTERVAL = 1.96


def share_of(part: float, whole: float) -> dict[str, float | None]:
    """A share with its 95 % interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927)); None of nothing."""
    if not whole:
        return {"share": None, "low": None, "high": None}
    p, z = part / whole, _INTERVAL
    middle = (p + z**2 / (2 * whole)) / (1 + z**2 / whole)
    half = z / (1 + z**2 / whole) * float(np.sqrt(p * (1 - p) / whole + z**2 / (4 * whole**2)))
    return {
        "share": round(p, 4),
        "low": round(max(0.0, middle - half), 4) if part else 0.0,
        "high": round(min(1.0, middle + half), 4) if part < whole else 1.0,
    }


def share_of_groups(part: NDArray[np.integer], whole: NDArray[np.integer]) -> dict[str, float | None]:
    """A share of what comes in groups, whose members go together; its interval is that of as many single ones.

    `part` (n,) of the `whole` (n,) of each group: the two errors of a peak, or one reflection in many frames. As many
    single ones are those whose share would vary as much (W. G. Cochran, Sampling Techniques (1977), section 9A): not
    more than there are.
    """
    n, inside, total = len(whole), int(np.sum(part)), int(np.sum(whole))
    if n < 2:
        return share_of(inside, total)
    if inside in (0, total):
        return share_of(n if inside else 0, n)
    p = inside / total
    variance = float(np.sum((part - p * whole) ** 2)) / total**2 * n / (n - 1)
    # Of few groups the variance itself is uncertain: Student's t in place of the normal deviate.
    wider = float(special.stdtrit(n - 1, special.ndtr(_INTERVAL))) / _INTERVAL
    single = min(p * (1 - p) / variance, total) / wider**2 if variance > 0 else total
    return share_of(p * single, single)


def figures_of(added: NDArray[np.void]) -> dict[str, Any]:
    """What became of added peaks, as plain data.

    Parameters
    ----------
    added : numpy.ndarray of dtype ADDED_DTYPE
        Shape (n,).

    Returns
    -------
    dict
        `peaks` added and `found` of them; `recall`, the share found. Of those found, in pixels of the detector:
        `bias` (y, x), the mean error, and `bias_std` (y, x), its standard error; `rms` of the error along an axis and
        `stated`, the rms of the stated uncertainty. `scatter`: of the errors over what is stated (1: honest; above: it
        is too small), with its standard error `scatter_std`; `within_1` and `within_2`: the share of the errors within
        one and two stated uncertainties. Shares have the 95 % interval from `low` to `high`. What too few peaks say is
        None.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.selfcheck import ADDED_DTYPE, figures_of
    >>> added = np.zeros(50, ADDED_DTYPE)
    >>> added["found"], added["std"] = True, 0.1
    >>> added["error"] = np.random.default_rng(0).normal(0, 0.1, (50, 2))
    >>> found = figures_of(added)
    >>> found["recall"], found["within_1"]["share"]
    ({'share': 1.0, 'low': 0.9286, 'high': 1.0}, 0.65)
    """
    found = added[added["found"]]
    n, error, std = len(found), found["error"], found["std"]
    known = np.isfinite(std).all(axis=1) & (std > 0).all(axis=1)
    deviation = np.abs(error[known] / std[known])
    result: dict[str, Any] = {"peaks": len(added), "found": n, "recall": share_of(n, len(added))}
    result |= dict.fromkeys(("bias", "bias_std", "rms", "stated", "scatter", "scatter_std"))
    if n > 1:
        result["bias"] = error.mean(axis=0).round(5).tolist()
        result["bias_std"] = (error.std(axis=0, ddof=1) / np.sqrt(n)).round(5).tolist()
        result["rms"] = round(float(np.sqrt(np.mean(error**2))), 5)
    if len(deviation):
        result["stated"] = round(float(np.sqrt(np.mean(std[known] ** 2))), 5)
    if deviation.size >= _LEAST:
        scatter = float(np.quantile(deviation, _ONE_SIGMA))
        result["scatter"] = round(scatter, 4)
        result["scatter_std"] = round(scatter * _QUANTILE_ERROR / float(np.sqrt(deviation.size)), 4)
    for k in (1, 2):
        within = np.count_nonzero(deviation <= k, axis=1)
        result[f"within_{k}"] = share_of_groups(within, np.full(len(within), 2))
    return result


def summary(added: NDArray[np.void], rows: Mapping[str, int]) -> dict[str, Any]:
    """All figures of a check: by SNR in the open, by place above `LIMIT_SNR`, and what became of other rows.

    Of `rows`, those `before` are of the frames as they are; `gained` are neither there nor added, `lost` are there no
    more, and so are those `lost_beside` an added peak, with which they may have become one.
    """
    free, high = added["place"] == Place.free, added["snr"] >= LIMIT_SNR
    found = int(np.count_nonzero(added["found"]))
    by_snr = [
        {"snr": [low, above if np.isfinite(above) else None]}
        | figures_of(added[free & (added["snr"] >= low) & (added["snr"] < above)])
        for low, above in pairwise(SNR)
    ]
    by_place = [{"place": place.name} | figures_of(added[high & (added["place"] == place)]) for place in Place]
    return {
        "peaks": len(added),
        "limit": {
            "snr": LIMIT_SNR,
            "height": float(f"{np.median(added['limit'][free]):.4g}") if free.any() else None,
            **figures_of(added[free & high]),
        },
        "half_found_snr": _half_found(added[free]),
        "by_snr": [of for of in by_snr if of["peaks"]],
        "by_place": [of for of in by_place if of["peaks"]],
        "rows": {**rows, "precision": share_of(found, found + rows["gained"])},
    }


def _half_found(added: NDArray[np.void]) -> float | None:
    """The SNR that best parts peaks found from those not found: the fewest are on the wrong side."""
    order = np.argsort(added["snr"], kind="stable")
    snr, found = added["snr"][order], added["found"][order]
    if found.all() or not found.any():
        return None
    wrong = np.concatenate([[0], np.cumsum(found)]) + (~found).sum() - np.concatenate([[0], np.cumsum(~found)])
    at = int(np.argmin(wrong))
    if at in (0, len(snr)):
        return None
    return round(float(np.sqrt(snr[at - 1] * snr[at])), 2)
