"""The run folder `OUT/DATASET/`: where its files are, its lock, its settings and its record of what happened."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from braggflow.config import RunConfig, digest, resolve_config
from braggflow.errors import InputError
from braggflow.files import write_atomic
from braggflow.former import from_former
from braggflow.frames import sealed
from braggflow.yaml_text import read_yaml

#: Keys of `run.json`: its own digest, and those of the files beside it.
DIGEST, FILES = "digest", "files"
_ANEW = "the run's command, given again, writes it anew from the parts"
#: Who looks whether a run goes on holds its lock for an instant.
_LOCK_SECONDS = 0.5


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
    def tracks(self) -> Path:
        """The table of tracks, and what it adds to the peaks."""
        return self.path / "tracks.zarr"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def live_page(self) -> Path:
        """The page of a run that follows a series while that is written."""
        return self.path / "live.html"

    @property
    def stamps(self) -> Path:
        """What was seen of the frames of such a run when they arrived: a line a group."""
        return self.path / "stamps.jsonl"

    def part(self, first: int, stop: int) -> Path:
        """The file of the part of positions [first, stop)."""
        return self.parts / f"part-{first:08d}-{stop:08d}.npz"


@contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
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


def read_run_info(folder: RunFolder) -> dict[str, Any]:
    """The content of `run.json`; raises `InputError` where there is no run."""
    try:
        info = json.loads(folder.info.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder.path}: holds no run (no {folder.info.name})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder.info}: cannot be read ({error}); {_ANEW}") from error
    if not isinstance(info, dict) or "identity" not in info:
        raise InputError(f"{folder.info}: is not a braggflow run")
    # A run of an older version has no digest.
    if info.get(DIGEST, "") != digest_of_info(info) and (DIGEST in info or FILES in info):
        raise InputError(f"{folder.info}: was changed or damaged since it was written; {_ANEW}")
    return info


def write_run_info(folder: RunFolder, info: Mapping[str, Any]) -> None:
    """Replace `run.json`, with digests of the settings, the report and the table that are there, and of itself."""
    write_atomic(folder.info, json.dumps(with_digest({**info, FILES: file_digests(folder)}), indent=1).encode())


def with_digest(info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json` with its digest."""
    return {**info, DIGEST: digest_of_info(info)}


def digest_of_info(info: Mapping[str, Any]) -> str:
    """Of the content of `run.json`, whatever the order of its keys."""
    # As it is read again: pairs are lists there, and numbers texts where they are keys.
    return digest(json.loads(json.dumps({key: value for key, value in info.items() if key != DIGEST})))


def file_digests(folder: RunFolder) -> dict[str, str]:
    """Digests of what a run folder holds beside its parts: settings, report, and the checksums of the table."""
    found = {
        path.name: sha256(path.read_bytes()).hexdigest() for path in (folder.settings, folder.report) if path.is_file()
    }
    table = sealed(folder.peaks)
    return found | ({folder.peaks.name: table} if table else {})


def read_run_config(folder: RunFolder) -> RunConfig:
    """The configuration that the run was made with: its settings, with the detector's constants that it found."""
    stated = read_run_info(folder).get(FILES, {}).get(folder.settings.name)
    if stated is not None and folder.settings.is_file() and file_digests(folder)[folder.settings.name] != stated:
        raise InputError(
            f"{folder.settings}: was changed or damaged since the run; the run's command, given again, writes it anew"
        )
    settings = read_yaml(folder.settings, "settings")
    config = resolve_config(
        from_former(settings) if isinstance(settings, dict) else settings, source=str(folder.settings)
    )
    # A run of an older version has no record of them.
    found = read_run_info(folder).get("detector", {})
    numbers = {key: found[key] for key in ("counts_per_photon", "read_noise") if key in found}
    return config.model_copy(update={"frames": config.frames.model_copy(update=numbers)})


def begin_run(folder: RunFolder, config: RunConfig, info: Mapping[str, Any]) -> None:
    """Start a run in an empty or emptied folder.

    `run.json` comes first: a folder that holds it is a run, whatever a crash kept from being made after it.
    """
    write_run_info(folder, info)
    for old in (folder.parts, folder.peaks, folder.tracks):
        shutil.rmtree(old, ignore_errors=True)
    folder.report.unlink(missing_ok=True)
    resume_run(folder, config, info)


def resume_run(folder: RunFolder, config: RunConfig, info: Mapping[str, Any]) -> None:
    """Go on with a run of the same identity; what killed processes left half-written is removed."""
    folder.parts.mkdir(exist_ok=True)
    remove_unfinished(folder)
    write_atomic(folder.settings, config.to_yaml().encode())
    write_run_info(folder, info)


def remove_unfinished(folder: RunFolder) -> None:
    """Remove what killed processes left half-written; the run's lock is held."""
    for left in (*folder.path.glob(".*.wip.*"), *folder.path.glob("*.wip.*"), *folder.parts.glob(".*.wip.*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
