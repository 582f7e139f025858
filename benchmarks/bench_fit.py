"""Speed and precision of the profile fits, against scipy's curve_fit on the same patches and the Cramér–Rao limit.

One thread, timed by its own time on the processor. Prints, by class of simulated peak (11 × 11 pixels, Poisson noise):
fits per second, medians of repeats; the ratio to curve_fit with the same pixel-integrated model and with the model
taken at the pixels' centres only (less work, but biased for sharp peaks); the root mean square error of y and x over
that of the limit (errors above 2 px, and fits that did not converge, count as 2 px), of curve_fit too; the bias; and
the share of errors within 1 and 2 of the fit's own standard errors (68.3 % and 95.4 % are right). curve_fit is given
complete patches of one peak only. The line after `neighbour` is what the joint fit is for: the same peaks fitted alone,
to the pixels nearest to them; the limit in it is that of the line before.

    python benchmarks/bench_fit.py [--patches 20000] [--reference 200]
"""

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.patches import State
from braggflow.simulate import CLASSES, SimulatedPatches, limit_of_patches, simulate_patches

SIZE = 11
REPEATS = 5
NODES, WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(3))
CENTRE = np.zeros(1), np.ones(1)
#: Classes whose patches are complete and hold one peak: what curve_fit can be given.
PLAIN = ("sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint")


def profile_model(voigt: bool, nodes: NDArray[np.float64], weights: NDArray[np.float64]) -> Callable[..., NDArray]:
    """The fit's model as curve_fit wants it: y, x, C (yy, xy, xx), amplitude, background[, eta]."""
    pixel = (np.arange(SIZE)[:, None] + nodes).ravel()
    y_nodes, x_nodes = pixel[:, None], pixel[None, :]
    weight = np.outer(weights, weights)[None, :, None, :]

    def model(_, y, x, yy, xy, xx, amplitude, background, eta=0.0):
        dy, dx = y_nodes - y, x_nodes - x
        q = (xx * dy * dy - 2 * xy * dy * dx + yy * dx * dx) / (yy * xx - xy * xy)
        shape = np.exp(-q / 2)
        if voigt:
            shape = (1 - eta) * shape + eta / (1 + q / (2 * np.log(2)))
        if len(nodes) > 1:
            shape = (shape.reshape(SIZE, len(nodes), SIZE, len(nodes)) * weight).sum(axis=(1, 3))
        return (amplitude * shape + background).ravel()

    return model


def reference(counts: NDArray[np.float32], voigt: bool, *, integrated: bool) -> tuple[float, NDArray[np.float64]]:
    """Seconds a fit (median of the patches) and positions by curve_fit, unweighted as it is mostly called."""
    model = profile_model(voigt, *((NODES, WEIGHTS) if integrated else CENTRE))
    seconds, positions = [], np.full((len(counts), 2), np.nan)
    grid = np.arange(SIZE * SIZE)
    for k, patch in enumerate(counts):
        data = patch.ravel().astype(float)
        begin = time.thread_time()
        background = np.median(data)
        y, x = divmod(int(data.argmax()), SIZE)
        start = [y, x, 1.5, 0.0, 1.5, data.max() - background, background] + [0.3] * voigt
        with suppress(RuntimeError):  # no convergence within its limit of calls
            positions[k] = curve_fit(model, grid, data, p0=start)[0][:2]
        seconds.append(time.thread_time() - begin)
    return float(np.median(seconds)), positions


def rms_ratio(error: NDArray[np.float64], limit: NDArray[np.float64]) -> float:
    clipped = np.nan_to_num(np.minimum(np.abs(error), 2), nan=2)
    return float(np.sqrt(np.mean(clipped**2) / np.mean(limit**2)))


