"""Peaks that are clipped: how far off are positions, are the stated errors right, is each one row?

Frames of 512² with 64 isolated round Gaussians of one width, up to 8 times as high as what can be counted (4,095), no
key set; the reference are the same frames with nothing clipped. A flat field of 3 % makes the tops of peaks uneven. Of
honest errors 0.683 lie within one stated standard deviation.

    python benchmarks/bench_saturated.py [frames of each kind, 6] [seed, 1]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_bright import scene
from bench_defaults import NEAR, SIDE
from numpy.typing import NDArray

import braggflow
from braggflow.peak_table import Flag
from braggflow.simulate.profiles import render

TOP = 4095


def shares(
    frames: list[tuple[NDArray[np.uint16], NDArray[np.float64], NDArray[np.float64]]], config: dict[str, dict[str, str]]
) -> tuple[float, int, str, float, float, str]:
    """Share found, further rows, median and highest error (px), shares within 1 and 2 sigma, of saturated peaks; of
    their intensities the median over the truth and the share within 1 sigma.
    """
    errors, deviations, n, further = list[float](), list[NDArray[np.float64]](), 0, 0
    ratios, of_intensity = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    for counts, true, light in frames:
        table = braggflow.find_peaks(counts, config=config)
        at, std = (np.stack([table[f"{axis}{name}"] for axis in "yx"], axis=1) for name in ("", "_std"))
        apart = np.hypot(*np.moveaxis(at[:, None] - true, -1, 0))
        best = apart.argmin(axis=0)
        k = np.flatnonzero(apart.min(axis=0) < NEAR)
        n, further = n + len(true), further + len(at) - len(k)
        clipped = table["flags"].values[best[k]] & np.uint16(Flag.saturated) > 0
        if (counts > TOP).any():  # nothing is clipped: all are looked at
            clipped[:] = True
        errors += apart[best[k], k][clipped].tolist()
        deviations.append(np.abs((at[best[k]] - true[k]) / std[best[k]])[clipped])
        intensity, intensity_std = (table[name].values[best[k]][clipped] for name in ("intensity", "intensity_std"))
        ratios.append(intensity / light[k][clipped])
        of_intensity.append(np.abs(intensity - light[k][clipped]) < intensity_std)
    apart_by = np.concatenate(deviations)
    text = f"{np.median(errors):.4f} {np.quantile(errors, 0.9):.3f} {max(errors):.3f}"
    within = [float(np.mean(apart_by < many)) for many in (1, 2)]
    bright = f"{np.median(np.concatenate(ratios)):.3f}, {np.mean(np.concatenate(of_intensity)):.3f}"
    return len(errors) / n, further, text, *within, bright


def main(n_frames: int = 6, seed: int = 1) -> None:
    """Print a row for each width and kind of frame."""
    print(
        "| sigma, px | frames | saturated | further rows | error: median, 90 %, highest, px | within 1 σ | within 2 σ "
        "| intensity over the truth, within 1 σ |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "flat.npy")
        flat = (1 + 0.03 * np.random.default_rng(0).standard_normal((SIDE, SIDE))).clip(0.8, 1.2).astype(np.float32)
        np.save(path, flat)
        for sigma in (0.8, 1.2, 1.6, 2.2, 3.0):
            scenes = []
            for number in range(n_frames):
                rng = np.random.default_rng([seed, number])
                peaks = scene(rng, 1.0)
                peaks["sigma_major"] = peaks["sigma_minor"] = sigma
                peaks["height"] = TOP * np.exp(rng.uniform(np.log(1.2), np.log(8), len(peaks)))
                expected = render((SIDE, SIDE), peaks, background=8.0)
                counts, uneven = (rng.poisson(expected * response).astype(np.uint16) for response in (1, flat))
                light = 2 * np.pi * sigma**2 * peaks["height"]
                scenes.append((counts, uneven, np.stack([peaks["y"], peaks["x"]], axis=1), light))
            kinds = {
                "nothing clipped": ([(counts, *true) for counts, _, *true in scenes], {}),
                "clipped": ([(np.minimum(counts, TOP), *true) for counts, _, *true in scenes], {}),
                "clipped, less a flat": (
                    [(np.minimum(uneven, TOP), *true) for _, uneven, *true in scenes],
                    {"frames": {"flat": path}},
                ),
            }
            for name, (frames, config) in kinds.items():
                found, further, errors, one, two, bright = shares(frames, config)
                cells = f"{found:.3f} | {further} | {errors} | {one:.3f} | {two:.3f} | {bright}"
                print(f"| {sigma} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
