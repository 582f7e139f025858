"""What a worker needs of memory, known before anything runs; tests/pipeline/test_memory.py measures it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from braggflow.errors import InputError
from braggflow.frames import OpenedSeries
from braggflow.pipeline.groups import Group

#: A worker process with all modules imported, and what torch adds.
PROCESS_BYTES, NETWORK_BYTES = 380e6, 200e6
#: Chunks that a thread holds: a decoded one, and at worst as much again of its file and of the next one's.
CHUNKS = 3
#: Per pixel of a frame: for the search, 150 bytes a pixel above `minval`, which a tenth of them are; and where counts
#: are corrected or a background is subtracted.
SEARCH_BYTES, CORRECTION_BYTES = 15, 13
#: Per pixel where rings are subtracted: their cells, which are made once, and what a search holds beside.
CIRCLES_BYTES, RADIAL_BYTES = 60, 20
#: Per peak: its patch, with the copies of joining and fitting, and its row. A frame has one in this many pixels.
PEAK_BYTES, PIXELS_PER_PEAK = 3000, 2000


class MemoryNeed(NamedTuple):
    """Bytes that a worker process needs for a data set: once, and for each of its threads."""

    process: float
    thread: float


def memory_need(opened: OpenedSeries, groups: Sequence[Group]) -> MemoryNeed:
    """The need of a series whose tasks are `groups`.

    process = 380 MB (and 200 MB with a network) + pixels x (1 + 4 for each of dark, flat and background frame, and
    60 with a radial background);
    thread = 3 chunks + pixels x (15, 13 more where counts are corrected, and 33 with a radial background) + 1.5 x
    pixels x frames of a group.
    A frame with more than a tenth of its pixels above `minval`, or more peaks than one in 2,000 pixels, needs more.
    """
    array, correction = opened.data["frames"], opened.correction
    pixels = array.shape[1] * array.shape[2]
    images = [image for image in (correction.dark, correction.flat, opened.background_frame) if image is not None]
    radial = opened.config.detect.background == "radial"
    corrected = radial or bool(images) or correction.bin > 1 or array.dtype.kind == "f"
    chunk = int(np.prod(array.encoding["chunks"])) * array.dtype.itemsize
    frames_at_once = max(group.stop - group.first for group in groups)
    network = opened.config.locate.asks_network
    return MemoryNeed(
        PROCESS_BYTES + NETWORK_BYTES * network + pixels * (1 + 4 * len(images) + CIRCLES_BYTES * radial),
        CHUNKS * chunk
        + pixels * (SEARCH_BYTES + CORRECTION_BYTES * corrected + RADIAL_BYTES * radial)
        + frames_at_once * pixels / PIXELS_PER_PEAK * PEAK_BYTES,
    )


def check_memory(path: str, need: MemoryNeed, limit: int, threads: int) -> None:
    """Raise `InputError` where a worker with this limit (bytes; 0: none) and so many threads cannot hold its need."""
    wanted = need.process + threads * need.thread
    if limit and wanted > limit:
        of_threads = f" for {threads} threads" if threads > 1 else ""
        raise InputError(
            f"{path}: a worker needs {_mebibytes(wanted)}{of_threads}, its limit is {_mebibytes(limit)}; "
            "raise compute.memory_limit or lower compute.workers (with --cluster: memory, or cores and processes, of "
            "the profile), or store fewer frames in a chunk"
        )


def _mebibytes(n: float) -> str:
    return f"{n / 2**20:,.0f} MiB"
