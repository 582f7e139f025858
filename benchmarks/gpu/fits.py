"""Fits on the device: how fast, how exactly, how near to the limit."""

import time
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from measuring import Device, share

from braggflow.config import FitConfig
from braggflow.fit import fit_patches
from braggflow.fit.alone import N_DOUBLES, N_SINGLES, N_SUMS, N_VALUES, fit_alone
from braggflow.pipeline import compile_ahead
from braggflow.simulate import CLASSES, limit_of_patches, simulate_patches

MODELS = ("gaussian", "pseudo_voigt")
SIZE = 11
THREADS = (64, 128, 256)


def configured(model: str, device: Device) -> FitConfig:
    return FitConfig(model=model, device="cuda" if device.cuda else "cpu")


def on_device(device: Device) -> list[dict[str, Any]]:
    """Fits/s of the kernel alone."""
    if not device.cuda:
        return []
    from braggflow.fit import gpu

    drawn, rows = device.drawn(), []
    sets = device.there(drawn.counts, drawn.state)
    values = torch.empty((device.patches, N_VALUES), dtype=torch.float64, device=device.torch)
    done = torch.empty(device.patches, dtype=torch.uint8, device=device.torch)
    pixels = gpu.pixels_of(SIZE)
    for model in MODELS:
        begin = time.perf_counter()
        kernel = gpu.kernel_for(SIZE, model == "pseudo_voigt")
        for threads in THREADS:

            def call(patches: Any, kernel: Any = kernel, threads: int = threads) -> None:
                launch = kernel[-(-device.patches // threads), threads]  # torch's stream, the default one
                launch(*(gpu.cuda.as_cuda_array(a) for a in patches), True, 50, 1.0, 0.0, *pixels, values, done)

            call(sets[0])
            device.wait()
            compiling = time.perf_counter() - begin
            rate = device.patches / device.seconds(call, sets)
            found = values[:, 13].mean().item()
            registers, local = (
                next(iter(of.values())) for of in (kernel.get_regs_per_thread(), kernel.get_local_mem_per_thread())
            )
            rows.append(
                {
                    "model": model,
                    "threads_a_block": threads,
                    "million_fits_per_s": rate / 1e6,
                    "iterations": found,
                    "registers": registers,
                    "local_bytes": local,
                    "first_call_s": compiling,
                }
            )
    return rows


def from_memory(device: Device) -> list[dict[str, Any]]:
    """Fits/s of `fit_patches`: from arrays in memory to the results in memory."""
    drawn, rows = device.drawn(), []
    counts, state, maxima = (
        np.concatenate([array] * (1 if device.quick else 4)) for array in (drawn.counts, drawn.state, drawn.maxima)
    )
    for model in MODELS:
        config = configured(model, device)
        seconds = device.wall_seconds(lambda config=config: fit_patches(counts, state, maxima, config))
        rate = len(counts) / seconds
        rows.append(
            {
                "model": model,
                "million_fits_per_s": rate / 1e6,
                "share_of_bus": share(rate * 5 * SIZE**2, device.ceilings.get("bus")),
            }
        )
    return rows


def accuracy(device: Device) -> list[dict[str, Any]]:
    """Differences from the CPU's fits in units of the stated errors; RMS error over the limit of both."""
    n, rows = 200 if device.quick else 20_000, []
    if not device.quick:
        compile_ahead()
    for kind, drawn_from in CLASSES.items():
        model = "pseudo_voigt" if kind == "pseudo_voigt" else "gaussian"
        drawn = simulate_patches(n, rng=np.random.default_rng(20), config=drawn_from)
        there = fit_patches(drawn.counts, drawn.state, drawn.maxima, configured(model, device))
        here = fit_patches(drawn.counts, drawn.state, drawn.maxima, FitConfig(model=model))
        both, limit = there["converged"] & here["converged"], limit_of_patches(drawn)
        off = np.maximum(*(np.abs(there[c] - here[c])[both] / here[f"{c}_std"][both] for c in "yx"))
        rows.append(
            {
                "class": kind,
                "model": model,
                "largest_difference_in_std": off.max(),
                "median": np.median(off),
                "converged_alike": float(np.mean(there["converged"] == here["converged"])),
                "iterations_alike": float(np.mean(there["iterations"] == here["iterations"])),
                "rms_over_limit": rms_over_limit(there, drawn, limit),
                "rms_over_limit_CPU": rms_over_limit(here, drawn, limit),
            }
        )
    return rows


def solver_on_cpu(_: Device) -> list[dict[str, Any]]:
    """The solver of the GPU against that of the CPU, both compiled for this CPU: sums are rounded otherwise."""
    n, rows = 4000, []
    for kind, drawn_from in CLASSES.items():
        drawn = simulate_patches(n, rng=np.random.default_rng(5), config=drawn_from)
        for model in MODELS:
            values, done = np.empty((n, N_VALUES)), np.empty(n, bool)
            loop_on_cpu()(drawn.counts, drawn.state, model == "pseudo_voigt", *working_arrays(), values, done)
            here = fit_patches(drawn.counts, drawn.state, np.full_like(drawn.maxima, np.nan), FitConfig(model=model))
            if not done.any():  # saturated: left to the CPU's solver
                continue
            there, here = values[done], here[done]
            both = (there[:, 14] == 1) & here["converged"]
            off = np.maximum(
                *(np.abs(there[:, k] - here[c])[both] / here[f"{c}_std"][both] for k, c in enumerate("yx"))
            )
            rows.append(
                {
                    "class": kind,
                    "model": model,
                    "largest_difference_in_std": off.max(),
                    "median": np.median(off),
                    "converged_alike": float(np.mean((there[:, 14] == 1) == here["converged"])),
                    "iterations_alike": float(np.mean(there[:, 13] == here["iterations"])),
                }
            )
    return rows


@cache
def loop_on_cpu() -> Any:
    @numba.njit
    def loop(counts, state, voigt, pixel_y, pixel_x, left, singles, doubles, sums, nodes, free, values, done):  # type: ignore[no-untyped-def]
        for k in range(len(counts)):
            done[k] = fit_alone(
                counts[k],
                state[k],
                voigt,
                True,
                50,
                1.0,
                0.0,
                pixel_y,
                pixel_x,
                left,
                singles,
                doubles,
                sums,
                nodes,
                free,
                values[k],
            )

    return loop


def working_arrays() -> list[np.ndarray]:
    y, x = (np.float32(axis.ravel()) for axis in np.mgrid[:SIZE, :SIZE])
    left, singles, sums = np.empty((SIZE, SIZE), "f4"), np.empty((N_SINGLES, SIZE**2), "f4"), np.empty(N_SUMS, "f4")
    return [y, x, left, singles, np.empty((N_DOUBLES, 8)), sums, np.empty((1, 2), np.int64), np.empty(8, np.uint8)]


def rms_over_limit(found: Any, drawn: Any, limit: Any) -> float:
    error = np.stack([found["y"], found["x"]], axis=1) - drawn.position
    clipped = np.nan_to_num(np.minimum(np.abs(error), 2), nan=2)
    return float(np.sqrt(np.mean(clipped**2) / np.mean(limit**2)))
