# mypy: allow-untyped-decorators
"""The networks of `models` compiled for one CPU core: the same answers, without the tensors in between.

`models` stays the reference, and is what learns and what runs on a GPU. Everything is float32; answers differ from
torch's by rounding only. BraggNN's scores never leave the first-level cache: those of three queries at a time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import kernel
from braggflow.locate.vector_lanes import (
    CHANNELS,
    LANES,
    LEAKY,
    NONE,
    POSITIONS,
    SILU,
    Floats,
    Integers,
    Layer,
    add,
    allocate,
    apply,
    copy,
    exp,
    maximum,
    multiply,
    pack,
    products,
    sigmoid,
    subtract,
)
from braggflow.locate.weights_of_network import HIGHEST, LOG_ERRORS, PLANES, Weights
from braggflow.patches import State

#: What a network says of n patches of counts (n, s, s) with their states and counts per photon: (n, 5), the offsets and
#: errors of `networks.NetworkOutput`, and the probability of being in the domain.
Kernel: TypeAlias = Callable[[Floats, NDArray[np.uint8], float], Floats]

_TAPS = 9
_LOWEST_SCALED, _HIGHEST_SCALED = np.float32(-1), np.float32(HIGHEST)
_LEAST_LOG_ERROR, _GREATEST_LOG_ERROR = (np.float32(bound) for bound in LOG_ERRORS)
_ZERO, _ONE, _INFINITE = np.float32(0), np.float32(1), np.float32(np.inf)
_OWN, _OTHER, _FULL, _MISSING = (int(state) for state in State)


class _Planes(NamedTuple):
    """Images in the work array, one after the other."""

    start: int
    side: int
    stride: int
    """From one to the next: side² and what fills the last `POSITIONS`."""


class _Plan:
    """Where everything lies in the work array, and the layers between."""

    def __init__(self) -> None:
        self.used = 0

    def planes(self, channels: int, side: int) -> _Planes:
        stride = 1 if side == 1 else -(-(side**2) // POSITIONS) * POSITIONS
        start, self.used = self.used, self.used + (channels + -channels % CHANNELS) * stride
        return _Planes(start, side, stride)

    def layer(
        self, weight: Floats, bias: Floats, taps: Integers, shifts: Integers, activation: int
    ) -> tuple[Layer, _Planes]:
        """A layer of weights (channels, k) at `shifts` of a square of positions."""
        out = self.planes(len(weight), int(len(shifts) ** 0.5))
        positions = np.pad(shifts, (0, out.stride - len(shifts)), mode="edge")
        packed = pack(weight, bias)
        return Layer(packed, np.ascontiguousarray(taps), positions, out.start, activation), out

    def convolution(self, source: _Planes, of: Weights, layer: str, activation: int) -> tuple[Layer, _Planes]:
        """A convolution without padding, named as in the weights."""
        weight, bias = of.tensors[f"{layer}.weight"], of.tensors[f"{layer}.bias"]
        channels, kernel = weight.shape[1:3]
        taps = _grid(kernel, source.side) + source.start + source.stride * np.arange(channels)[:, None]
        shifts = _grid(source.side - kernel + 1, source.side)
        return self.layer(weight.reshape(len(weight), -1), bias, taps.ravel(), shifts, activation)

    def dense(self, taps: Integers, of: Weights, layer: str, activation: int) -> tuple[Layer, Integers]:
        """A dense layer, named as in the weights, and where its outputs are."""
        weight, bias = of.tensors[f"{layer}.weight"], of.tensors[f"{layer}.bias"]
        result, out = self.layer(weight, bias, taps, np.zeros(1, np.int64), activation)
        return result, out.start + np.arange(len(weight))


def _grid(side: int, stride: int) -> Integers:
    """Places of a square of pixels in an image of `stride` columns."""
    return (np.arange(side)[:, None] * stride + np.arange(side)).ravel()


def _flat(planes: _Planes, channels: int) -> Integers:
    """Places of all pixels of all channels, as torch flattens them."""
    return (planes.start + planes.stride * np.arange(channels)[:, None] + np.arange(planes.side**2)).ravel()


def compiled_network(weights: Weights) -> Kernel:
    """The kernel of a network on the CPU."""
    return _braggnn(weights) if weights.name == "braggnn" else _compact(weights)


def _merged(of: Weights) -> tuple[Floats, Floats, Floats, Floats]:
    """As `networks.NonLocalBlock.merged`, in double precision."""
    kernel, theta, phi, g, out = (
        of.tensors[f"{layer}.weight"].reshape(len(of.tensors[f"{layer}.weight"]), -1).astype(np.float64)
        for layer in ("cnn_layers.0", "nlb.theta_layer", "nlb.phi_layer", "nlb.g_layer", "nlb.out_cnn")
    )
    shift, theta_bias, g_bias, out_bias = (
        of.tensors[f"{layer}.bias"].astype(np.float64)
        for layer in ("cnn_layers.0", "nlb.theta_layer", "nlb.g_layer", "nlb.out_cnn")
    )
    keys = (phi @ kernel).T
    merged = (
        keys @ theta @ kernel,
        keys @ (theta @ shift + theta_bias),
        np.concatenate([kernel, out @ g @ kernel], 1),
        shift + out @ (g @ shift + g_bias) + out_bias,
    )
    query, query_shift, weight, constant = (part.astype(np.float32) for part in merged)
    return query, query_shift, weight, constant


def _braggnn(model: Weights) -> Kernel:
    plan, side = _Plan(), model.size - 2
    image = plan.planes(1, model.size)
    pixels = plan.planes(2 * _TAPS, side)  # under the kernel, and what attention makes of them
    query, query_shift, weight, constant = _merged(model)
    everywhere = np.arange(side**2)
    seen = pixels.start + pixels.stride * np.arange(2 * _TAPS)
    queries, asked = plan.layer(query, query_shift, seen[:_TAPS], everywhere, NONE)
    scores = plan.planes(POSITIONS, side)
    plan.used += 2 * POSITIONS
    layers = []
    step, planes = plan.layer(weight, constant, seen, everywhere, LEAKY)
    layers.append(step)
    for layer in ("cnn_layers.2", "cnn_layers.4"):
        step, planes = plan.convolution(planes, model, layer, LEAKY)
        layers.append(step)
    flat = _flat(planes, 8)
    for k in range(len(model.shape) + 1):
        step, flat = plan.dense(flat, model, f"dense_layers.{2 * k}", LEAKY if k < len(model.shape) else NONE)
        layers.append(step)

    def locate(counts: Floats, state: NDArray[np.uint8], counts_per_photon: float) -> Floats:  # noqa: ARG001 - sees no states
        work = allocate(plan.used)
        return _run_braggnn(  # type: ignore[no-any-return]  # numba's
            counts, np.float32(counts_per_photon), work, image, pixels, queries, asked, scores, tuple(layers), flat[0]
        )

    return locate


def _compact(model: Weights) -> Kernel:
    plan = _Plan()
    planes = image = plan.planes(PLANES, model.size)
    height = plan.planes(1, 1).start
    layers = []
    for k in (0, 2, 4, 6):
        step, planes = plan.convolution(planes, model, f"convolutions.{k}", SILU)
        layers.append(step)
    narrow = len(model.tensors["convolutions.6.weight"])
    flat = np.append(_flat(planes, narrow), height)
    for first, last in (("hidden", "output"), ("judge.0", "judge.2")):
        step, hidden = plan.dense(flat, model, first, SILU)
        layers.append(step)
        step, out = plan.dense(hidden, model, last, NONE)
        layers.append(step)
        if last == "output":
            offsets = out[0]

    def locate(counts: Floats, state: NDArray[np.uint8], counts_per_photon: float) -> Floats:
        work = allocate(plan.used)
        return _run_compact(  # type: ignore[no-any-return]  # numba's
            counts, state, np.float32(counts_per_photon), work, image, height, tuple(layers), offsets, out[0]
        )

    return locate


@kernel(nogil=True, error_model="numpy")
def _run_braggnn(
    counts: Any,
    counts_per_photon: Any,
    work: Any,
    image: Any,
    pixels: Any,
    queries: Any,
    asked: Any,
    scores: Any,
    layers: Any,
    out: int,
) -> Any:
    n, size = len(counts), image.side
    answers = np.full((n, 5), np.nan, np.float32)
    for first in range(0, n, LANES):
        k = min(LANES, n - first)
        for lane in range(LANES):
            patch = counts[first + min(lane, k - 1)]  # the last one fills the lanes that remain
            low = high = patch[0, 0] / counts_per_photon
            for y in range(size):
                for x in range(size):
                    photons = patch[y, x] / counts_per_photon
                    low, high = min(low, photons), max(high, photons)
            span = high - low if high > low else _ONE
            for y in range(size):
                for x in range(size):
                    work[(image.start + y * size + x) * LANES + lane] = (patch[y, x] / counts_per_photon - low) / span
        _unfold(work, image, pixels)
        apply(queries, work)
        _attend(work, pixels, queries.taps, asked, scores)
        for layer in layers:
            apply(layer, work)
        for lane in range(k):
            # x first, as published.
            for axis in range(2):
                share = work[(out + 1 - axis) * LANES + lane]
                answers[first + lane, axis] = share * np.float32(size) - np.float32(0.5) * np.float32(size - 1)
    return answers


@numba.njit(nogil=True, error_model="numpy")
def _unfold(work: Any, image: Any, pixels: Any) -> None:
    """A plane for each pixel under the kernel, of what lies there at every position."""
    for dy in range(3):
        for dx in range(3):
            target = pixels.start + (3 * dy + dx) * pixels.stride
            for y in range(pixels.side):
                source = image.start + (y + dy) * image.side + dx
                for x in range(pixels.side):
                    copy(work, target + y * pixels.side + x, source + x)


@numba.njit(nogil=True, error_model="numpy")
def _attend(work: Any, pixels: Any, taps: Any, asked: Any, scores: Any) -> None:
    """Behind the 9 planes of `pixels` that the queries come from, their means weighted by each position's attention."""
    n, stride = pixels.side**2, pixels.stride
    everywhere = np.arange(stride)
    rows = stride * np.arange(POSITIONS)
    shares = scores.start + everywhere[:n]
    top = scores.start + POSITIONS * stride  # behind the scores, and the sums behind these
    total = top + POSITIONS
    for query in range(0, stride, POSITIONS):
        for p in range(0, stride, POSITIONS):
            products(work, asked.start + query, 1, stride, work, taps, everywhere, p, scores.start + p, stride)
        for r in range(POSITIONS):
            copy(work, top + r, scores.start + r * stride)
        for j in range(1, n):
            for r in range(POSITIONS):
                maximum(work, top + r, scores.start + r * stride + j)
        for j in range(n):
            for r in range(POSITIONS):
                subtract(work, scores.start + r * stride + j, top + r)
        exponents = work[scores.start * LANES : (scores.start + POSITIONS * stride) * LANES]
        for i in range(len(exponents)):
            exponents[i] = exp(exponents[i])
        for r in range(POSITIONS):
            copy(work, total + r, scores.start + r * stride)
        for j in range(1, n):
            for r in range(POSITIONS):
                add(work, total + r, scores.start + r * stride + j)
        inverses = work[total * LANES : (total + POSITIONS) * LANES]
        for i in range(len(inverses)):
            inverses[i] = _ONE / inverses[i]
        for t in range(0, _TAPS, POSITIONS):
            out = pixels.start + (_TAPS + t) * stride + query
            products(work, pixels.start + t * stride, stride, 1, work, shares, rows, 0, out, stride)
            for channel in range(POSITIONS):
                for r in range(POSITIONS):
                    multiply(work, out + channel * stride + r, total + r)


