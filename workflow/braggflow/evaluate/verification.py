"""Whether a run, or a frames store, is still what was written: digests, chunks, and some frames done again."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.formats import Stack, read_frames
from braggflow.frames import (
    FRAMES_FORMAT,
    UNREADABLE,
    OpenedSeries,
    damage_of_frames_store,
    open_frames,
    read_raw,
    sealed,
    stacks_of,
)
from braggflow.pipeline import complete_peaks, locate_peaks, on_cpu, search_chunk
from braggflow.results import (
    FILES,
    RunFolder,
    damage_of_table,
    damage_of_tracks,
    file_digests,
    look_at_part,
    open_peaks,
    open_run_frames,
    part_files,
    read_run_info,
)
from braggflow.version import code_version

#: How a check ends.
OK, DAMAGED, UNCHECKED = "ok", "damaged", "not checked"
#: Of more that is damaged, the first are named.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    what: str
    state: str
    """`ok`, `damaged`, or `not checked`."""
    said: str
    """What was compared, or what is damaged, or why it was not checked."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found of one run folder or frames store."""

    path: Path
    kind: str
    """`run` or `frames store`."""
    checks: list[Check] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether anything is."""
        return any(check.state == DAMAGED for check in self.checks)

    def add(self, what: str, damaged: Sequence[str], fine: str, unchecked: str = "") -> None:
        """Note a check: damaged where anything is named, else not checked where there is a reason, else all right."""
        if damaged:
            more = f" and {len(damaged) - _NAMED} others" if len(damaged) > _NAMED else ""
            self.checks.append(Check(what, DAMAGED, "; ".join(damaged[:_NAMED]) + more))
        else:
            self.checks.append(Check(what, UNCHECKED if unchecked else OK, unchecked or fine))


def verify(path: str | Path, *, frames: int = 5, seed: int = 0) -> list[Verified]:
    """Compare a run or a frames store with all checksums that were written with it, and do some frames again.

    Parameters
    ----------
    path : str or pathlib.Path
        A run folder, a frames store ``NAME.zarr``, or a folder of either.
    frames : int, default 5
        Frames of a run, drawn at random, that are searched again in this process and compared bit for bit with the
        rows of its table.
    seed : int, default 0
        Of that choice.

    Returns
    -------
    list of Verified
        One for each run and store: its `checks`, and whether anything is `damaged`. Nothing is written.

    Raises
    ------
    InputError
        Where there is no run and no frames store.

    Examples
    --------
    >>> from braggflow.evaluate import verify
    >>> (found,) = verify("runs/scan", frames=2)
    >>> found.damaged, [check.what for check in found.checks if check.state != "ok"]
    (False, ['report.html'])
    """
    return [
        _verify_run(RunFolder(place), frames, seed) if kind == "run" else _verify_store(place)
        for kind, place in _places(Path(path))
    ]


def _places(path: Path) -> list[tuple[str, Path]]:
    """The runs and stores at a path, or directly in it."""
    here = [path] if _kind(path) else sorted(path.iterdir()) if path.is_dir() else []
    found = [(kind, place) for place in here if (kind := _kind(place))]
    if not found:
        raise InputError(f"verify {path}: {'is no run and no frames store' if path.exists() else 'does not exist'}")
    return found


def _kind(path: Path) -> str:
    if not path.is_dir():
        return ""
    folder = RunFolder(path)
    if folder.info.exists() or folder.parts.is_dir() or folder.settings.exists():
        return "run"
    store = path.name.endswith(".zarr") and not path.name.endswith(".truth.zarr")
    return "frames store" if store or (path / "frames" / "zarr.json").exists() else ""


def _verify_run(folder: RunFolder, n_frames: int, seed: int) -> Verified:
    found = Verified(folder.path, "run")
    try:
        info = read_run_info(folder)
    except InputError as error:
        found.add(folder.info.name, [str(error)], "")
        info = {}
    else:
        found.add(folder.info.name, [], "its digest fits", "" if FILES in info else "made before digests were")
    stated, now = info.get(FILES, {}), file_digests(folder)
    for name in (folder.settings.name, folder.report.name):
        how = "was changed" if name in now else "is missing"
        damaged = [f"{name} {how}"] if name in stated and now.get(name) != stated[name] else []
        found.add(name, damaged, "as written", "" if name in stated else "no digest of it was written")
    found.add("parts", *_parts(folder, info))
    table, peaks = folder.peaks.name, None
    damaged = [f"{table}/{damage}" for damage in damage_of_table(folder.peaks, content=True)]
    if not damaged and info and stated.get(table, sealed(folder.peaks)) != sealed(folder.peaks):
        damaged = [f"{table} is not the one that the run wrote"]
    if not damaged:
        try:
            peaks = open_peaks(folder.path).load()
        except (InputError, *UNREADABLE) as error:
            damaged = [str(error)]
    if info and peaks is not None and peaks.sizes["peak"] != info["counts"]["peaks"]:
        damaged.append(f"{table} has {peaks.sizes['peak']} peaks, the run found {info['counts']['peaks']}")
    found.add(table, damaged, "every chunk fits", "" if sealed(folder.peaks) else "not guarded by checksums")
    if folder.tracks.exists():
        damaged = [f"{folder.tracks.name}/{damage}" for damage in damage_of_tracks(folder.tracks)]
        found.add(folder.tracks.name, damaged, "every chunk fits")
    if not info:
        found.add("frames", [], "", "what the run was made from is not known without run.json")
        return found
    store = Path(info["dataset"]["path"])
    if (store / "zarr.json").exists() or (store / "frames").is_dir():
        found.checks.extend(_verify_store(store).checks)
    else:
        found.add("frames", [], "", f"{store} is no frames store, or no longer there")
    found.add("frames again", *_again(folder, info, peaks, n_frames, seed))
    return found


def _parts(folder: RunFolder, info: dict[str, Any]) -> tuple[list[str], str, str]:
    files = part_files(folder)
    looked = {path.name: look_at_part(path) for path in files}
    damaged = [f"parts/{name} is damaged" for name, part in looked.items() if part is None]
    runs = {part[0] for part in looked.values() if part is not None}
    if info:
        damaged += [f"parts hold {run[:8]}, another run's" for run in runs if run != info["run"]]
        done = info["parts"]["done"] if info["status"] != "running" else 0
        expected = [folder.part(*span) for span in info["plan"]]
        missing = [f"parts/{path.name} is missing" for path in expected if not path.exists()]
        damaged += missing if done == len(expected) else missing[: max(0, done - len(files))]
    return damaged, f"{len(files)} files", ""


def _again(
    folder: RunFolder, info: dict[str, Any], peaks: xr.Dataset | None, n_frames: int, seed: int
) -> tuple[list[str], str, str]:
    """Frames drawn at random, searched again: which differ, what was compared, and why nothing was."""
    if n_frames == 0:
        return [], "", "none asked for"
    if peaks is None:
        return [], "", "there is no table to compare with"
    if info["identity"]["code"] != code_version():
        return [], "", "the run was made by another version of braggflow, whose numbers may differ"
    if any(name.endswith("_on_gpu") for name in info.get("notes", {})):
        return [], "", "the run was made on a GPU, whose numbers differ in the last bits"
    try:
        series = open_run_frames(folder)
    except InputError as error:
        return [], "", str(error)
    there = [at for at, number in enumerate(series.numbers) if not int(peaks["frame_failed"].sel(frame=number))]
    chosen = sorted(np.random.default_rng(seed).permutation(there)[:n_frames].tolist())
    different = [text for at in chosen if (text := _differs(series, at, peaks))]
    return (
        different,
        f"{len(chosen)} frames searched again, every column equal bit for bit",
        "" if chosen else "no frame",
    )


def _differs(series: OpenedSeries, at: int, peaks: xr.Dataset) -> str:
    number, config = series.numbers[at], on_cpu(series.config)
    found = search_chunk(series, at, at + 1)
    if found.failures:
        return f"frame {number}: {found.failures[0]['reason']}"
    table = peak_table.sort(complete_peaks(config, [found], locate_peaks(config, [found]))[0])
    rows = peaks.sel(peak_frame=number)
    if rows.sizes["peak"] != len(table):
        return f"frame {number} has {len(table)} peaks now, {rows.sizes['peak']} in the table"
    start = int(rows["peak"].values[0]) if len(table) else 0
    table["parent"][table["parent"] >= 0] += start
    wrong = [name for name in peak_table.VARIABLES if table[name].tobytes() != rows[name].values.tobytes()]
    return f"frame {number}: {', '.join(wrong[:_NAMED])} differ from the table" if wrong else ""


def _verify_store(path: Path) -> Verified:
    found = Verified(path, "frames store")
    damaged = [*damage_of_frames_store(path)]
    guarded = bool(sealed(path))
    found.add("store", damaged, "description and images fit", "" if guarded else "not guarded by checksums")
    if damaged:
        found.add("frames", [], "", "not read from a store that is damaged")
        return found
    try:
        data = open_frames(path)
    except InputError as error:
        found.add("frames", [str(error)], "")
        return found
    unreadable, hashes = _frame_hashes(data)
    fine = f"{data.sizes['frame']} frames read" + (", every chunk fits" if guarded else "")
    found.add("frames", unreadable, fine)
    sources = data.attrs.get("sources")
    if data.attrs.get("format") == FRAMES_FORMAT and isinstance(sources, list) and sources and not unreadable:
        found.checks.extend(_of_sources(sources, Path(str(data.attrs.get("source_folder", ""))), hashes))
    return found


def _frame_hashes(data: xr.Dataset) -> tuple[list[str], list[bytes]]:
    """What of the frames cannot be read, and the SHA-256 of each."""
    n, encoding = data.sizes["frame"], data["frames"].encoding
    step = int((encoding.get("shards") or encoding["chunks"])[0])
    unreadable, hashes = [], list[bytes]()
    for first in range(0, n, step):
        try:
            block = read_raw(data, np.arange(first, min(first + step, n)))
        except UNREADABLE as error:
            unreadable.append(str(error))
        else:
            hashes += [sha256(np.ascontiguousarray(frame).data).digest() for frame in block]
    return unreadable, hashes


def _of_sources(sources: Sequence[Any], folder: Path, hashes: Sequence[bytes]) -> Iterator[Check]:
    """The frames against the checksums that were taken when they were ingested, and the files that they came from."""
    wrong, changed, gone, compared, start = list[str](), list[str](), 0, 0, 0
    for source in sources:
        own, start = hashes[start : start + source["frames"]], start + source["frames"]
        if sha256(b"".join(own)).hexdigest() != source["sha256"]:
            wrong.append(f"frames of {source['name']} are not those that were ingested")
        name = os.path.normpath(folder / source["name"])
        stack = _stack(name)
        if stack is None:
            gone += 1
        elif _source_hash(stack) != source["sha256"]:
            changed.append(f"source {name} holds other frames than were ingested")
        else:
            compared += 1
    verified = Verified(folder, "")
    verified.add("ingest", wrong, f"the frames are those of {len(sources)} sources as they were ingested")
    fine = f"{compared} of {len(sources)} sources are there and hold the same frames"
    verified.add("sources", changed, fine, "" if compared else "no longer there, or not to be read")
    yield from verified.checks


def _stack(name: str) -> Stack | None:
    """The stack of that name; None where its file is no longer there."""
    try:
        stacks = stacks_of(name)
    except (InputError, *UNREADABLE):
        return None
    return next((stack for stack in stacks if stack.name == name), stacks[0] if len(stacks) == 1 else None)


def _source_hash(stack: Stack) -> str:
    """The checksum that ingest takes of a source."""
    content = sha256()
    missing = {at for first, stop, _ in stack.missing for at in range(first, stop)}
    try:
        for at in range(stack.frames):
            written = at not in missing
            frame = read_frames(stack, at, at + 1) if written else np.zeros((1, *stack.shape), stack.dtype)
            content.update(sha256(np.ascontiguousarray(frame).data).digest())
    except (InputError, *UNREADABLE):
        return ""
    return content.hexdigest()
