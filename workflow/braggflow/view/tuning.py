"""Settings that are tried: what they change in the shown frame and over the series, and how they become a file."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from braggflow.config import RESULT_SECTIONS, RunConfig
from braggflow.errors import InputError, not_written
from braggflow.files import write_atomic
from braggflow.view.viewed import Viewed

#: Frames, spread evenly over the series, that settings are tried on.
SAMPLE = 20
#: Seconds without another change after which the series is looked at: what a visitor waits for has the machine alone.
_MOMENT = 0.6


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Peaks of frames spread over the series, by some settings."""

    peaks: Mapping[int, int]
    """By frame number; frames that failed are left out."""
    failed: Mapping[int, str]

    def words(self) -> str:
        """A sentence."""
        if not self.peaks:
            return f"none of {len(self.failed)} sampled frames could be searched"
        counts = np.array(list(self.peaks.values()))
        told = (
            f"{int(counts.sum()):,} peaks in {len(counts)} frames of the series: "
            f"median {np.median(counts):,.0f}, {counts.min():,} to {counts.max():,}"
        )
        return told + (f"; {len(self.failed)} failed" if self.failed else "")


def sample_positions(viewed: Viewed) -> list[int]:
    """Positions of up to `SAMPLE` frames spread evenly over the series; those never written are left out."""
    there = [position for position in range(len(viewed.numbers)) if position not in viewed.opened.missing]
    if not there:
        return []
    at = np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).round().astype(int))
    return [there[i] for i in at]


def count_sample(viewed: Viewed, goes_on: Callable[[], bool] = lambda: True) -> SampleCounts | None:
    """Search the sampled frames by the settings of `viewed`; None where `goes_on` said no in between.

    It begins a moment later, so that what a visitor waits for is there first.
    """
    time.sleep(_MOMENT)
    peaks, failed = {}, {}
    for position in sample_positions(viewed):
        if not goes_on():
            return None
        number = viewed.numbers[position]
        try:
            peaks[number] = len(viewed.search(position)["y"])
        except InputError as error:
            failed[number] = str(error)
    return SampleCounts(peaks, failed)


def changes(config: RunConfig) -> dict[str, dict[str, Any]]:
    """What of a configuration decides the result and differs from the defaults, by section."""
    defaults = RunConfig().model_dump(mode="json")
    found = {}
    for section, keys in config.model_dump(mode="json", include=set(RESULT_SECTIONS)).items():
        differing = {key: value for key, value in keys.items() if value != defaults[section][key]}
        if differing:
            found[section] = differing
    return found


def save_changes(config: RunConfig, name: str, folder: Path, *, source: str) -> Path:
    """Write the settings that differ from the defaults as a configuration, `NAME.yaml` in a folder.

    Raises `InputError` where the name is no plain name, the file is there, or it cannot be written.
    """
    path = plain_path(name, folder, ".yaml")
    told = "".join(character if character.isprintable() else "?" for character in source)
    content = yaml.safe_dump(changes(config), sort_keys=False, allow_unicode=True) if changes(config) else ""
    text = f"# What differs from the defaults, as tuned on {told}\n{content}"
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise not_written(path, error) from error
    return path


def plain_path(name: str, folder: Path, suffix: str) -> Path:
    """A new file in a folder; raises `InputError` for names that lead elsewhere, and for a file that is there."""
    stem = name.strip().removesuffix(suffix)
    if not stem or any(not (c.isalnum() or c in "-_. ") for c in stem) or stem.startswith("."):
        raise InputError(f"name: {name!r} is not accepted; letters, digits, - and _, without a folder")
    path = folder / f"{stem}{suffix}"
    if path.exists():
        raise InputError(f"{path}: is there already; choose another name")
    return path
