"""`make gpu` without a GPU: its sections run, and say that their figures mean nothing."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parent.parent / "benchmarks" / "gpu"


def test_sections_run_and_their_figures_have_a_place_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = ["machine", "ceilings", "networks, patches from", "fits, patches", "detection"]
    told = subprocess.run(
        [sys.executable, KIT, tmp_path, "--quick", "--only", *sections], check=True, capture_output=True, text=True
    ).stdout
    measured = json.loads((tmp_path / "gpu.json").read_text())
    assert not measured["failed"]
    assert bool(measured["device"]) != ("no CUDA device" in told)
    assert {row["network"] for row in measured["figures"]["networks, patches from memory"]} == {"compact", "braggnn"}
    page = tmp_path / "gpu.md"
    page.write_text("before\n<!-- figures -->\nNone yet.\n<!-- end of figures -->\nafter\n")
    monkeypatch.syspath_prepend(KIT)
    importlib.import_module("page").keep(measured, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- figures -->\n**machine**")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert "None yet." not in text
