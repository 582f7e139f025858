"""Sharp spots on no background, as photon-counting detectors have them: are the stated errors right?

A frame of 500² with 400 isolated round Gaussians of one width, 60 to 3,000 photons each, and nothing else, no key set.
Of honest errors 0.683 lie within one stated standard deviation.

    python benchmarks/bench_sharp.py [seed, 1]
"""

import sys

import numpy as np

import braggflow
from braggflow.simulate.profiles import PROFILE_DTYPE, render


def main(seed: int = 1) -> None:
    """Print a row for each width."""
    print("| sigma, px | fitted | y, x within 1 σ | fit alone | intensity | fwhm_minor over the truth, within 1 σ |")
    print("|---|---|---|---|---|---|")
    for sigma in (0.25, 0.3, 0.35, 0.5, 0.8):
        rng = np.random.default_rng(seed)
        at = np.stack(np.meshgrid(*[np.arange(20) * 24 + 20] * 2), axis=-1).reshape(-1, 2)
        peaks = np.zeros(len(at), PROFILE_DTYPE)
        peaks["y"], peaks["x"] = (at + rng.uniform(-2, 2, at.shape)).T
        peaks["sigma_major"] = peaks["sigma_minor"] = sigma
        photons = np.exp(rng.uniform(np.log(60), np.log(3000), len(at)))
        peaks["height"] = photons / (2 * np.pi * sigma**2)
        table = braggflow.find_peaks(rng.poisson(render((500, 500), peaks, background=0)).astype(np.uint16))
        apart = np.hypot(*(table[axis].values[:, None] - peaks[axis] for axis in "yx"))
        near = apart.min(axis=0) < 2
        found, true, photons = table.isel(peak=apart.argmin(axis=0)[near]), peaks[near], photons[near]
        fitted = np.isfinite(found["fwhm_minor"].values)
        within = []
        for of in ("", "_fit"):
            off = [(found[f"{a}{of}"] - true[a]).values / found[f"{a}{of}_std"].values for a in "yx"]
            within.append(np.mean(np.abs(np.concatenate(off)[np.isfinite(np.concatenate(off))]) < 1))
        light = (found["intensity"].values - photons) / found["intensity_std"].values
        width = 2 * np.sqrt(2 * np.log(2)) * sigma
        narrow = (found["fwhm_minor"].values - width) / found["fwhm_minor_std"].values
        ratio = np.nanmedian(found["fwhm_minor"].values) / width
        print(
            f"| {sigma} | {fitted.sum()} of {len(at)} | {within[0]:.2f} | {within[1]:.2f} "
            f"| {np.mean(np.abs(light[fitted]) < 1):.2f} | {ratio:.2f}, {np.mean(np.abs(narrow[fitted]) < 1):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
