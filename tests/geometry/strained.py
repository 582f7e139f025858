"""Simulated series of 100 reflections whose lattice changes and which broaden, searched and fitted; pulls of both."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import braggflow
from braggflow.geometry import Geometry, change, place_groups
from braggflow.simulate import PROFILE_DTYPE
from braggflow.simulate.profiles import render

SIDE, STEP, FRAMES, HALF = 512, 48, 40, 20
STRAIN, BROADER = 1e-4, 0.05
GEOMETRY = {
    "distance_mm": 500.0,
    "beam_centre_px": [-2000.0, -1500.0],
    "pixel_size_um": [75.0, 75.0],
    "rotation_degree": [3.0, -2.0, 1.0],
    "energy_kev": 17.4,
}


def series(seed: int) -> xr.Dataset:
    """The peaks of a series, with q, d and widths."""
    rng, geometry = np.random.default_rng(seed), Geometry.from_config(GEOMETRY)
    at = np.arange(24, SIDE - 24, STEP)
    y, x = (np.stack(np.meshgrid(at, at, indexing="ij")) + rng.uniform(-4, 4, (2, len(at), len(at)))).reshape(2, -1)
    two_theta, azimuth = geometry.two_theta(y, x), geometry.azimuth(y, x)
    profiles = np.zeros(len(y), PROFILE_DTYPE)
    radial, across, heights = (
        rng.uniform(1.2, 1.8, len(y)),
        rng.uniform(0.9, 1.2, len(y)),
        rng.uniform(300, 3000, len(y)),
    )
    outwards = geometry.jacobian(y, x)[:, 0]
    profiles["angle"] = np.degrees(np.arctan2(outwards[:, 0], outwards[:, 1]))
    profiles["sigma_minor"], frames = across, []
    for number in range(FRAMES):
        late = number >= HALF
        sine = np.sin(np.radians(two_theta / 2)) / (1 + STRAIN * late)
        profiles["y"], profiles["x"] = geometry.position(2 * np.degrees(np.arcsin(sine)), azimuth)
        profiles["sigma_major"] = radial * (1 + BROADER * late)
        profiles["height"] = heights / (1 + BROADER * late)
        frames.append(rng.poisson(render((SIDE, SIDE), profiles, background=10.0)).astype(np.uint16))
    return braggflow.add_q(braggflow.find_peaks(np.stack(frames)), GEOMETRY)


def pulls_of(peaks: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Pulls of the strain of each peak, and of the two changes of each reflection."""
    groups = place_groups(peaks, radius=4)
    whole = np.bincount(groups) == FRAMES
    groups = np.where(whole[groups], groups, -1)
    strained = braggflow.strain(peaks, first=HALF, labels=groups)
    late = (peaks["peak_frame"].values >= HALF) & (groups >= 0)
    parts = {"before": slice(0, HALF - 1), "after": slice(HALF, None)}
    lattice, width = (change(peaks, column, **parts, labels=groups) for column in ("d", "fwhm_q"))
    return {
        "strain of each peak": (strained["strain"].values[late] - STRAIN) / strained["strain_std"].values[late],
        "change of d": ((lattice["change"] - STRAIN) / lattice["change_std"]).values,
        "change of fwhm_q": ((width["change"] - BROADER) / width["change_std"]).values,
        "found strain": lattice["change"].values,
        "found broadening": width["change"].values,
        "stated strain": lattice["change_std"].values,
        "stated broadening": width["change_std"].values,
    }
