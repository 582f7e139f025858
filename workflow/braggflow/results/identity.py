"""What must be equal for the results of two sessions to belong together."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braggflow.angles import Geometry
from braggflow.config import RunConfig, digest
from braggflow.version import code_version


def run_identity(
    config: RunConfig, frames: Mapping[str, Any], model: Mapping[str, Any] | None, geometry: Geometry | None = None
) -> dict[str, Any]:
    """What must be equal for parts to belong together: settings, files they name, code, model and frames.

    And the geometry, where the search decides by it.
    """
    settings = config.result_settings()
    named = {key: sha256(path.read_bytes()).hexdigest() for key, path in image_files(config).items()}
    decided = {} if geometry is None else {"geometry": geometry.to_attributes()}
    return {
        "settings": settings,
        "files": named,
        "code": code_version(),
        "model": model,
        "frames": dict(frames),
    } | decided


def image_files(config: RunConfig) -> dict[str, Path]:
    """The image files that a configuration names, by their keys."""
    from braggflow.formats import split_name

    return {
        key: split_name(value)[0]
        for key, value in {  # each an image file, or `file.h5:/path`
            "frames.mask": config.frames.mask,
            "frames.dark": config.frames.dark,
            "frames.flat": config.frames.flat,
            "detect.background": config.detect.background,
        }.items()
        if value is not None and value not in ("store", "none", "local", "radial")
    }


def frames_identity(path: Path, data: xr.Dataset) -> dict[str, Any]:
    """What tells one series from another: its recorded origin, its schema, and the images that correct it.

    A store that records no origin (one written by a user's own script) is known by its place and the time it was made.
    """
    origin = data.attrs.get("sources") or data.attrs.get("simulation")
    if origin is None:
        made = (path / "frames" / "zarr.json").stat() if (path / "frames" / "zarr.json").exists() else path.stat()
        origin = {"path": str(path.resolve()), "made": made.st_mtime_ns}
    correcting = {
        name: sha256(np.ascontiguousarray(data[name].values).tobytes()).hexdigest()[:16]
        for name in ("frame", "mask", "dark", "flat")
        if name in data.variables
    }
    return {
        "origin": origin,
        "shape": list(data["frames"].shape),
        "dtype": str(data["frames"].dtype),
        "chunk": int(data["frames"].encoding["chunks"][0]),
        **{key: data.attrs.get(key) for key in ("saturation", "masked_below")},
        **correcting,
    }


#: What changes while a series grows.
_GROWS = ("origin", "shape", "chunk", "frame")


def growing_identity(path: Path, data: xr.Dataset, looked_at: Sequence[int]) -> dict[str, Any]:
    """As `frames_identity`, of a series that is still being written: nothing in it changes as frames come.

    `looked_at` are the positions of the frames by which it was described.
    """
    found = {key: value for key, value in frames_identity(path, data).items() if key not in _GROWS}
    frame_shape = list(data["frames"].shape[1:])
    return {**found, "growing": str(path.resolve()), "frame_shape": frame_shape, "looked_at": list(looked_at)}


def described_alike(growing: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether the frames of a series were taken for the same while it grew as they are now that it is whole.

    Both are identities of runs: settings, images, code and model must be equal too.
    """
    of_frames = {key: value for key, value in whole["frames"].items() if key not in _GROWS}
    of_frames["frame_shape"] = whole["frames"]["shape"][1:]
    of_growing = {key: value for key, value in growing["frames"].items() if key not in ("growing", "looked_at")}
    return {**growing, "frames": of_growing} == {**whole, "frames": of_frames}


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines that say where two identities differ: key, old value, new value."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += identity_changes(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} → {after}".removeprefix("settings."))
    return lines


def run_digest(run_identity: Mapping[str, Any]) -> str:
    """The name under which parts know their run."""
    return digest(run_identity)
