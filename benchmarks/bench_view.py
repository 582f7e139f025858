"""How long a visitor of `braggflow view` waits: from the shell to the first picture, from a control to what it paints.

In a real headless Chromium with software rendering. Medians of each control's changes, in milliseconds until the frame
that shows what came; the memory of the server and of the page, after few frames and after many.

    python benchmarks/bench_view.py [frames to page through, 100]      (needs chromium and playwright)
"""

import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
from data import frames_store

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.view.browser import Browser, browser, served

from braggflow.frames import create_store, finish_store

REPEATS = 9
CASES = ((2048, 500, 48), (4096, 100_000, 3))
#: Controls whose changes are timed: name, property, what they are changed to in turn, and the source that answers.
CONTROLS = (
    ("frame", "value", (1, 2), "picture"),
    ("frame", "value", (0, 1), "peak_marks"),
    ("scale", "value", ("log", "auto"), "picture"),
    ("colours", "value", ("viridis", "white to black"), "picture"),
    ("limits", "value", ((0, 80), (0, 100)), "picture"),
    ("colour_by", "value", ("snr", "flags"), "peak_marks"),
    ("false_peaks", "value", (-1.5, -1.0), "peak_marks"),
    ("minval", "value", (40, 20), "peak_marks"),
    ("background", "value", ("none", "local"), "peak_marks"),
)


def crowded(folder: Path, size: int, peaks: int, n_frames: int) -> Path:
    """A store of frames with a spot in every so many pixels."""
    path, rng = folder / f"crowded_{size}.zarr", np.random.default_rng(0)
    store = create_store(path, n_frames=n_frames, shape=(size, size), dtype=np.dtype(np.uint16), coords={}, images={})
    step = size / np.sqrt(peaks)
    places = np.rint((np.arange(int(np.sqrt(peaks))) + 0.5) * step).astype(int)
    rows, columns = (grid.ravel() for grid in np.meshgrid(places, places, indexing="ij"))
    for number in range(n_frames):
        image = np.full((size, size), 4.0)
        heights = rng.uniform(40, 400, len(rows))
        for y in range(-2, 3):
            for x in range(-2, 3):
                at = np.clip(rows + y, 0, size - 1), np.clip(columns + x, 0, size - 1)
                image[at] += heights * np.exp(-(y**2 + x**2) / 2)
        store[number] = rng.poisson(image).astype(np.uint16)
    finish_store(path)
    return path


def timed(tab: Browser) -> dict[str, float]:
    """Median milliseconds of each control."""
    found = {}
    for name, key, values, watched in CONTROLS:
        waits = []
        for at in range(REPEATS):
            waits.append(tab.painted(name, values[at % 2], watched=watched, key=key))
            tab.wait_for_text("counted", r"^[\d,]+ peak(?!.*located)")
            tab.settle()
        found[name if name not in found else f"{name}, its peaks"] = statistics.median(waits)
    return found


def megabytes(process: psutil.Process) -> float:
    """What a process holds for itself alone."""
    return float(process.memory_full_info().uss) / 1e6


def of_the_page(server: psutil.Process) -> float:
    """What the browser's process of the page holds, the largest of those that were started here beside the server."""
    return max(megabytes(child) for child in psutil.Process().children(recursive=True) if child != server)


def main(paged: int = 100) -> None:
    with tempfile.TemporaryDirectory() as made:
        for size, peaks, n_frames in CASES:
            few = peaks < 10_000
            path = (
                frames_store(size=size, peaks=peaks, n_frames=n_frames)
                if few
                else crowded(Path(made), size, peaks, n_frames)
            )
            with browser() as tab, served(path.resolve(), "--frame", 0, folder=Path(made)) as page:
                tab.open(page.url)
                first = perf_counter() - page.started
                tab.settle()
                print(f"{size}², {tab.count:,} peaks: first picture {first:.2f} s from the shell")
                for name, wait in timed(tab).items():
                    print(f"  {name}: {wait:.0f} ms")
                if few:
                    server = psutil.Process(page.process.pid)
                    for n in (5, paged // 2, paged - paged // 2):
                        for at in range(n):
                            tab.painted("frame", 2 + at % (n_frames - 2), watched="picture")
                            tab.settle()
                        tab.set("frame", 0)
                        print(f"  after {n} more frames: the server holds {megabytes(server):.0f} MB, ", end="")
                        print(f"the page {of_the_page(server):.0f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
