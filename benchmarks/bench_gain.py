"""Counts of a photon and read noise found from the frames, over the true ones.

Simulated frames of 512 × 512 pixels: a sloping background with a halo, 60 peaks of all classes that drift by 0.05 px a
frame, a brightness that flickers by 1 %, Poisson noise, read noise, rounding to whole counts. Prints, for each gain and
read noise, what `frames.counts_per_photon: auto` found of 15 frames and of one frame of 1024 × 1024 pixels, over the
truth: with `read_noise: auto` too, and with the read noise given. `-`: refused. The last lines count the answers, and
those further than 5 % from the truth.

    python benchmarks/bench_gain.py [--backgrounds 1,8,100]
"""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from braggflow import InputError, RunConfig
from braggflow.frames import frames_from_array, open_series, settled_constants
from braggflow.simulate import CLASSES, sample_profiles
from braggflow.simulate.profiles import render

GAINS, READ_NOISES = (0.2, 0.5, 1.0, 2.0, 5.0), (0.0, 1.0, 3.0, 5.0)
N_FRAMES, PEAKS, DRIFT, FLICKER = 15, 60, 0.05, 0.01
PLAIN = ("sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint")


def expected_frames(n: int, side: int, background: float, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Expected photons of frame after frame, each (side, side)."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    level = background * (1 + 0.3 * y - 0.2 * x + 0.6 * np.exp(-(y**2 + x**2) / (2 * 0.15**2)))
    each = PEAKS * side**2 // 512**2 // len(PLAIN)
    peaks = np.concatenate([sample_profiles(each, rng=rng, config=CLASSES[name]) for name in PLAIN])
    peaks["y"], peaks["x"] = rng.uniform(0, side - 1, (2, len(peaks)))
    for _ in range(n):
        yield render((side, side), peaks, background=level) * (1 + FLICKER * rng.standard_normal())
        peaks["y"] += DRIFT
        peaks["x"] += DRIFT


def found(frames: NDArray[np.int32], read_noise: float | str) -> float:
    """Counts of a photon by the frames; NaN where they do not tell."""
    config = RunConfig.model_validate({"frames": {"counts_per_photon": "auto", "read_noise": read_noise}})
    try:
        return settled_constants(open_series(frames_from_array(frames), config))[1].counts_per_photon
    except InputError:
        return float("nan")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backgrounds", default="1,8,100", help="photons a pixel")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    off = answers = 0
    for background in map(float, asked.backgrounds.split(",")):
        print(f"background {background:g} photons; found / true counts per photon")
        print("  gain  noise   15 frames  , noise given   one frame  , noise given")
        rng = np.random.default_rng(asked.seed)
        series = list(expected_frames(N_FRAMES, 512, background, rng))
        alone = next(expected_frames(1, 1024, background, rng))
        for gain in GAINS:
            for noise in READ_NOISES:
                shots = [gain * rng.poisson(e) + noise * rng.standard_normal(e.shape) for e in (*series, alone)]
                stored = [np.rint(shot).astype(np.int32) for shot in shots]
                ratios = [
                    found(frames, given) / gain
                    for frames in (np.stack(stored[:-1]), stored[-1])
                    for given in ("auto", float(np.hypot(noise, 12**-0.5 * (noise > 0 or gain < 1))))
                ]
                shown = ["      -    " if np.isnan(ratio) else f"{ratio:9.3f}  " for ratio in ratios]
                print(f"{gain:6g} {noise:6g}   " + "   ".join(shown), flush=True)
                answers += sum(np.isfinite(ratios))
                off += sum(abs(ratio - 1) > 0.05 for ratio in ratios if np.isfinite(ratio))
    print(f"{answers} answers, {off} of them further than 5 % from the truth")


if __name__ == "__main__":
    main()
