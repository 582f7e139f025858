"""Are a small change of the lattice and a small broadening recovered within the stated errors?

Each series has 100 reflections on a detector beside the beam, 40 frames of Poisson noise. From the middle on, every
lattice spacing is longer by 1e-4 and every peak 5 % broader in q. Frames are searched, located and fitted as ever; the
strain of each peak of the second half is taken against its reflection's mean in the first, and the change of `d` and of
`fwhm_q` is that between the two halves. A pull is (found - true) / stated error: errors that hold give pulls of mean 0
and width 1.

    python benchmarks/bench_strain.py [series, 10] [seed, 0]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.geometry.strained import BROADER, FRAMES, STRAIN, pulls_of, series  # the same series as in the tests


def main(n_series: int = 10, seed: int = 0) -> None:
    of_each = [pulls_of(series(seed + i)) for i in range(n_series)]
    found = {name: np.concatenate([one[name] for one in of_each]) for name in of_each[0]}
    print(f"{n_series} series, {len(found['found strain'])} reflections in {FRAMES} frames each")
    for name, truth in (("strain", STRAIN), ("broadening", BROADER)):
        mean, stated = found[f"found {name}"].mean(), np.median(found[f"stated {name}"])
        print(f"{name}: true {truth:g}, mean of all {mean:.6g}, stated error of one reflection {stated:.2g} (median)")
    print("| pulls of | n | mean | width |\n|---|---|---|---|")
    for name in ("strain of each peak", "change of d", "change of fwhm_q"):
        pulls = found[name]
        n, width = len(pulls), pulls.std()
        errors = width / n**0.5, width / (2 * n) ** 0.5
        print(f"| {name} | {n} | {pulls.mean():+.3f} ± {errors[0]:.3f} | {width:.3f} ± {errors[1]:.3f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
