"""The run folder `OUT/DATASET/`: settings, parts, the consolidated table, and what happened.

A part is the result of one finished task. It gets its name only when it is whole, and carries the identity of the run
that made it (settings, code, model, frames), so that existence is completion and runs are never mixed.
"""

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import metadata
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

import braggflow
from braggflow import peaks
from braggflow.config import InputError, RunConfig, digest, resolve

FORMAT = "braggflow-peaks"
#: Peaks per chunk of the table: a few MB a variable.
TABLE_CHUNK = 262_144
#: Modules whose source decides the numbers; a change in one is another code version.
_RESULT_MODULES = (
    *("assemble", "attributes", "background", "detect", "direct", "fit", "fit_solver", "fit_start", "frames", "graph"),
    *("gpu", "hdf5", "lanes", "localise", "models", "network_kernels", "patches", "peaks", "profile_kernels"),
    *("reading", "sources"),
)

#: Who looks whether a run goes on holds its lock for an instant.
_LOCK_SECONDS = 0.5

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Part:
    """What one task found, in the frames at positions [first, stop) of the series."""

    first: int
    stop: int
    table: peaks.Table
    removed: dict[str, int] = field(default_factory=dict)
    """Peaks dropped, by filter."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Frames that could not be processed, as {frame, reason}."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent, by stage."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks by "kind worker": where it was made."""
    notes: dict[str, int] = field(default_factory=dict)
    """How often something unusual was done, by what it was (a batch halved for lack of memory, ...)."""


@dataclass(frozen=True, slots=True)
class PartSummary:
    """A part without its table: what travels to the client."""

    first: int
    stop: int
    peaks: int
    removed: dict[str, int]
    failures: list[dict[str, Any]]
    seconds: dict[str, float]
    tasks: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside `OUT/DATASET/`."""

    path: Path

    @property
    def settings(self) -> Path:
        """The whole resolved configuration."""
        return self.path / "run.yaml"

    @property
    def info(self) -> Path:
        """Status, counts, timings, versions, identity, failures."""
        return self.path / "run.json"

    @property
    def parts(self) -> Path:
        """One file per finished task."""
        return self.path / "parts"

    @property
    def peaks(self) -> Path:
        """The consolidated peak table."""
        return self.path / "peaks.zarr"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    def part(self, first: int, stop: int) -> Path:
        """The file of the part of positions [first, stop)."""
        return self.parts / f"part-{first:08d}-{stop:08d}.npz"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name of its own, then rename it into place: readers see all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def code_version() -> dict[str, str]:
    """The package's version and a hash of the sources that decide the numbers."""
    content = sha256()
    for name in _RESULT_MODULES:
        content.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return {"version": braggflow.__version__, "sources": content.hexdigest()[:16]}


