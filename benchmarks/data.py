"""Frames for benchmarks: simulated once, with a fixed seed, and kept in build/bench."""

from pathlib import Path

from braggflow.config import RunConfig, digest
from braggflow.flow.tasks import TaskSeries
from braggflow.frames import open_frames
from braggflow.results import frames_identity
from braggflow.simulate import simulate_series
from braggflow.version import code_version

FOLDER = Path(__file__).parent.parent / "build" / "bench"


def frames_store(*, size: int, peaks: int, n_frames: int) -> Path:
    path = FOLDER / f"{size}px_{peaks}peaks_{n_frames}frames.zarr"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        simulate_series(path, n_frames=n_frames, shape=(size, size), peaks=peaks, overwrite=True)
    return path


def task_series(path: Path, config: RunConfig, out: Path) -> TaskSeries:
    """What tasks are told of a data set that no run has prepared; no bad pixels are known."""
    frames = digest(frames_identity(path, open_frames(path)))
    return TaskSeries(str(path), str(out), config.model_dump_json(), "bench", "{}", code_version()["sources"], frames)
