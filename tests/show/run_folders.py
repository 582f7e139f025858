"""Frames stores and finished run folders for tests of what reads them, made by the real stages without a cluster."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braggflow import patches, peak_table
from braggflow.config import RunConfig
from braggflow.detect import cut_patches, detect
from braggflow.fit import fit_patches
from braggflow.frames import correct_frame, correction_of, create_store, finish_store, open_frames, read_raw
from braggflow.locate import Located
from braggflow.peak_table import Method
from braggflow.pipeline.assembly import assemble, sample
from braggflow.results import (
    Part,
    RunFolder,
    begin_run,
    consolidate,
    frames_identity,
    run_digest,
    run_identity,
    write_part,
    write_run_info,
)
from braggflow.version import versions


def write_frames(path: Path, images: np.ndarray, *, coords: Mapping[str, Any] | None = None, **attributes: Any) -> Path:
    """A frames store of `images` (frame, y, x) with its own mask (the lowest two rows)."""
    mask = np.zeros(images.shape[1:], bool)
    mask[-2:] = True
    array = create_store(
        path,
        n_frames=len(images),
        shape=images.shape[1:],
        dtype=images.dtype,
        coords=coords,
        images={"mask": mask},
        attributes=attributes,
    )
    array[:] = images
    finish_store(path)
    return path


def simulate(n_frames: int, *, shape: tuple[int, int] = (96, 128), n_peaks: int = 8, seed: int = 1) -> np.ndarray:
    """Gaussian peaks, three more in each frame, on a background of 20 counts, with Poisson noise."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape)
    images = np.full((n_frames, *shape), 20.0)
    for i, image in enumerate(images):
        for _ in range(n_peaks + 3 * i):
            row, column = random.uniform((0, 0), shape)
            height, sy, sx = random.uniform(100, 2000), *random.uniform(0.7, 2.5, 2)
            image += height * np.exp(-((y - row) ** 2) / (2 * sy**2) - (x - column) ** 2 / (2 * sx**2))
    return random.poisson(images).astype(np.uint16)


def write_run(path: Path, source: Path, config: RunConfig, *, network: bool = True, failed: Sequence[int] = ()) -> Path:
    """The run folder of `source` with `config`; frames numbered `failed` could not be processed.

    The network's positions are stood in for by the centroids of the patches.
    """
    data = open_frames(source)
    correction = correction_of(data, config.frames)
    positions = np.arange(data.sizes["frame"])[config.frames.start : config.frames.stop : config.frames.step]
    numbers = data["frame"].values[positions]
    tables, removed = [], Counter[str]()
    for position, number in zip(positions, numbers, strict=True):
        if number in failed:
            continue
        frame = correct_frame(read_raw(data, np.array([position]))[0], correction)
        detection = detect(frame.counts, frame.mask, config.detect)
        cut, table = cut_patches(frame, detection.table, config.patches)
        table["peak_frame"] = number
        removed.update(detection.removed, min_snr=0)
        chosen = sample(table, config.fit)
        located = None
        if network:
            answer = np.where(np.isnan(cut.centroid), config.patches.size // 2, cut.centroid)
            std, domain = np.full(answer.shape, 0.02, np.float32), np.full(len(answer), 0.9, np.float32)
            located = Located(Method.compact, answer, std, domain)
        shown = patches.select(cut, chosen)
        fits = fit_patches(shown.counts, shown.state, shown.neighbours, config.fit)
        tables.append(assemble(table, cut, config, located=located, fitted=chosen, fits=fits))
    table = peak_table.concatenate(tables)
    failures = [{"frame": int(number), "reason": "FileNotFoundError: chunk <1> is missing"} for number in failed]
    identity = run_identity(config, frames_identity(source, data), None)
    seconds = {"read": 0.1, "correct": 0.2, "detect": 0.3, "patches": 0.1, "locate": 0.5, "fit": 0.25}
    folder = RunFolder(path)
    info: dict[str, Any] = {
        "status": "partial" if failed else "complete",
        "dataset": {
            "name": source.stem,
            "path": str(source),
            "frames": len(numbers),
            "shape": list(data["frames"].shape),
            "dtype": str(data["frames"].dtype),
        },
        "identity": identity,
        "run": run_digest(identity),
        "counts": {
            "frames": len(numbers),
            "frames_failed": len(failed),
            "peaks": len(table),
            "removed": dict(removed),
        },
        "seconds": {"wall": 1.5, "stages": seconds},
        "parts": {"total": 1, "done": 1, "redone": 1},
        "failures": failures,
        "versions": versions(),
        "machine": {"python": "3.12.1", "system": "Linux", "cores": 2},
        "workers": {"threads": 2, "cpu": False, "gpu": False},
        "written": "2026-01-02T03:04:07+00:00",
    }
    path.mkdir(parents=True)
    begin_run(folder, config, info)
    part = Part(0, len(numbers), peak_table.sort(table), dict(removed), failures, seconds)
    summary = write_part(folder, part, info["run"])
    coords = xr.Dataset(coords=data.isel(frame=positions).coords).drop_vars(["y", "x"], errors="ignore")
    info["counts"] |= consolidate(folder, [summary], coords, failed, {"source": str(source)})
    write_run_info(folder, info)
    return path
