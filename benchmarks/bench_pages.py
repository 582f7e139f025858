"""How large a report is, and how long the page on many data sets takes: `python benchmarks/bench_pages.py [RUNS]`.

The demo's series (480 frames of 512 × 512) is run once; of its report is said what its zoomed frames take of it. The
page on many data sets is made of copies of that run (200 by default), and its time is compared with that of reading how
they stand.
"""

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import braggflow
from braggflow.results import data_set_statuses
from braggflow.show import write_batch_report, write_report
from braggflow.simulate import simulate_series


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_series(folder / "demo.zarr")
        settings = {"output": {"report": False}, "compute": {"workers": 2}}
        braggflow.run(settings, [folder / "demo.zarr"], out=folder / "one")
        report = write_report(folder / "one" / "demo").read_text("utf-8")
        zoomed = sum(map(len, re.findall(r'<svg width="\d+" viewBox.*?</svg>', report, re.DOTALL)))
        print(f"report: {len(report.encode()) / 1e6:.2f} MB, of which its zoomed frames {zoomed / len(report):.0%}")
        many = folder / "many"
        for number in range(runs):
            shutil.copytree(
                folder / "one" / "demo", many / f"scan_{number:03d}", ignore=shutil.ignore_patterns("parts")
            )
        start = time.perf_counter()
        data_set_statuses(many)
        status = time.perf_counter() - start
        start = time.perf_counter()
        page = write_batch_report(many)
        seconds = time.perf_counter() - start
        size = page.stat().st_size / 1e6
        print(
            f"page on {runs} runs: {seconds:.1f} s ({seconds / status:.0f} times reading their status), {size:.2f} MB"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