def row_of_class(
    name: str, patches: SimulatedPatches, deviations: NDArray[np.float64], config: FitConfig, n_reference: int
) -> dict[str, Any]:
    """Fit the patches; `deviations` (n, 2) is the limit. The keys are those that `measure` names."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        found = fit_patches(patches.counts, patches.state, patches.maxima, config)
        seconds.append((time.thread_time() - begin) / len(patches))
    second = float(np.median(seconds))
    error = np.stack([found["y"], found["x"]], axis=1) - patches.position
    pull = np.abs(error / np.stack([found["y_std"], found["x_std"]], axis=1))[found["converged"]]
    bias = np.nanmean(error, axis=0)
    row: dict[str, Any] = {
        "name": name,
        "fits_per_s": 1 / second,
        "ratio_integrated": None,
        "ratio_sampled": None,
        "failed": float(np.mean(~found["converged"])),
        "rms_over_limit": rms_ratio(error, deviations),
        "curve_fit_rms_over_limit": None,
        "bias_y": float(bias[0]),
        "bias_x": float(bias[1]),
        "within_1": float(np.mean(pull < 1)),
        "within_2": float(np.mean(pull < 2)),
        "chi2": float(np.nanmedian(found["chi2"])),
        "iterations": float(np.mean(found["iterations"])),
    }
    if name in PLAIN and n_reference > 0:
        few, voigt = patches.counts[:n_reference], config.model == "pseudo_voigt"
        integrated_second, positions = reference(few, voigt, integrated=True)
        sampled_second, _ = reference(few, voigt, integrated=False)
        row["ratio_integrated"], row["ratio_sampled"] = integrated_second / second, sampled_second / second
        ratio = rms_ratio(positions - patches.position[: len(few)], deviations[: len(few)])
        row["curve_fit_rms_over_limit"] = ratio
    return row


def measure(patches: int = 20_000, reference: int = 200) -> list[dict[str, Any]]:
    """A row for each class, of `patches` fits and of curve_fit on the first `reference` of them (0: without it).

    Keys: `name`; `fits_per_s`, by the thread's own time, and how many times as fast as curve_fit that is,
    `ratio_integrated` and `ratio_sampled` (by its model); shares `failed`, `within_1`, `within_2`; `rms_over_limit`,
    `curve_fit_rms_over_limit`; `bias_y`, `bias_x` (px); the median `chi2` and the mean of `iterations`. None where
    curve_fit was not asked.
    """
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # curve_fit steps through shapes that are no ellipse
        for kind, drawn_from in CLASSES.items():
            drawn = simulate_patches(patches, rng=np.random.default_rng(20), config=drawn_from, size=SIZE)
            config = FitConfig(model="pseudo_voigt" if kind == "pseudo_voigt" else "gaussian")
            fit_patches(drawn.counts[:1], drawn.state[:1], drawn.maxima[:1], config)  # compiled before it is timed
            deviations = limit_of_patches(drawn)
            rows.append(row_of_class(kind, drawn, deviations, config, reference))
            if kind == "neighbour":
                own = np.where(drawn.state == State.OTHER, np.uint8(State.MISSING), drawn.state)
                alone = replace(drawn, state=own, maxima=np.full_like(drawn.maxima, np.nan))
                rows.append(row_of_class("- fitted alone", alone, deviations, config, reference))
    return rows


def line_of(row: dict[str, Any]) -> str:
    columns = f"{'':20}", f"{'':10}"
    if row["ratio_integrated"] is not None:
        columns = (
            f"{row['ratio_integrated']:9.0f}x{row['ratio_sampled']:9.0f}x",
            f"{row['curve_fit_rms_over_limit']:10.3f}",
        )
    return (
        f"{row['name']:16}{row['fits_per_s']:9.0f}{columns[0]} |"
        f"{row['failed']:8.2%}{row['rms_over_limit']:10.3f}{columns[1]} |"
        f"{row['bias_y']:+9.4f}{row['bias_x']:+9.4f} |{row['within_1']:9.1%}{row['within_2']:9.1%}"
        f"{row['chi2']:7.3f}{row['iterations']:7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--reference", type=int, default=200, help="patches a class given to curve_fit")
    arguments = parser.parse_args()

    begin = time.thread_time()
    one = simulate_patches(1, rng=np.random.default_rng(0), size=SIZE)
    fit_patches(one.counts, one.state, one.maxima, FitConfig())
    print(f"first call (compile, or load from numba's cache): {time.thread_time() - begin:.2f} s")
    print(f"{arguments.patches} patches a class; curve_fit on the first {arguments.reference}")
    print(
        f"{'':16}{'fits/s':>9}{'/ integr.':>10}{'/ sampled':>10} |{'failed':>8}{'RMS/limit':>10}{'curve_fit':>10}"
        f" |{'bias y, x (px)':>18} |{'in 1 std':>9}{'in 2 std':>9}{'chi2':>7}{'steps':>7}"
    )
    for row in measure(arguments.patches, arguments.reference):
        print(line_of(row))


if __name__ == "__main__":
    main()
