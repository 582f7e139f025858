"""The figures as tables in docs/peers.md and as JSON."""

import json
import math
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from braggflow.errors import InputError

from .cases import RADIUS, Quality
from .end_to_end import MIDAS

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_PACKAGES = (
    "braggflow",
    "ImageD11",
    "sep",
    "trackpy",
    "photutils",
    "findpeaks",
    "scipy",
    "torch",
    "numpy",
    "numba",
    "zarr",
    "dask",
)
_TITLES = {
    "end to end": ("End to end, two processes (wall time)", "× braggflow"),
    "in memory": ("Frames in memory, one thread (CPU time)", "× braggflow"),
    "detection": ("Detection alone, one thread (CPU time)", "× braggflow"),
    "patches": ("Positions in patches of 11 × 11 pixels, one thread (CPU time for a peak)", "× braggflow"),
}


@dataclass(frozen=True)
class Row:
    """One program in one case."""

    case: str
    program: str
    seconds: float = math.nan
    """For a frame or, in patches, for a peak."""
    ratio: float = math.nan
    """Of its time to that of the reference."""
    quality: Quality | None = None
    error: float = math.nan
    """Median, where nothing but positions was asked for, pixels."""
    failure: str = ""

    def line(self) -> str:
        """The row for a terminal."""
        what = self.failure or f"{_time(self.seconds)}, {_ratio(self.ratio)} times"
        return f"{self.case}: {self.program}: {what}; {self.quality or ''}"


def write(tables: dict[str, list[Row]], to: Path) -> None:
    """Put the tables between the page's markers and all figures into a JSON file."""
    text = PAGE.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{PAGE}: must hold the lines {BEGIN} and {END} once each")
    about = _about()
    plain = {title: [asdict(row) for row in rows] for title, rows in tables.items()}
    to.write_text(json.dumps(_finite({**about, "radius": RADIUS, **plain}), indent=1, ensure_ascii=False) + "\n")
    parts = [_heading(about)]
    parts += [_table(title, rows) for title, rows in tables.items()]
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _about() -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    found = sorted(MIDAS.parents[1].glob("lib/*/site-packages/midas_peakfit-*.dist-info"))
    versions["midas-peakfit"] = found[0].name.split("-")[1].removesuffix(".dist") if found else "not installed"
    models = [line for line in _processor() if line.startswith("model name")]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": len(models) or None,
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _heading(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured on {about['date']}, {about['cores']} cores of {about['processor']}, Python {about['python']}: "
        f"{versions}."
    )


def _table(title: str, rows: list[Row]) -> str:
    heading, ratio = _TITLES[title]
    full = any(row.quality for row in rows)
    columns = ["program", "time", ratio, *(["recall", "precision"] if full else [])]
    columns += ["median error, px"] if title != "detection" else []
    lines = [f"### {heading}"]
    for case in dict.fromkeys(row.case for row in rows):
        lines += ["", f"{case}:", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in (row for row in rows if row.case == case):
            cells = [row.program, *_cells(row)] if not row.failure else [row.program, f"not measured: {row.failure}"]
            cells = (cells + ["–"] * len(columns))[: len(columns)]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    cells = [_time(row.seconds), _ratio(row.ratio)]
    if row.quality:
        return [*cells, f"{row.quality.recall:.3f}", f"{row.quality.precision:.3f}", f"{row.quality.error:.3f}"]
    return [*cells, f"{row.error:.3f}"]


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def _finite(value: Any) -> Any:
    """Plain data for JSON: what is unknown is None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
