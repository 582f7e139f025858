"""From frames in memory to the table, in one process: detection on CPU cores, network and fits on the GPU."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from measuring import Device

from braggflow.config import RunConfig
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import compile_ahead, complete_peaks, locate_peaks, search_chunk
from braggflow.simulate import PROFILE_DTYPE, expected_patches

PATCH = 21


def frames_of(device: Device) -> np.ndarray:
    return made(256 if device.quick else 2048, 20 if device.quick else 500, 4 if device.quick else 32)


@cache
def made(side: int, peaks: int, number: int) -> np.ndarray:
    """Frames of Poisson counts (number, side, side): a background of 4, peaks of 50 to 2000 photons."""

    def one(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        frame = rng.poisson(4, (side, side)).astype(np.uint16)
        profiles = np.zeros(peaks, PROFILE_DTYPE)
        profiles["height"] = np.exp(rng.uniform(np.log(50), np.log(2000), peaks))
        profiles["sigma_major"], profiles["sigma_minor"] = rng.uniform(1, 1.6, peaks), 1.0
        profiles["y"], profiles["x"] = (PATCH // 2 + rng.uniform(-0.5, 0.5, peaks) for _ in range(2))
        counts = rng.poisson(expected_patches(profiles, PATCH))
        for patch, y, x in zip(counts, *rng.integers(0, side - PATCH, (2, peaks)), strict=True):
            frame[y : y + PATCH, x : x + PATCH] += patch.astype(np.uint16)
        return frame

    with ThreadPoolExecutor() as threads:
        return np.stack(list(threads.map(one, range(number))))


def end_to_end(device: Device) -> list[dict[str, Any]]:
    if not device.quick:
        compile_ahead()
    frames, rows = frames_of(device), []
    where = "cuda" if device.cuda else "cpu"
    cores = len(os.sched_getaffinity(0))
    for name, settings in {
        "network compact and fits on the GPU": {"locate": {"device": where}, "fit": {"device": where}},
        "network braggnn on the GPU, no fits": {
            "locate": {"device": where, "network": "braggnn", "position": "network"},
            "fit": {"fraction": 0.0},
        },
        "fits on the GPU, no network": {"locate": {"network": "none"}, "fit": {"device": where}},
        "fits on the CPU, no network": {"locate": {"network": "none"}},
        "detection and patches only": None,
    }.items():
        opened = open_series(frames_from_array(frames), RunConfig.model_validate(settings or {}))
        # Groups as large as a GPU likes them, each searched by all cores; located while the next one is searched.
        group, number = min(2 * cores, len(frames)), 1 if device.quick else 8

        def located(found: Any, opened: Any = opened, settings: Any = settings) -> int:
            if settings is None:
                return sum(len(chunk.table) for chunk in found)
            return len(complete_peaks(opened.config, found, locate_peaks(opened.config, found))[0])

        def searched(position: int, opened: Any = opened) -> Any:
            return search_chunk(opened, position % len(frames), position % len(frames) + 1)

        located([searched(position) for position in range(group)])
        begin, pending = time.perf_counter(), []
        with ThreadPoolExecutor(cores) as searching, ThreadPoolExecutor(2) as locating:
            for at in range(number):
                found = list(searching.map(searched, range(at * group, (at + 1) * group)))
                pending.append(locating.submit(located, found))
            peaks = sum(future.result() for future in pending)
        seconds = time.perf_counter() - begin
        rows.append(
            {
                "stages": name,
                "frames_per_s": number * group / seconds,
                "peaks_a_frame": peaks / number / group,
                "peaks_per_s": peaks / seconds,
                "cores": cores,
            }
        )
    return rows
