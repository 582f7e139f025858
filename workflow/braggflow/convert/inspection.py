"""What would be read of a series, before anything is: for `inspect`, and at the head of a conversion and of a run."""

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braggflow.cluster import task_pool
from braggflow.convert.oddities import FrameFacts, frames_at_ends, joined, odd_series
from braggflow.convert.plan import asked_coords, inspect_all
from braggflow.convert.storage import storage_of_stacks, storage_of_store
from braggflow.errors import InputError
from braggflow.formats import Stack
from braggflow.frames import described, expand_data_sets, open_frames, series_of, stacks_of


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What would be read of a series; all plain values, so that it is JSON as it stands.

    What has the name of a Dataset's attribute (docs/ingest.md) is that attribute.
    """

    name: str
    kind: str
    """frames store, Zarr store, or the kind of detector file: hdf5, tiff, npy, npz, fabio."""
    frames: int
    shape: tuple[int, int]
    """(y, x)"""
    dtype: str
    source_folder: str
    sources: list[dict[str, Any]]
    """What the frames come from, in order: for each its name, frames, and what else is known."""
    others: list[str]
    """What else in the files may be frames and is not taken, as `/path (shape)`."""
    chunks: tuple[int, ...] | None
    filters: tuple[str, ...]
    masked: int
    """Pixels of the mask."""
    mask_pixels: dict[str, int]
    """How many pixels of the mask come from where."""
    marks: dict[str, Any]
    masked_below: float | None
    saturation: float | None
    saturation_source: str
    coordinates: dict[str, dict[str, Any]]
    """Per-frame coordinates: the first and last value, and the units."""
    geometry: dict[str, Any]
    missing_frames: list[tuple[int, int, str]]
    """Frames that are not there, as (first, the one after the last, reason); positions in the series."""
    first: FrameFacts | None
    """The first frame that is there, None where none is."""
    last: FrameFacts | None
    notes: list[str]
    warnings: list[str]
    """What a user should know before the series is processed, a sentence each."""


def inspect_series(
    names: Sequence[str | Path], *, dataset: str | None = None, coords: Mapping[str, str] | None = None
) -> list[SeriesFacts]:
    """What would be read, and a look at a few frames: of detector files as one series, of each store as its own.

    `names` are files, `FILE:/path/in/it`, folders and patterns as `ingest` takes them, with its `dataset` and `coords`,
    and Zarr stores. Raises `InputError` with the message that `ingest` would give, or the opening of a store.
    """
    stores: list[Path] = []
    files: list[str | Path] = []
    for name in names:
        if _names_stores(str(name)):
            stores += expand_data_sets([name])
        else:
            files.append(name)
    found = []
    if files or not stores:
        data, stacks = _opened(files, dataset, coords or {})
        found.append(series_facts(data, ", ".join(map(str, files)), stacks))
    elif dataset or coords:
        raise InputError("--dataset, --coord: are for detector files; only stores are named")
    return found + [series_facts(open_frames(path), path) for path in stores]


def open_source(name: str | Path) -> xr.Dataset:
    """Whatever `ingest` or a run reads, opened as it is: a store, a file, a folder or pattern of files, as one series.

    Raises `InputError` where it is neither, where a folder holds several stores, and as `ingest` does.
    """
    if not _names_stores(str(name)):
        return _opened([name], None, {})[0]
    stores = expand_data_sets([name])
    if len(stores) > 1:
        raise InputError(f"{name}: holds {len(stores)} stores ({stores[0].name}, ...); name one of them")
    return open_frames(stores[0])


def _opened(
    files: Sequence[str | Path], dataset: str | None, coords: Mapping[str, str]
) -> tuple[xr.Dataset, list[Stack]]:
    """Detector files as one series, and what they hold."""
    with task_pool(1) as run_tasks:
        stacks = inspect_all(files, dataset, coords, run_tasks)
    asked = asked_coords(coords, stacks)
    data = series_of(stacks)
    return described(data.assign_coords({key: ("frame", *of_frames) for key, of_frames in asked.items()})), stacks


def _names_stores(name: str) -> bool:
    """Whether a name means Zarr stores: by its end, by what lies in it, or as a folder that holds nothing else."""
    path = Path(name)
    if path.suffix == ".zarr":
        return not path.is_file()
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return bool(names & {"zarr.json", ".zgroup", ".zarray"}) or (
        bool(glob.glob("*.zarr", root_dir=path)) and not any((path / entry).is_file() for entry in names)  # noqa: PTH207
    )


def series_facts(data: xr.Dataset, name: str | Path, stacks: Sequence[Stack] | None = None) -> SeriesFacts:
    """What is known of a series that `open_frames` returned, and of its first and last frame.

    `stacks` are what the files hold, where the caller knows; else the file that `name` says is looked at.
    """
    if stacks is None and "source" not in data.encoding:
        stacks = stacks_of(name)
    storage = storage_of_stacks(stacks) if stacks else storage_of_store(data)
    missing = joined([*data.attrs.get("missing_frames", []), *storage.lost])
    ends, odd_values = frames_at_ends(data, missing)
    facts = _plain(data.attrs)
    n_frames, y, x = data["frames"].shape
    return SeriesFacts(
        name=str(name),
        kind=storage.kind,
        frames=n_frames,
        shape=(y, x),
        dtype=str(data["frames"].dtype),
        source_folder=str(facts.get("source_folder", "")),
        sources=facts.get("sources", []),
        others=list(dict.fromkeys(other for stack in stacks or () for other in stack.others)),
        chunks=storage.chunks,
        filters=storage.filters,
        masked=int(np.count_nonzero(data["mask"])) if "mask" in data else 0,
        mask_pixels=facts.get("mask_pixels", {}),
        marks=facts.get("marks", {}),
        masked_below=facts.get("masked_below"),
        saturation=facts.get("saturation"),
        saturation_source=str(facts.get("saturation_source", "")),
        coordinates={str(key): _coordinate(data[key]) for key in data.coords if key != "frame"},
        geometry=facts.get("geometry", {}),
        missing_frames=missing,
        first=ends[0] if ends else None,
        last=ends[-1] if ends else None,
        notes=list(facts.get("notes", [])),
        warnings=[*odd_series(data, storage, missing), *odd_values],
    )


def _coordinate(values: xr.DataArray) -> dict[str, Any]:
    units = values.attrs.get("units")
    found = values.values.ravel()
    ends: dict[str, Any] = {"first": _plain(found[0]), "last": _plain(found[-1])}
    return ends if units is None else {**ends, "units": str(units)}


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers, texts, lists and mappings; None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(of_key) for key, of_key in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)