def identity(config: RunConfig, frames: Mapping[str, Any], model: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must be equal for parts to belong together: settings, files they name, code, model and frames."""
    from braggflow.sources import split_name

    settings = config.result_settings()
    named = {
        key: sha256(split_name(value)[0].read_bytes()).hexdigest()
        for key, value in {  # each an image file, or `file.h5:/path`
            "frames.mask": config.frames.mask,
            "frames.dark": config.frames.dark,
            "frames.flat": config.frames.flat,
            "detect.background": config.detect.background,
        }.items()
        if value is not None and value not in ("store", "none", "local")
    }
    return {"settings": settings, "files": named, "code": code_version(), "model": model, "frames": dict(frames)}


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


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines that say where two identities differ: key, old value, new value."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} → {after}".removeprefix("settings."))
    return lines


@contextmanager
def lock(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder: two runs writing to one are refused. The lock ends with its process, however that ends."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with (folder.path / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{folder.path}: another run writes here; wait for it or choose another --out"
                    ) from None
                time.sleep(0.05)
        yield


def read_info(folder: RunFolder) -> dict[str, Any]:
    """The content of `run.json`; raises `InputError` where there is no run."""
    try:
        info = json.loads(folder.info.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder.path}: holds no run (no {folder.info.name})") from None
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder.info}: cannot be read ({error})") from error
    if not isinstance(info, dict) or "identity" not in info:
        raise InputError(f"{folder.info}: is not a braggflow run")
    return info


def write_info(folder: RunFolder, info: Mapping[str, Any]) -> None:
    """Replace `run.json`."""
    write_atomic(folder.info, json.dumps(info, indent=1).encode())


def read_settings(folder: RunFolder) -> RunConfig:
    """The configuration that the run was made with."""
    import yaml

    return resolve(yaml.safe_load(folder.settings.read_text(encoding="utf-8")), source=str(folder.settings))


def begin(folder: RunFolder, config: RunConfig, info: Mapping[str, Any]) -> None:
    """Start a run in an empty or emptied folder.

    `run.json` comes first: a folder that holds it is a run, whatever a crash kept from being made after it.
    """
    write_info(folder, info)
    for old in (folder.parts, folder.peaks):
        shutil.rmtree(old, ignore_errors=True)
    folder.report.unlink(missing_ok=True)
    resume(folder, config, info)


def resume(folder: RunFolder, config: RunConfig, info: Mapping[str, Any]) -> None:
    """Go on with a run of the same identity; what killed processes left half-written is removed."""
    folder.parts.mkdir(exist_ok=True)
    for left in (*folder.path.glob(".run.*"), *folder.path.glob("peaks.wip.*"), *folder.parts.glob(".part-*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    write_atomic(folder.settings, config.to_yaml().encode())
    write_info(folder, info)


def write_part(folder: RunFolder, part: Part, run: str) -> PartSummary:
    """Write one part, whole or not at all; `run` is the digest of the run's identity."""
    summary = PartSummary(
        part.first,
        part.stop,
        len(part.table),
        removed=part.removed,
        failures=part.failures,
        seconds=part.seconds,
        tasks=part.tasks,
        notes=part.notes,
    )
    meta = json.dumps({"run": run, **asdict(summary)}).encode()
    content = BytesIO()
    np.savez(content, meta=np.frombuffer(meta, np.uint8), peaks=part.table)
    write_atomic(folder.part(part.first, part.stop), content.getvalue())
    return summary


def read_parts(folder: RunFolder, run: str) -> dict[tuple[int, int], PartSummary]:
    """Summaries of the finished parts of run `run`, by (first, stop). Parts of other runs and broken files are not."""
    found = {}
    for path in sorted(folder.parts.glob("part-*.npz")):
        try:
            with path.open("rb") as raw, ZipFile(raw) as archive:
                if archive.testzip() is not None:
                    continue  # damaged on disk
                meta = _part_meta(archive)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            continue  # a broken file is an unfinished part: it is made again
        if meta.pop("run") == run:
            found[meta["first"], meta["stop"]] = PartSummary(**meta)
    return found


def total(counts: Iterable[Mapping[str, _Number]]) -> dict[str, _Number]:
    """The sum of several counts by key."""
    result: dict[str, _Number] = {}
    for count in counts:
        for key, value in count.items():
            result[key] = result[key] + value if key in result else value
    return result


def _part_meta(archive: ZipFile) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(np.load(BytesIO(archive.read("meta.npy")), allow_pickle=False).tobytes())
    return meta


def read_table(folder: RunFolder, part: PartSummary) -> peaks.Table:
    """The peaks of one part; raises `ValueError` where the file is not the part that was summed up."""
    path = folder.part(part.first, part.stop)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        table: peaks.Table = file["peaks"]
    if len(table) != part.peaks:
        raise ValueError(f"{path}: holds {len(table)} peaks, {part.peaks} were written; another run is writing here")
    return table


def consolidate(
    folder: RunFolder,
    parts: list[PartSummary],
    frame_coords: xr.Dataset,
    failed: Collection[int],
    attributes: Mapping[str, Any],
) -> dict[str, dict[str, int]]:
    """Join the parts into `peaks.zarr`, in memory that does not grow with the number of peaks.

    `frame_coords` holds the index coordinate `frame` of the processed frames, in any order, and their coordinates;
    `failed` the numbers of those that could not be processed. Returns the counts of peaks by flag and by method.
    """
    frame_coords = frame_coords.sortby("frame")
    numbers = frame_coords["frame"].values
    counts = np.zeros(len(numbers), np.int64)
    flags, methods = Counter[str](), Counter[str]()
    for part in parts:
        table = read_table(folder, part)
        counts += np.bincount(np.searchsorted(numbers, table["peak_frame"]), minlength=len(numbers))
        flags.update({str(flag.name): int(np.count_nonzero(table["flags"] & flag)) for flag in peaks.Flag})
        methods.update({method.name: int(np.count_nonzero(table["method"] == method)) for method in peaks.Method})
    starts = np.concatenate([[0], np.cumsum(counts)])

    name = f"peaks.wip.{uuid4().hex}"
    target, scratch = folder.path / f"{name}.zarr", folder.path / f"{name}.rows"
    # Frames may be stored in any order: each part goes to its place in a file on disk, which is then read in order.
    with scratch.open("w+b") as joined:
        for part in parts:
            table = read_table(folder, part)
            changes = np.flatnonzero(np.diff(table["peak_frame"])) + 1
            for begin, end in pairwise([0, *changes.tolist(), len(table)]):
                if begin < end:
                    start = starts[np.searchsorted(numbers, table["peak_frame"][begin])]
                    joined.seek(int(start) * peaks.PEAK_DTYPE.itemsize)
                    joined.write(table[begin:end].tobytes())
        per_frame = _per_frame(frame_coords, counts, np.isin(numbers, list(failed)), attributes)
        per_frame.to_zarr(target, mode="w", zarr_format=3, consolidated=False)
        joined.seek(0)
        _write_table(target, joined, int(starts[-1]))
    scratch.unlink()
    shutil.rmtree(folder.peaks, ignore_errors=True)
    target.rename(folder.peaks)
    return {"flags": dict(flags), "methods": dict(methods)}


def _per_frame(
    frame_coords: xr.Dataset, counts: NDArray[np.int64], failed: NDArray[np.bool_], attributes: Mapping[str, Any]
) -> xr.Dataset:
    per_frame = frame_coords.assign(
        peak_count=("frame", counts, {"sample_dimension": "peak", "long_name": "peaks in the frame"}),
        frame_failed=("frame", failed.astype(np.int8), {"long_name": "1: could not be processed, see run.json"}),
    )
    per_frame.attrs = {
        "format": FORMAT,
        "format_version": peaks.SCHEMA_VERSION,
        "Conventions": "CF-1.11",
        **attributes,
    }
    return per_frame


def _write_table(target: Path, rows: BinaryIO, n: int) -> None:
    """Write `n` peaks, read from a file of records, as one array a variable."""
    group = zarr.open_group(target, mode="r+")
    arrays = {
        name: group.create_array(
            name,
            shape=(n,),
            dtype=variable.dtype,
            chunks=(min(TABLE_CHUNK, max(1, n)),),
            dimension_names=("peak",),
            attributes=peaks.cf_attributes(name),  # type: ignore[arg-type]  # plain JSON values
        )
        for name, variable in peaks.VARIABLES.items()
    }
    for start in range(0, n, TABLE_CHUNK):
        block = np.frombuffer(rows.read(TABLE_CHUNK * peaks.PEAK_DTYPE.itemsize), peaks.PEAK_DTYPE)
        for name, array in arrays.items():
            array[start : start + len(block)] = block[name]


def to_dataset(
    table: peaks.Table, frame_coords: xr.Dataset, failed: Collection[int], attributes: Mapping[str, Any]
) -> xr.Dataset:
    """A table in memory as the Dataset that `open_peaks` returns; arguments as for `consolidate`."""
    frame_coords = frame_coords.sortby("frame")
    numbers = frame_coords["frame"].values
    counts = np.bincount(np.searchsorted(numbers, table["peak_frame"]), minlength=len(numbers))
    ordered = peaks.sort(table)
    columns = {name: ("peak", ordered[name].copy(), peaks.cf_attributes(name)) for name in peaks.VARIABLES}
    return _indexed(_per_frame(frame_coords, counts, np.isin(numbers, list(failed)), attributes).assign(columns))


def _indexed(data: xr.Dataset) -> xr.Dataset:
    return data.set_coords("peak_frame").set_xindex("peak_frame")


def open_peaks(path: str | Path) -> xr.Dataset:
    """The peak table of a run folder (or of its `peaks.zarr`), read lazily.

    The peaks of one frame: `peaks.sel(peak_frame=17)`; of frames 10 to 20: `peaks.sel(peak_frame=slice(10, 20))`.
    Variables that an older version's table lacks hold their missing value. Raises `InputError` where there is no table,
    or a newer version's.
    """
    path = Path(path)
    table = path if path.suffix == ".zarr" else RunFolder(path).peaks
    if not table.exists():
        raise InputError(f"{path}: holds no peak table ({table.name} is missing; a run that did not finish has none)")
    data: xr.Dataset = xr.open_zarr(table, consolidated=False, chunks=None)
    if data.attrs.get("format") != FORMAT:
        raise InputError(f"{table}: is not a braggflow peak table")
    version = data.attrs.get("format_version")
    if version not in range(1, peaks.SCHEMA_VERSION + 1):
        raise InputError(
            f"{table}: has format_version {version}, this braggflow ({braggflow.__version__}) reads 1 to "
            f"{peaks.SCHEMA_VERSION}; update it"
        )
    if version != peaks.SCHEMA_VERSION:
        unknown = peaks.empty(data.sizes["peak"])
        later = [name for name in peaks.VARIABLES if name not in data]
        data = data.assign({name: ("peak", unknown[name].copy(), peaks.cf_attributes(name)) for name in later})
    return _indexed(data)


def versions() -> dict[str, str]:
    """Versions of the package and of those that its numbers come from."""
    names = ("numpy", "scipy", "numba", "torch", "findpeaks", "zarr", "xarray", "dask", "distributed")
    return {"braggflow": braggflow.__version__, **{name: metadata.version(name) for name in names}}


def run_digest(run_identity: Mapping[str, Any]) -> str:
    """The name under which parts know their run."""
    return digest(run_identity)
