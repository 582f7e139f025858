"""Programs that users would pick instead, on the same frames with the same truth, in one run: `make bench-peers`.

Each program runs on one thread (end to end: two processes) with settings that docs/peers.md gives reasons for; what it
finds is scored as `braggflow score` does. Times in memory are CPU times, medians over rounds in which all programs take
turns; ratios are medians of those of the rounds. A program that is not installed or fails is reported as a line. Writes
the tables into docs/peers.md and all figures to build/bench/peers.json. About three minutes on two cores.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from data import FOLDER
from peers import end_to_end, finders, placers, summary
from peers.cases import Case, all_cases
from peers.summary import Row

from braggflow.detect.findpeaks_engine import persistence_findpeaks
from braggflow.detect.persistence import persistence
from braggflow.patches import select

ROUNDS = 5
#: A slow program goes through fewer frames in a round than the others, through at least one.
SECONDS_A_ROUND = 4.0
#: Rows and columns of the piece of a frame that findpeaks is given: it takes minutes for one of 2048².
PIECE = 512
OURS = next(iter(finders.FINDERS))
#: Read by libraries when they are imported: too late to be set here.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def attempt(rows: list[Row], name: str, case: str, made: Callable[[], Any]) -> Any:
    """What `made` returns; None, and a row with the reason, where it fails."""
    try:
        return made()
    except Exception as error:  # noqa: BLE001 - a peer's failure is a result too
        rows.append(Row(case, name, failure=f"{type(error).__name__}: {error}"))
        print(f"  {name}: {rows[-1].failure}", flush=True)
        return None


def rounds(calls: Mapping[str, Callable[[], int]]) -> dict[str, list[float]]:
    """CPU seconds for one thing of each call, which returns how many it did, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            n = call()
            seconds[name].append((time.process_time() - start) / n)
    return seconds


def compared(seconds: Mapping[str, list[float]], name: str, reference: str) -> tuple[float, float]:
    """Median of a program's seconds, and of its ratio to the reference's in the same round."""
    ratios = [own / other for own, other in zip(seconds[name], seconds[reference], strict=True)]
    return statistics.median(seconds[name]), statistics.median(ratios)


def in_memory(case: Case) -> Iterator[Row]:
    """Detection and positions of all peaks of frames in memory."""
    rows: list[Row] = []
    calls, quality = {}, {}
    for name, make in finders.FINDERS.items():

        def prepare(name: str = name, make: Callable[[Case], finders.Finder] = make) -> Callable[[], int]:
            find, every = make(case), len(case.numbers)
            find(1)  # compiles
            start = time.process_time()
            quality[name] = case.quality(find(every))
            a_frame = (time.process_time() - start) / every
            n = max(1, min(every, int(SECONDS_A_ROUND / a_frame)))

            return lambda: len(find(n))

        call = attempt(rows, name, case.name, prepare)
        if call is not None:
            calls[name] = call
    seconds = rounds(calls)
    for name in calls:
        yield Row(case.name, name, *compared(seconds, name, OURS), quality[name])
    yield from rows


def topology(case: Case) -> Iterator[Row]:
    """Detection alone of a piece of one frame, by findpeaks and by the native engine: the same peaks."""
    rows: list[Row] = []
    name = f"{PIECE} × {PIECE} pixels of {case.name}"
    piece = (slice(PIECE), slice(PIECE)) if case.mask.shape[0] > PIECE else (slice(None), slice(None))
    image, mask, minval = np.ascontiguousarray(case.counts[0][piece]), np.ascontiguousarray(case.mask[piece]), 30.0

    def once() -> tuple[float, int]:
        start = time.process_time()
        found = persistence_findpeaks(image, mask, minval)
        return time.process_time() - start, len(found)

    native = persistence(image, mask, minval)  # compiles
    seconds = []
    for _ in range(200):
        start = time.process_time()
        persistence(image, mask, minval)
        seconds.append(time.process_time() - start)
    own = statistics.median(seconds)
    yield Row(name, f"braggflow, detection ({len(native)} maxima)", own, 1.0)
    attempt(rows, "findpeaks", name, lambda: persistence_findpeaks(image[:32, :32], mask[:32, :32], minval))
    measured = attempt(rows, "findpeaks", name, once) if not rows else None
    if measured is not None:
        took, n = measured
        yield Row(name, f"findpeaks.stats.topology ({n} maxima)", took, took / own)
    yield from rows


def in_patches(case: Case) -> Iterator[Row]:
    """Positions in patches that are cut already."""
    placers.use_one_thread()
    chosen = placers.alone(case)
    rows: list[Row] = []
    calls, quality, references = {}, {}, {}
    few = np.arange(len(chosen.places)) < placers.FEW
    for name, (make, beside) in placers.PLACERS.items():
        given = select(chosen.patches, few) if name.startswith("curve_fit") else chosen.patches

        def prepare(name: str = name, make: Callable = make, given: Any = given) -> Callable[[], int]:
            place, n = make(), len(given.counts)
            positions = place(given) + chosen.corners[:n]
            known = np.isfinite(positions).all(axis=1)
            places = chosen.places[:n][known]
            quality[name] = case.quality([positions[known][places == k] for k in range(len(case.numbers))]).error

            return lambda: len(place(given))

        call = attempt(rows, name, case.name, prepare)
        if call is not None:
            calls[name], references[name] = call, beside or (name,)
    seconds = rounds(calls)
    for name in calls:
        for reference in references[name]:
            program = name if len(references[name]) == 1 else f"{name} (ratio to {reference})"
            yield Row(case.name, program, *compared(seconds, name, reference), error=quality[name])
    yield from rows


def end_to_ends(cases: tuple[Case, ...]) -> Iterator[Row]:
    """From files to files on two processes, wall time."""
    with end_to_end.two_workers() as client:
        for case in cases:
            rows: list[Row] = []
            own = end_to_end.flow(case, client)
            own()  # compiles, fills the file cache
            looks = [own() for _ in range(ROUNDS)]
            seconds = statistics.median(look[0] for look in looks)
            yield Row(case.name, "braggflow run, Gaussian fit of every peak", seconds, 1.0, case.quality(looks[0][1]))
            peer = attempt(rows, "midas-peakfit", case.name, lambda case=case: end_to_end.midas(case)())
            if peer is not None:
                yield Row(case.name, "midas-peakfit", peer[0], peer[0] / seconds, case.quality(peer[1]))
            yield from rows


def main() -> None:
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):
        raise SystemExit(f"{', '.join(ONE_THREAD)} must be 1: run make bench-peers")
    start = time.perf_counter()
    cases = all_cases()
    # midas-peakfit takes seconds a frame.
    some = tuple(replace(case, every=2 * case.every) for case in cases)
    tables: dict[str, list[Row]] = {}
    for title, parts in (
        ("end to end", (lambda: end_to_ends(some),)),
        ("in memory", tuple(lambda case=case: in_memory(case) for case in cases)),
        ("detection", (lambda: topology(cases[1]), lambda: topology(cases[0]))),
        ("patches", (lambda: in_patches(cases[0]),)),
    ):
        tables[title] = []
        for part in parts:
            for row in part():
                tables[title].append(row)
                print(f"{time.perf_counter() - start:5.0f} s  {row.line()}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    summary.write(tables, FOLDER / "peers.json")


if __name__ == "__main__":
    main()
