# mypy: allow-untyped-calls, allow-untyped-decorators, disable-error-code=attr-defined
"""Fits on a GPU: `alone.fit_alone` compiled by numba.cuda, one thread a patch.

While a batch is fitted, the next one is copied. A patch's result does not depend on which others are in its batch.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from threading import Lock
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
from numba import cuda, float32, float64, int64, uint8
from numpy.typing import NDArray

from braggflow.fit.alone import N_DOUBLES, N_SINGLES, N_SUMS, N_VALUES, fit_alone
from braggflow.fit.start import Floats, Singles, exp_half

#: Patches of a batch, and batches under way at a time.
BATCH, _UNDER_WAY = 1 << 16, 2
_THREADS = 128
_one_at_a_time = Lock()
_MINUS_HALF = np.float32(-0.5)

#: Whether a pseudo-Voigt, whether Poisson weights, most iterations, counts per photon, photons added to every pixel.
Settings: TypeAlias = tuple[bool, bool, int, float, float]


def fit_on_gpu(
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    device: str,
    settings: Settings,
    values: Floats,
    done: NDArray[np.bool_],
) -> None:
    """Fit the peaks of patches (n, s, s) as if each were alone; fill `values` (n, N_VALUES), as `solver.fit_all` does.

    `device` is cuda or cuda:N. `done` (n,) is False where a pixel is saturated: there `values` are not to be used.
    Raises numba's errors, of which those of missing parts of CUDA are of the kind ImportError.
    """
    n, (voigt, *others) = len(counts), settings
    number = int(device.partition(":")[2] or 0)
    with _one_at_a_time, cuda.gpus[number]:
        batches = _batches(number, counts.shape[1], voigt)
        try:
            for at, start in enumerate(range(0, n, BATCH)):
                batch = batches[at % len(batches)]
                batch.collect(values, done)
                batch.submit(counts, state, slice(start, min(start + BATCH, n)), others)
            for batch in batches:
                batch.collect(values, done)
        except BaseException:
            _batches.cache_clear()  # what is under way belongs to nobody
            raise


@lru_cache(maxsize=2)
def _batches(device: int, size: int, voigt: bool) -> list["_Batch"]:  # noqa: ARG001 - those of the current device
    """What is kept from call to call: page-locked memory takes longer to be had than a batch to be fitted."""
    return [_Batch(BATCH, size, voigt) for _ in range(_UNDER_WAY)]


class _Batch:
    """Page-locked buffers here, others on the device, and the stream that fills them."""

    def __init__(self, n: int, size: int, voigt: bool) -> None:
        self._pixel_y, self._pixel_x = pixels_of(size)
        # Always a whole grid, whose surplus threads end at once: numba warns of small ones.
        self._stream = cuda.stream()
        self._launch = kernel_for(size, voigt)[-(-n // _THREADS), _THREADS, self._stream]
        self._counts = cuda.pinned_array((n, size, size), np.float32)
        self._state = cuda.pinned_array((n, size, size), np.uint8)
        self._values, self._done = cuda.pinned_array((n, N_VALUES), np.float64), cuda.pinned_array(n, np.uint8)
        here = (self._counts, self._state, self._values, self._done)
        self._there = [cuda.device_array(array.shape, array.dtype, stream=self._stream) for array in here]
        self._part: slice | None = None

    def submit(
        self, counts: NDArray[np.float32], state: NDArray[np.uint8], part: slice, settings: Sequence[float]
    ) -> None:
        """Begin to fit a part of the patches, as many as the batch holds or fewer."""
        n, self._part = part.stop - part.start, part
        counts_there, state_there, values, done = (array[:n] for array in self._there)
        self._counts[:n], self._state[:n] = counts[part], state[part]
        counts_there.copy_to_device(self._counts[:n], stream=self._stream)
        state_there.copy_to_device(self._state[:n], stream=self._stream)
        self._launch(counts_there, state_there, *settings, self._pixel_y, self._pixel_x, values, done)
        values.copy_to_host(self._values[:n], stream=self._stream)
        done.copy_to_host(self._done[:n], stream=self._stream)

    def collect(self, values: Floats, done: NDArray[np.bool_]) -> None:
        """Wait for the results of what was begun, if anything, and put them where they belong."""
        if self._part is not None:
            self._stream.synchronize()
            n = self._part.stop - self._part.start
            values[self._part], done[self._part] = self._values[:n], self._done[:n]
            self._part = None


def pixels_of(size: int) -> tuple[Any, Any]:
    """Coordinates y and x of a patch's pixels, on the device."""
    y, x = (cuda.to_device(np.float32(axis.ravel())) for axis in np.mgrid[:size, :size])
    return y, x


@cache
def kernel_for(size: int, voigt: bool) -> Any:
    """The kernel for patches of a size and one of the profiles, both constants to its compiler."""
    fit_one, pixels, is_voigt = on_device(fit_alone), size * size, voigt

    @cuda.jit
    def fit_each(
        counts: Any,
        state: Any,
        poisson: bool,
        max_iterations: int,
        counts_per_photon: float,
        shift: float,
        pixel_y: Singles,
        pixel_x: Singles,
        values: Floats,
        done: Any,
    ) -> None:
        k = cuda.grid(1)
        if k < len(counts):
            left = cuda.local.array((size, size), float32)
            singles = cuda.local.array((N_SINGLES, pixels), float32)
            doubles = cuda.local.array((N_DOUBLES, 8), float64)
            sums = cuda.local.array(N_SUMS, float32)
            nodes = cuda.local.array((1, 2), int64)
            free = cuda.local.array(8, uint8)
            done[k] = fit_one(
                counts[k],
                state[k],
                is_voigt,
                poisson,
                max_iterations,
                counts_per_photon,
                shift,
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

    return fit_each


def _exp_half(q: Any) -> Any:
    return math.exp(_MINUS_HALF * q)


@cache
def on_device(function: Any) -> Any:
    """A function of `compiled.inner`, and those that it calls, compiled for a GPU: the same source."""
    source = function.py_func
    called = {name: source.__globals__.get(name) for name in source.__code__.co_names}
    there = {name: on_device(value) for name, value in called.items() if hasattr(value, "py_func")}
    if function is exp_half:  # a GPU has an instruction for it
        source, there = _exp_half, {}
    again = FunctionType(source.__code__, {**source.__globals__, **there}, source.__name__)
    return cuda.jit(device=True, fastmath=bool(getattr(function, "targetoptions", {}).get("fastmath")))(again)
