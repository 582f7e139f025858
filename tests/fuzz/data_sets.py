"""Odd stores and odd run folders among good ones: each is its own refusal, or made good, and stops no other."""

import json
import logging
import os
import random
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import braggflow
from braggflow.results import data_set_statuses
from tests.stores import make_store, spots

SETTINGS: dict[str, Any] = {
    "detect": {"minval": 15, "minscore": 10, "background": "none"},
    "locate": {"network": "none"},
    "fit": {"fraction": 0},
    "compute": {"task_seconds": 0.001, "retries": 0},
    "output": {"report": False},
}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**40, 2**70, -(2**63), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\u202e", "\x1b[2J", "é" * 300, "../..", "/etc/passwd", "2024-02-30"),
    *("uint16", "complex128", "U10", "<M8[s]"),
    *([], [0], [-1], [None], ["x"], [[]], [1, 2, 3, 4], [[0, 1, "x"]], [["a", "b", "c"]], [[0, 2**40, "x"]]),
    *({}, {"x": {}}, {"": None}, {"name": None}),
)
#: Attributes that mean something, where there are none of that name.
NAMES = (
    *("format", "format_version", "sources", "simulation", "saturation", "masked_below", "underload", "missing_frames"),
    *("marks", "mask_pixels", "notes", "geometry", "missing_value", "_FillValue", "scale_factor", "add_offset"),
    *("coordinates", "units", "dtype", "calendar", "_ARRAY_DIMENSIONS", "saturation_source", "source_folder"),
)


def change_json(path: Path, draw: random.Random) -> str:
    """One value of a JSON file exchanged, left out or added; where it is none, its bytes are changed."""
    try:
        data = json.loads(path.read_bytes())
        places = list(_places(data))
    except (ValueError, RecursionError):  # so odd already
        places = []
    if not places:
        return change_bytes(path, draw)
    holder, key = draw.choice(places)
    what = draw.random()
    if what < 0.15:
        said = f"{path.name}: {key!r} left out"
        del holder[key]
    elif what < 0.45 and isinstance(holder, dict):
        inner = holder["attributes"] if isinstance(holder.get("attributes"), dict) else holder
        name, value = draw.choice(NAMES), draw.choice(ODD)
        inner[name] = value
        said = f"{path.name}: {name!r} = {value!r:.60}"
    else:
        value = draw.choice(ODD)
        said = f"{path.name}: {key!r} = {value!r:.60} in place of {holder[key]!r:.60}"
        holder[key] = value
    path.write_text(json.dumps(data))
    return said


def _places(data: Any) -> Any:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(inner):
        yield data, key
        yield from _places(value)


