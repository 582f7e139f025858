"""Frames for benchmarks: simulated once, with a fixed seed, and kept in build/bench."""

from pathlib import Path

from braggflow.simulate import simulate_series

FOLDER = Path(__file__).parent.parent / "build" / "bench"


def frames_store(*, size: int, peaks: int, n_frames: int) -> Path:
    path = FOLDER / f"{size}px_{peaks}peaks_{n_frames}frames.zarr"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        simulate_series(path, n_frames=n_frames, shape=(size, size), peaks=peaks, overwrite=True)
    return path