@kernel(nogil=True, error_model="numpy")
def _run_compact(
    counts: Any,
    state: Any,
    counts_per_photon: Any,
    work: Any,
    image: Any,
    height: int,
    layers: Any,
    offsets: int,
    judged: int,
) -> Any:
    n, size, half = len(counts), image.side, image.side // 2
    answers = np.empty((n, 5), np.float32)
    for first in range(0, n, LANES):
        k = min(LANES, n - first)
        for lane in range(LANES):
            patch, kind = counts[first + min(lane, k - 1)], state[first + min(lane, k - 1)]
            low, high = _INFINITE, -_INFINITE
            for y in range(size):
                for x in range(size):
                    if kind[y, x] == _OWN or kind[y, x] == _FULL:
                        photons = patch[y, x] / counts_per_photon
                        low = min(low, photons)
                        if abs(y - half) <= 2 and abs(x - half) <= 2:
                            high = max(high, photons)
            if low == _INFINITE:
                low = _ZERO
            height_span = high - low if high > -_INFINITE else _ZERO
            span = height_span if height_span > _ZERO else _ONE
            for y in range(size):
                for x in range(size):
                    at = (image.start + y * size + x) * LANES + lane
                    scaled = (patch[y, x] / counts_per_photon - low) / span
                    missing, other = kind[y, x] == _MISSING, kind[y, x] == _OTHER
                    work[at] = _ZERO if missing else min(max(scaled, _LOWEST_SCALED), _HIGHEST_SCALED)
                    work[at + image.stride * LANES] = _ONE if other or kind[y, x] == _OWN else _ZERO
                    work[at + 2 * image.stride * LANES] = _ONE if other else _ZERO
            work[height * LANES + lane] = np.log(max(height_span, _ONE))
        for layer in layers:
            apply(layer, work)
        for lane in range(k):
            for axis in range(2):
                answers[first + lane, axis] = work[(offsets + axis) * LANES + lane]
                log_error = work[(judged + axis) * LANES + lane]
                log_error = min(max(log_error, _LEAST_LOG_ERROR), _GREATEST_LOG_ERROR)
                answers[first + lane, 2 + axis] = exp(log_error)
            answers[first + lane, 4] = sigmoid(work[(judged + 2) * LANES + lane])
    return answers
