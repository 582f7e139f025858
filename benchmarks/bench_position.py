"""Which position is nearer to the truth: the network's, the fit's, or what `locate.position: auto` chooses.

Simulated peaks of each class, placed as a run places them (Gaussian fits, the network `compact`). Errors are the root
mean square over that of the information limit, both clipped at 2 px; `1 σ` and `2 σ` the share of the errors of `auto`
within so many stated standard uncertainties.

    python benchmarks/bench_position.py [PEAKS] [SEED]
"""

import sys

import numpy as np
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.config import RunConfig
from braggflow.fit import fit_patches
from braggflow.locate import load_localiser, locate_patches
from braggflow.peak_table import Method
from braggflow.pipeline.assembly import assemble
from braggflow.simulate import CLASSES, limit_of_patches, simulate_patches

FAR = 2.0


def root_mean_square(errors: NDArray[np.float64]) -> float:
    return float(np.sqrt((np.minimum(np.hypot(*errors.T), FAR) ** 2).mean()))


def main(n: int = 8000, seed: int = 8123) -> None:
    """Print the table."""
    default = RunConfig()
    localiser = load_localiser(default.locate.model_copy(update={"device": "cpu"}), default.patches.size)
    half = default.patches.size // 2
    print("| class | network | fit | auto | network used | 1 σ | 2 σ |")
    print("|---|---|---|---|---|---|---|")
    for name, simulation in CLASSES.items():
        drawn = simulate_patches(n, rng=np.random.default_rng(seed), config=simulation)
        limit = root_mean_square(limit_of_patches(drawn))
        fits = fit_patches(drawn.counts, drawn.state, drawn.maxima, default.fit)
        located = locate_patches(localiser, drawn.counts, drawn.state)
        cut = patches.Patches(drawn.counts, drawn.state, drawn.maxima, np.full((n, 2), np.nan))
        table = peak_table.empty(n)
        table["y_pixel"] = table["x_pixel"] = half
        ratios = []
        for position in ("network", "fit", "auto"):
            config = default.model_copy(
                update={"locate": default.locate.model_copy(update={"position": position})},
            )
            placed = assemble(table, cut, config, located=located, fitted=np.ones(n, bool), fits=fits)
            errors = np.column_stack([placed["y"], placed["x"]]) - drawn.position
            ratios.append(root_mean_square(errors) / limit)
        deviations = np.abs(errors / np.column_stack([placed["y_std"], placed["x_std"]]))
        print(
            f"| `{name}` | "
            + " | ".join(f"{ratio:.3f}" for ratio in ratios)
            + f" | {np.mean(placed['method'] == Method.compact):.4f}"
            + f" | {np.mean(deviations < 1):.3f} | {np.mean(deviations < 2):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
