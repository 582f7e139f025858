"""Runs over simulated frames whose peaks are known, for tests of what learns from runs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.config import RunConfig
from braggflow.simulate import PROFILE_DTYPE
from braggflow.simulate.profiles import render
from tests.show.run_folders import write_frames, write_run

BACKGROUND = 5.0
#: Log-uniform but for the ratio.
SIGMA, RATIO, HEIGHT = (0.8, 1.6), (1.0, 1.4), (200.0, 3000.0)


def draw_frames(
    n_frames: int, *, side: int = 96, step: int = 16, bin_size: int = 1, seed: int = 0
) -> tuple[NDArray[np.uint16], NDArray[np.void]]:
    """Frames (frame, y, x) with a peak in each square of a grid, and the profiles (frame, peak) they were drawn from.

    With `bin_size`, sizes and positions are those of the frames when binned.
    """
    rng = np.random.default_rng(seed)
    corner = np.arange(step // 2, side - step // 2 + 1, step)
    places = np.stack(np.meshgrid(corner, corner, indexing="ij"), axis=-1).reshape(-1, 2)
    profiles = np.zeros((n_frames, len(places)), PROFILE_DTYPE)
    shape = profiles.shape
    for axis, place in zip("yx", places.T, strict=True):
        profiles[axis] = (place + rng.uniform(-1, 1, shape)) * bin_size + (bin_size - 1) / 2
    profiles["sigma_minor"] = bin_size * np.exp(rng.uniform(*np.log(SIGMA), shape))
    profiles["sigma_major"] = profiles["sigma_minor"] * rng.uniform(*RATIO, shape)
    profiles["angle"] = rng.uniform(-90, 90, shape)
    profiles["height"] = np.exp(rng.uniform(*np.log(HEIGHT), shape)) / bin_size**2
    shown = (side * bin_size, side * bin_size)
    expected = [render(shown, frame, background=BACKGROUND / bin_size**2) for frame in profiles]
    return rng.poisson(expected).astype(np.uint16), profiles


def labelled_run(folder: Path, n_frames: int, *, bin_size: int = 1, seed: int = 0, **settings: Any) -> Path:
    """A run over frames of `draw_frames`, with the fits of all peaks."""
    images, _ = draw_frames(n_frames, bin_size=bin_size, seed=seed)
    config = RunConfig.model_validate(
        {"locate": {"network": "none"}, **settings, "frames": {"bin": bin_size, **settings.get("frames", {})}}
    )
    return write_run(folder / "run", write_frames(folder / "frames.zarr", images), config, network=False)
