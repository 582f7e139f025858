"""What a GPU does here: patches/s of networks and fits, frames/s end to end, and the share of what the chip can do.

Each section is measured for itself; one that fails is said with its error, and the others go on. Figures are medians of
rounds over several sets of patches in turn, together larger than the GPU's cache. Without a GPU the sections run with
few patches on the CPU, to see that they run at all, and no figure of theirs means anything.

Writes FOLDER/gpu.json and FOLDER/gpu.md, and prints the tables last. Exit status 1 where a section failed.

    python benchmarks/gpu [FOLDER] [--quick] [--only SECTION ...] [--keep]
    python benchmarks/gpu --page FILE.json          # puts figures measured elsewhere into docs/gpu.md
"""

import argparse
import importlib
import json
import math
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from measuring import Device
from page import keep, markdown

DOCS = Path(__file__).parent.parent.parent / "docs"
#: Module and function of each section, in the order in which they run: what needs the CPU's kernels comes late, while
#: these are compiled.
SECTIONS = {
    "machine": "machine.described",
    "ceilings": "machine.ceilings",
    "networks, patches on the device": "networks.on_device",
    "fits, patches on the device": "fits.on_device",
    "networks, patches from memory": "networks.from_memory",
    "fits, patches from memory": "fits.from_memory",
    "accuracy of fits": "fits.accuracy",
    "solver of the GPU, compiled for the CPU": "fits.solver_on_cpu",
    "detection on the device": "detection.estimate",
    "frames, end to end": "frames.end_to_end",
    "tests": "machine.tests",
    "compiled networks": "networks.compiled",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/gpu"))
    parser.add_argument("--quick", action="store_true", help="few patches, once: do all sections run?")
    parser.add_argument("--only", nargs="+", default=[], help="sections whose names begin so")
    parser.add_argument("--keep", action="store_true", help="figures of a GPU into docs/gpu.md and docs/gpu.json")
    parser.add_argument("--page", type=Path, help="put this file's figures into the page, measure nothing")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after that nothing more is begun")
    given = parser.parse_args()
    if given.page:
        keep(json.loads(given.page.read_text()), DOCS)
        return 0
    begun = time.perf_counter()
    device = Device(quick=given.quick, until=begun + given.seconds)
    print(f"{device.name or 'no CUDA device: shapes and fallbacks only, no figure means anything'}", flush=True)
    if not device.quick:
        from braggflow.pipeline import compile_ahead

        threading.Thread(target=compile_ahead, daemon=True).start()
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name, place in SECTIONS.items():
        if given.only and not name.startswith(tuple(given.only)):
            continue
        start = time.perf_counter()
        if device.is_late():
            failed[name] = "left out: no time left"
            continue
        try:
            module, function = place.split(".")
            figures[name] = getattr(importlib.import_module(module), function)(device)
        except Exception as error:  # noqa: BLE001 - the other sections are none the worse
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
        seconds[name] = time.perf_counter() - start
        print(f"{seconds[name]:6.1f} s  {name}", flush=True)
        device.forget()
    text = json.dumps(
        {"device": device.name, "figures": figures, "failed": failed, "seconds": seconds}, indent=1, default=float
    )
    measured = json.loads(text)
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "gpu.json").write_text(text + "\n")
    (given.folder / "gpu.md").write_text(markdown(measured))
    if given.keep and device.name:
        keep(measured, DOCS)
    print(markdown(measured), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