def change_bytes(path: Path, draw: random.Random) -> str:
    """A file that is damaged, cut off, removed, or something else."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(("bits", "bits", "cut", "empty", "noise", "removed", "folder", "link", "nested", "halves"))
    if kind == "bits":
        for _ in range(draw.choice((1, 1, 4))):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[draw.randrange(len(content) + 1) :]
    elif kind == "noise":
        content[:] = draw.randbytes(draw.randrange(200))
    elif kind == "nested":
        content[:] = b"[" * 100_000
    elif kind == "halves":
        content[:] = b'{"identity": "\\ud800", "x": "\xff"}'
    if kind in ("removed", "folder", "link"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(path.name)  # to itself
    else:
        path.write_bytes(b"" if kind == "empty" else content)
    return f"{path.name}: {kind}"


def change_folder(path: Path, draw: random.Random) -> str:
    """A folder of a run or store that is a file, gone, or holds more."""
    kind = draw.choice(("file", "gone", "more", "closed"))
    if kind == "more":
        (
            path / draw.choice(("part-x.npz", ".wip", "part-00000000-00000099.npz", "zarr.json.tmp", "\x1bx"))
        ).write_bytes(b"x")
    elif kind == "closed":
        path.chmod(0)
    else:
        shutil.rmtree(path)
        if kind == "file":
            path.write_text("x")
    return f"{path.name}/: {kind}"


def change(folder: Path, draw: random.Random) -> str:
    """What was changed in one file or folder below `folder`; tables are left, whose damage is for others to find."""
    inner = sorted(found for found in folder.rglob("*") if "peaks.zarr" not in found.parts and found.name != ".lock")
    if draw.random() < 0.06 and (folders := [found for found in inner if found.is_dir()]):
        return change_folder(draw.choice(folders), draw)
    files = [found for found in inner if found.is_file()]
    if not files:
        return "nothing"
    described = [found for found in files if found.suffix == ".json"]
    if described and draw.random() < 0.75:
        return change_json(draw.choice(described), draw)
    return change_bytes(draw.choice(files), draw)


class Ground:
    """Two good stores and a third that is made odd, and a finished run of each, in a folder of one's own."""

    def __init__(self, folder: Path) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        self.folder, self.data = folder, folder / "data"
        images = np.stack([spots((48, 48), 3, seed=seed) for seed in range(2)])
        attributes = {"saturation": 60000, "geometry": {"wavelength_angstrom": 0.5}, "sources": [{"name": "x"}]}
        for name in ("a", "odd", "z"):
            mask = np.zeros((48, 48), bool)
            make_store(self.data / f"{name}.zarr", images, mask=mask, attributes=attributes)
        self.whole = folder / "whole"
        braggflow.run(SETTINGS, self._stores(self.data), out=self.whole)
        self.table = braggflow.open_peaks(self.whole / "odd").load()

    @staticmethod
    def _stores(data: Path) -> list[Path]:
        return [data / f"{name}.zarr" for name in ("a", "odd", "z")]

    def trial(self, number: int) -> tuple[str, str]:
        """What became of case `number`: kind and status, or kind and what must not be, with what was done."""
        draw = random.Random(number)
        case = self.folder / f"case{number}"
        data, out = case / "data", case / "out"
        kind = "run folder" if number % 2 else "store"
        done = ""
        try:
            if kind == "store":
                shutil.copytree(self.data, data)
                done = "; ".join(change(data / "odd.zarr", draw) for _ in range(draw.choice((1, 1, 2))))
            else:
                data = self.data
                shutil.copytree(self.whole, out)
                done = "; ".join(change(out / "odd", draw) for _ in range(draw.choice((1, 1, 2))))
                if draw.random() < 0.5 and (out / "odd" / "peaks.zarr").is_dir():
                    shutil.rmtree(out / "odd" / "peaks.zarr")  # so that it is joined from what is there
            return kind, self._became(kind, data, out)
        except BaseException:  # noqa: BLE001 - what it is, is told
            return kind, f"case {number} ({done}): {traceback.format_exc()}"
        finally:
            for found in case.rglob("*"):
                if found.is_dir() and not found.is_symlink():
                    found.chmod(0o700)
            shutil.rmtree(case)

    def _became(self, kind: str, data: Path, out: Path) -> str:
        outcomes = braggflow.run(SETTINGS, self._stores(data), out=out)
        found = {outcome.name: outcome for outcome in outcomes}
        assert found["a"].status == found["z"].status == "complete", outcomes
        odd = found["odd"]
        assert odd.status in ("complete", "partial", "interrupted", "refused"), odd
        assert odd.status == "complete" or odd.message or odd.frames_failed, "no reason is given"
        assert "Traceback" not in odd.message
        data_set_statuses(out)
        if odd.status == "complete" and kind == "run folder":
            try:
                again = braggflow.open_peaks(out / "odd").load()
            except braggflow.InputError:
                return "complete, table refused"
            assert again.equals(self.table), "another table, in silence"
        return odd.status


def campaign(
    cases: range, folder: Path, tell: Callable[[str], None] = lambda _finding: None
) -> tuple[Counter[str], list[str]]:
    """How often stores and run folders came to what, and what must not have been."""
    ground, counts, findings = Ground(folder), Counter[str](), list[str]()
    for number in cases:
        kind, outcome = ground.trial(number)
        if "\n" in outcome:
            findings.append(outcome)
            tell(outcome)
        else:
            counts[f"{kind}: {outcome}"] += 1
    return counts, findings


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        counted, found = campaign(
            range(*map(int, sys.argv[1:3])), Path(place), lambda finding: print(f"{finding}\n", flush=True)
        )
    print(*(f"{n:6d} {what}" for what, n in sorted(counted.items())), f"{len(found):6d} findings", sep="\n")
    os._exit(bool(found))
