"""Frames stores and finished run folders of which bits are turned and files cut off or removed: nothing passes unseen.

Each case is a damaged copy. It is opened, run and verified, and must be named as damaged, or do no harm: the table that
a user comes to is then, bit for bit, that of the undamaged one.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import braggflow
from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.evaluate import verify
from braggflow.simulate import simulate_series

SETTINGS = {"output": {"report": False}, "locate": {"network": "none"}, "fit": {"deblend": False}}
#: Files that are no content of a run.
_NO_CONTENT = (".lock",)


@dataclass(frozen=True)
class Whole:
    """An undamaged store, its run, and its table."""

    store: Path
    run: Path
    table: xr.Dataset


def make_whole(folder: Path) -> Whole:
    """A small series, run once."""
    store = folder / "scan.zarr"
    simulate_series(store, n_frames=3, shape=(64, 64), peaks=3)
    (outcome,) = braggflow.run({**SETTINGS, "output": {"report": True}}, [store], out=folder / "runs")
    assert outcome.status == "complete", outcome.message
    return Whole(store, outcome.folder, braggflow.open_peaks(outcome.folder).load())


def damaged(folder: Path, rng: np.random.Generator) -> str:
    """Damage a file of a folder, any of them; says what was done to which."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in _NO_CONTENT)
    file = files[int(rng.integers(len(files)))]
    content = bytearray(file.read_bytes())
    how = str(rng.choice(["turned", "turned", "turned", "cut off", "removed"]))
    if how == "removed" or not content:
        file.unlink()
    elif how == "cut off":
        file.write_bytes(content[: int(rng.integers(len(content)))])
    else:
        at, bit = int(rng.integers(len(content))), int(rng.integers(8))
        content[at] ^= 1 << bit
        file.write_bytes(content)
        how = f"bit {bit} of byte {at} turned"
    return f"{file.relative_to(folder)}: {how}"


def trial(whole: Whole, target: str, case: int, folder: Path) -> tuple[str, str]:
    """What became of a damaged store or run: (detected, mended, harmless, or a finding), and of what damage."""
    rng = np.random.default_rng([case, target == "run"])
    store, runs = folder / "scan.zarr", folder / "runs"
    if target == "store":
        shutil.copytree(whole.store, store)
        what = damaged(store, rng)
        return _outcome(whole, lambda: _seen_in_store(whole, store, runs), what), what
    shutil.copytree(whole.run, runs / "scan")
    what = damaged(runs / "scan", rng)
    return _outcome(whole, lambda: _seen_in_run(whole, runs), what), what


def _outcome(whole: Whole, seen: Callable[[], Iterator[tuple[str, str]]], what: str) -> str:
    """The worst of what was seen: each step says (how, text)."""
    name = what.split(":")[0].rpartition("/")[0] or what.split(":")[0]
    try:
        steps = list(seen())
    except Exception as error:  # noqa: BLE001 - that is the finding
        return f"TRACEBACK {type(error).__name__}: {error}"
    for how, text in steps:
        if how == "detected" and name.split("/")[0] not in text:
            return f"UNNAMED {text}"
        if how == "silent":
            return f"SILENT {text}"
    return next((how for wanted in ("detected", "mended") for how, _ in steps if how == wanted), "harmless")


def _seen_in_store(whole: Whole, store: Path, runs: Path) -> Iterator[tuple[str, str]]:
    (verified,) = verify(store)
    found = "; ".join(check.said for check in verified.checks if check.state == "damaged")
    if found:
        yield "detected", found
    try:
        braggflow.open_frames(store)
        (outcome,) = braggflow.run(SETTINGS, [store], out=runs)
    except InputError as error:
        yield "detected", str(error)
        return
    if outcome.status != "complete":
        failures = braggflow.open_run(outcome.folder).info["failures"]
        yield "detected", "; ".join(failure["reason"] for failure in failures)
    elif not same(braggflow.open_peaks(outcome.folder).load(), whole.table):
        yield "silent", "another table, and complete"


def _seen_in_run(whole: Whole, runs: Path) -> Iterator[tuple[str, str]]:
    run = runs / "scan"
    (verified,) = verify(run, frames=0)
    found = "; ".join(check.said for check in verified.checks if check.state == "damaged")
    if found:
        yield "detected", found
    for look in (lambda: braggflow.open_peaks(run).load(), lambda: braggflow.open_run(run).peaks.load()):
        try:
            table = look()
        except InputError as error:
            yield "detected", str(error)
        else:
            if not same(table, whole.table):
                yield "silent", "another table"
    if "report.html" in found:  # which is not asked of this run
        return
    (outcome,) = braggflow.run(SETTINGS, [whole.store], out=runs)
    if found and not outcome.message:
        yield "silent", f"run said nothing of {found}"
    yield "mended", outcome.message
    if not same(braggflow.open_peaks(run).load(), whole.table) or outcome.status != "complete":
        yield "silent", f"another table after the run: {outcome.status}"
    (verified,) = verify(run, frames=0)
    if verified.damaged:
        yield "silent", f"not mended by the run: {[check for check in verified.checks if check.state == 'damaged']}"


def same(table: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether two tables are equal, bit for bit."""
    names = [*peak_table.VARIABLES, "frame", "peak_count", "frame_failed", "voltage", "time", "capacity"]
    return all(
        table[name].dtype == other[name].dtype and table[name].values.tobytes() == other[name].values.tobytes()
        for name in names
    )


def campaign(whole: Whole, target: str, cases: range, folder: Path) -> tuple[Counter[str], list[str]]:
    """Counts of what became of the cases, and those that must not have been."""
    counts, findings = Counter[str](), list[str]()
    for case in cases:
        place = folder / f"{target}{case}"
        place.mkdir()
        how, what = trial(whole, target, case, place)
        shutil.rmtree(place)
        counts[how.split()[0]] += 1
        if how.split()[0].isupper():
            findings.append(f"{target} {case}: {what}: {how}")
    return counts, findings


def main() -> int:
    """0 where nothing passed unseen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="how many of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    options = parser.parse_args()
    findings = []
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        whole = make_whole(Path(folder))
        for target in ("store", "run"):
            counts, found = campaign(whole, target, range(options.first, options.first + options.cases), Path(folder))
            findings += found
            print(f"{target}: {', '.join(f'{n} {how}' for how, n in sorted(counts.items()))}", flush=True)
    print(*findings, f"{len(findings)} findings", sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
