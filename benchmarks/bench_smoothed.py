"""Frames that were smoothed or interpolated: how far are stated errors off, and does the note on the series say so?

Three frames of 512² with 64 isolated round Gaussians on 60 photons a pixel, as they are and after filters that people
apply before they look for peaks. `off`: the errors' scatter over what is stated for them; `note`: the factor that
`braggflow.frames.contradictions` states from the noise of the frames alone (1: it says nothing).

    python benchmarks/bench_smoothed.py [series of each kind, 4]
"""

import re
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from bench_bright import deviations, scene
from bench_defaults import SIDE
from numpy.typing import NDArray
from scipy import ndimage

from braggflow.config import RunConfig
from braggflow.frames import contradictions, frames_from_array, open_series
from braggflow.simulate.profiles import render

BACKGROUND = 60
Filter = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Name, filter, and by how much it moves a frame along both axes, pixels.
FILTERS: tuple[tuple[str, Filter, float], ...] = (
    ("as measured", lambda frame: frame, 0.0),
    *((f"Gaussian, sigma {s}", partial(ndimage.gaussian_filter, sigma=s), 0.0) for s in (0.3, 0.4, 0.5, 0.7, 1.0)),
    ("mean of 3 × 3", partial(ndimage.uniform_filter, size=3), 0.0),
    ("moved by 0.3 px, linear", partial(ndimage.shift, shift=(0.3, 0.3), order=1), 0.3),
    ("moved by 0.5 px, linear", partial(ndimage.shift, shift=(0.5, 0.5), order=1), 0.5),
    ("moved by 0.5 px, cubic", partial(ndimage.shift, shift=(0.5, 0.5), order=3), 0.5),
    ("mean of 3 × 1", partial(ndimage.uniform_filter, size=(3, 1)), 0.0),
)


def main(n_series: int = 4) -> None:
    """Print a row for each filter."""
    print("| frames | off | note |\n|---|---|---|")
    for name, apply, moved in FILTERS:
        off, noted = list[NDArray[np.float64]](), list[float]()
        for number in range(n_series):
            rng = np.random.default_rng(number)
            peaks = scene(rng, BACKGROUND)
            expected = render((SIDE, SIDE), peaks, background=BACKGROUND)
            frames = np.stack([apply(rng.poisson(expected).astype(np.float32)) for _ in range(3)])
            said = " ".join(contradictions(open_series(frames_from_array(frames), RunConfig())))
            found = re.search(r"about ([\d.]+) times too small", said)
            noted.append(float(found[1]) if found else 1.0)
            peaks["y"] += moved
            peaks["x"] += moved
            off += [deviations(peaks, frame, {}) for frame in frames]
        scatter = np.median(np.abs(np.concatenate(off))) / 0.6745  # half of a normal distribution lies within that
        print(f"| {name} | {scatter:.2f} | {np.median(noted):.1f} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
