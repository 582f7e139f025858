"""Is the setting that a sweep recommends near the best of its map? On simulated series, whose peaks are known.

python benchmarks/bench_sweep.py [frames looked at, 12]

F1 is 2 recall precision / (recall + precision), of `braggflow score`. The time is that of the sweep over that of
find_peaks with each of its settings, whose numbers of peaks it must have, exactly.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import braggflow
from braggflow.evaluate import load_truth, score
from braggflow.pipeline import compile_ahead
from braggflow.simulate import simulate_series

SERIES: dict[str, dict[str, Any]] = {
    "as make demo": {},
    "no hot pixels": {"hot_pixels": 0},
    "bright background": {"hot_pixels": 0, "background": 100.0},
    "few counts": {"hot_pixels": 0, "background": 0.05, "read_noise": 0.0},
}
RULES: dict[str, dict[str, Any]] = {
    "significance": {},
    "minval, minscore": {"detect": {"false_peaks": None}},
    "levels in noise": {"detect": {"false_peaks": None, "minval": "3 sigma", "minscore": "2 sigma"}},
}


def f1(found: Any) -> float:
    """The harmonic mean of recall and precision."""
    recall, precision = found.recall["all"].share, found.precision
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def measure(
    store: Path, rule: dict[str, Any], frames: int
) -> tuple[braggflow.Sweep, dict[tuple[int, ...], Any], float]:
    """The sweep, the score of each of its settings, and the ratio of their times."""
    began = time.perf_counter()
    found = braggflow.sweep(store, rule, frames=frames)
    swept = time.perf_counter() - began
    truth, data = load_truth(store.with_suffix(".truth.zarr")), braggflow.open_frames(store)
    data, scores, alone = data.sel(frame=found.map["frame"].values), {}, 0.0
    settings = found.levels.settings(found.config.detect)
    for place, setting in zip(np.ndindex(*found.levels.shape), settings, strict=True):
        began = time.perf_counter()
        peaks = braggflow.find_peaks(data, config=found.config.model_copy(update={"detect": setting}))
        alone += time.perf_counter() - began
        if (found.map["peak_count"].values[place] != peaks["peak_count"].values).any():
            raise SystemExit(f"{found.words_of(place)}: the sweep's numbers of peaks are not those of find_peaks")
        scores[place] = score(peaks, truth)
    return found, scores, swept / alone


def main() -> None:
    """Print a row for each series and rule."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    compile_ahead()
    print("| series | rule | settings | recommended | recall | precision | F1 | best F1 | configured F1 | time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in SERIES.items():
            store = Path(folder) / f"{name}.zarr"
            simulate_series(store, n_frames=60, shape=(256, 256), peaks=20, seed=2, **settings)
            for rule, config in RULES.items():
                found, scores, ratio = measure(store, config, frames)
                own = found.levels.place_of(found.config.detect)
                assert found.place is not None
                assert own is not None
                chosen, best = scores[found.place], max(map(f1, scores.values()))
                cells = [name, rule, str(len(scores)), found.words_of(found.place)]
                shares = (chosen.recall["all"].share, chosen.precision, f1(chosen), best, f1(scores[own]))
                print(
                    f"| {' | '.join(cells)} | {' | '.join(f'{share:.3f}' for share in shares)} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
