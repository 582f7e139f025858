"""Faults of an experiment, put into simulated frames; used by the watch's test and by benchmarks/bench_watch.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.frames import create_store, finish_store
from braggflow.simulate import simulate_series

#: Counts from which pixels of the faulty series are saturated.
SATURATION = 1500
Frames = NDArray[np.int64]
Fault = Callable[[np.random.Generator, Frames], Frames]


def _beam_off(rng: np.random.Generator, frames: Frames) -> Frames:
    return rng.poisson(0.05, frames.shape)


def _intensity_drop(rng: np.random.Generator, frames: Frames) -> Frames:
    return rng.binomial(frames, 0.5)


def _shift(_: np.random.Generator, frames: Frames) -> Frames:
    return np.roll(frames, (2, -3), axis=(1, 2))


def _hot_module(rng: np.random.Generator, frames: Frames) -> Frames:
    size = frames.shape[1] // 4
    hot = rng.random((size, size)) < 0.02
    frames[:, size : 2 * size, size : 2 * size] += rng.poisson(300 * hot, (len(frames), size, size))
    return frames


def _defocus(rng: np.random.Generator, frames: Frames) -> Frames:
    """Each photon falls elsewhere, by a normal deviate."""
    blurred = np.zeros_like(frames)
    limits = np.array(frames.shape[1:]) - 1
    for frame, out in zip(frames, blurred, strict=True):
        at = np.stack(np.nonzero(frame), axis=1).repeat(frame[np.nonzero(frame)], axis=0)
        moved = np.clip(np.rint(at + rng.normal(0, 1.5, at.shape)).astype(int), 0, limits)
        np.add.at(out, tuple(moved.T), 1)
    return blurred


def _saturation(rng: np.random.Generator, frames: Frames) -> Frames:
    return rng.poisson(frames * 8)


#: Each fault, with the cause that the watch is to name.
FAULTS: dict[str, tuple[Fault, str]] = {
    "beam off": (_beam_off, "beam lost"),
    "intensity drop": (_intensity_drop, "intensity changed"),
    "detector shift": (_shift, "pattern moved"),
    "hot module": (_hot_module, "hot pixels"),
    "defocus": (_defocus, "peaks broader"),
    "saturation": (_saturation, "saturation"),
}


def plain_series(
    folder: Path, *, n_frames: int, shape: tuple[int, int], peaks: int, seed: int
) -> tuple[Frames, NDArray[np.bool_]]:
    """A simulated series without any fault, and its mask; masked pixels are 0."""
    path = folder / "plain.zarr"
    simulate_series(path, n_frames=n_frames, shape=shape, peaks=peaks, seed=seed, hot_pixels=0)
    data: Any = xr.open_zarr(path, consolidated=False, chunks=None)
    frames, mask = data["frames"].values.astype(np.int64), data["mask"].values.astype(bool)
    frames[:, mask] = 0
    return frames, mask


def write_faulty(out: Path, frames: Frames, mask: NDArray[np.bool_], fault: str | None, *, at: int, seed: int) -> None:
    """Write frames, with `fault` from frame `at` on, as a store that saturates at `SATURATION`."""
    frames = frames.copy()
    if fault is not None:
        frames[at:] = FAULTS[fault][0](np.random.default_rng(seed), frames[at:])
    store = create_store(
        out,
        n_frames=len(frames),
        shape=(frames.shape[1], frames.shape[2]),
        dtype=np.dtype(np.uint16),
        images={"mask": mask},
        attributes={"saturation": SATURATION, "simulation": {"fault": fault, "seed": seed}},
    )
    store[:] = np.clip(frames, 0, SATURATION)
    finish_store(out)
