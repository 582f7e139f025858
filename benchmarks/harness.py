"""Runs benchmarks and keeps what they measured in docs/benchmarks.json and, as tables, in docs/benchmarks.md.

A benchmark is a module `bench_NAME` with a function `measure`, which returns rows as {column: value}, or several tables
of them as {title: rows}. A table replaces what stands between `<!-- NAME: title -->` and `<!-- end -->` in
docs/benchmarks.md.

    python benchmarks/harness.py [NAME ...]
"""

import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("detect", "fit", "locate", "codecs", "readers", "flow", "startup", "hdf5")
PACKAGES = ("braggflow", "numpy", "numba", "numcodecs", "scipy", "torch", "zarr", "xarray", "dask")

Row = Mapping[str, Any]


def machine() -> dict[str, str]:
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    return {
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


def cell(value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    lines = [[name.replace("_", " ") for name in columns], ["---"] * len(columns)]
    lines += [[cell(row[name]) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def keep(name: str, tables: Mapping[str, Sequence[Row]]) -> None:
    figures = DOCS / "benchmarks.json"
    known = json.loads(figures.read_text()) if figures.exists() else {}
    known[name] = {"machine": machine(), "tables": tables}
    figures.write_text(json.dumps(known, indent=1) + "\n")
    page = DOCS / "benchmarks.md"
    text = page.read_text()
    for title, rows in tables.items():
        start = f"<!-- {name}: {title} -->"
        before, found, rest = text.partition(start)
        if not found:
            print(f"{page.name} has no place for {start}")
            continue
        text = f"{before}{start}\n{markdown(rows)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    page.write_text(text)


def main(names: Sequence[str]) -> None:
    for name in names or NAMES:
        measured = importlib.import_module(f"bench_{name}").measure()
        tables = measured if isinstance(measured, dict) else {"all": measured}
        for title, rows in tables.items():
            print(f"\n{name}: {title}\n{markdown(rows)}", flush=True)
        keep(name, tables)


if __name__ == "__main__":
    main(sys.argv[1:])
