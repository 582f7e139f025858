"""The figures as tables of Markdown, and their place in docs/gpu.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START, END = "<!-- figures -->", "<!-- end of figures -->"


def markdown(measured: Mapping[str, Any]) -> str:
    lines = []
    for name, rows in measured["figures"].items():
        lines += [f"**{name}**", ""]
        if isinstance(rows, Mapping):
            lines += [", ".join(f"{key} {cell(value)}" for key, value in rows.items()), ""]
        elif rows:
            columns = list(dict.fromkeys(column for row in rows for column in row))
            lines.append("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
            lines.append("|" + "---|" * len(columns))
            lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows]
            lines.append("")
        else:
            lines += ["Needs a GPU.", ""]
    for name, reason in measured["failed"].items():
        lines += [f"**{name}**: {reason}", ""]
    return "\n".join(lines)


def cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def keep(measured: Mapping[str, Any], docs: Path) -> None:
    """Put the figures into docs/gpu.md and docs/gpu.json."""
    (docs / "gpu.json").write_text(json.dumps(measured, indent=1) + "\n")
    page = docs / "gpu.md"
    before, _, rest = page.read_text().partition(START)
    page.write_text(f"{before}{START}\n{markdown(measured)}\n{END}{rest.partition(END)[2]}")
