"""Speed and precision of the profile fits, against scipy's curve_fit on the same patches and the Cramér–Rao limit.

One thread. Prints, by class of simulated peak (11 × 11 pixels, Poisson noise): fits per second, medians of repeats; the
ratio to curve_fit with the same pixel-integrated model and with the model taken at the pixels' centres only (less work,
but biased for sharp peaks); the root mean square error of y and x over that of the limit (errors above 2 px, and fits
that did not converge, count as 2 px), of curve_fit too; the bias; and the share of errors within 1 and 2 of the fit's
own standard errors (68.3 % and 95.4 % are right). curve_fit is given complete patches of one peak only. The line after
`neighbour` is what the joint fit is for: the same peaks fitted alone, to the pixels nearest to them; the limit in it is
that of the line before.

    python benchmarks/bench_fit.py [--patches 20000] [--reference 200]
"""

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from braggflow import fit, limit, scenes
from braggflow.config import FitConfig
from braggflow.patches import State

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
        begin = time.perf_counter()
        background = np.median(data)
        y, x = divmod(int(data.argmax()), SIZE)
        start = [y, x, 1.5, 0.0, 1.5, data.max() - background, background] + [0.3] * voigt
        with suppress(RuntimeError):  # no convergence within its limit of calls
            positions[k] = curve_fit(model, grid, data, p0=start)[0][:2]
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)), positions


def rms_ratio(error: NDArray[np.float64], limit: NDArray[np.float64]) -> float:
    clipped = np.nan_to_num(np.minimum(np.abs(error), 2), nan=2)
    return float(np.sqrt(np.mean(clipped**2) / np.mean(limit**2)))


def report(
    name: str, patches: scenes.Scenes, deviations: NDArray[np.float64], config: FitConfig, n_reference: int
) -> None:
    """Fit the patches, print a line; `deviations` (n, 2) is the limit."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        found = fit.fit_patches(patches.counts, patches.state, patches.maxima, config)
        seconds.append((time.perf_counter() - begin) / len(patches))
    second = float(np.median(seconds))
    error = np.stack([found["y"], found["x"]], axis=1) - patches.position
    pull = np.abs(error / np.stack([found["y_std"], found["x_std"]], axis=1))[found["converged"]]
    bias = np.nanmean(error, axis=0)
    columns = f"{'':20}", f"{'':10}"
    if name in PLAIN:
        few, voigt = patches.counts[:n_reference], config.model == "pseudo_voigt"
        integrated_second, positions = reference(few, voigt, integrated=True)
        sampled_second, _ = reference(few, voigt, integrated=False)
        ratio = rms_ratio(positions - patches.position[: len(few)], deviations[: len(few)])
        columns = f"{integrated_second / second:9.0f}x{sampled_second / second:9.0f}x", f"{ratio:10.3f}"
    print(
        f"{name:16}{1 / second:9.0f}{columns[0]} |"
        f"{np.mean(~found['converged']):8.2%}{rms_ratio(error, deviations):10.3f}{columns[1]} |"
        f"{bias[0]:+9.4f}{bias[1]:+9.4f} |{np.mean(pull < 1):9.1%}{np.mean(pull < 2):9.1%}"
        f"{np.nanmedian(found['chi2']):7.3f}{np.mean(found['iterations']):7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--reference", type=int, default=200, help="patches a class given to curve_fit")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", OptimizeWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # curve_fit steps through shapes that are no ellipse

    begin = time.perf_counter()
    one = scenes.simulate(1, rng=np.random.default_rng(0), size=SIZE)
    fit.fit_patches(one.counts, one.state, one.maxima, FitConfig())
    print(f"first call (compile, or load from numba's cache): {time.perf_counter() - begin:.2f} s")
    print(f"{arguments.patches} patches a class; curve_fit on the first {arguments.reference}")
    print(
        f"{'':16}{'fits/s':>9}{'/ integr.':>10}{'/ sampled':>10} |{'failed':>8}{'RMS/limit':>10}{'curve_fit':>10}"
        f" |{'bias y, x (px)':>18} |{'in 1 std':>9}{'in 2 std':>9}{'chi2':>7}{'steps':>7}"
    )
    for kind, drawn_from in scenes.CLASSES.items():
        patches = scenes.simulate(arguments.patches, rng=np.random.default_rng(20), config=drawn_from, size=SIZE)
        config = FitConfig(model="pseudo_voigt" if kind == "pseudo_voigt" else "gaussian")
        deviations = limit.of_scenes(patches)
        report(kind, patches, deviations, config, arguments.reference)
        if kind == "neighbour":
            own = np.where(patches.state == State.OTHER, np.uint8(State.MISSING), patches.state)
            alone = replace(patches, state=own, maxima=np.full_like(patches.maxima, np.nan))
            report("- fitted alone", alone, deviations, config, arguments.reference)


if __name__ == "__main__":
    main()
