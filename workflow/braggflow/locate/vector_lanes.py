# mypy: allow-untyped-calls, allow-untyped-decorators
"""Layers of small networks on one CPU core: as many patches at once as a vector register holds numbers.

The work array holds vectors: `LANES` numbers in a row, the same quantity of as many patches. Each patch keeps to its
lane, so its result is the same bits whatever its companions. Convolutions and dense layers are one thing here: every
output is a bias and a sum over taps, numbers at fixed distances from the output's position.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
#: Patches at once; and channels at once, so that their sums at `POSITIONS` positions fill the registers, not more.
LANES, CHANNELS = (16, 8) if _WIDE else (8, 4)
POSITIONS = 3

#: Activations of a layer.
NONE, LEAKY, SILU = range(3)

_NEGATIVE_SLOPE = np.float32(0.01)  # of torch's LeakyReLU
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)  # where exp is a normal float32
_LOG2_E = np.float32(1 / np.log(2))
# ln 2 in two parts: the first has so few bits that its product with an exponent is exact.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(np.log(2) - 0.693359375)
_INVERSES = tuple(np.float32(1 / k) for k in range(2, 7))


class Layer(NamedTuple):
    """A layer, as `apply` takes it; numbers of places count vectors of the work array."""

    weights: Floats
    """Flat: for each `CHANNELS` channels their biases, then their weights tap by tap."""
    taps: Integers
    """(k,) where the numbers lie that the output at position 0 is a sum of."""
    positions: Integers
    """(m,) by how much that shifts for each output; m is 1 or a multiple of `POSITIONS`."""
    out: int
    """Where the outputs go: channel after channel, m to a channel."""
    activation: int


def pack(weights: Floats, biases: Floats) -> Floats:
    """Weights (channels, k) and biases (channels,) as a `Layer` holds them, with channels of 0 to fill the last few."""
    whole = np.concatenate([biases[:, None], weights], 1)
    whole = np.pad(whole, ((0, -len(whole) % CHANNELS), (0, 0)))
    return np.ascontiguousarray(whole.reshape(-1, CHANNELS, whole.shape[1]).transpose(0, 2, 1), np.float32).ravel()


def allocate(vectors: int) -> Floats:
    """A work array of zeros, each vector within one cache line."""
    whole = np.zeros((vectors + 1) * LANES, np.float32)
    start = -whole.ctypes.data % (4 * LANES) // 4
    return whole[start : start + vectors * LANES]


_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _signature(*operands: Any) -> Any:
    return types.void(*(types.unliteral(kind) for kind in operands))


def _vector_at(builder: Any, data: Any, index: Any) -> Any:
    """Pointer to a vector of the work array."""
    start = builder.gep(data, [builder.mul(index, ir.IntType(64)(LANES))])
    return builder.bitcast(start, _VECTOR.as_pointer())


def _tile(rows: int, columns: int, *, spread: bool) -> Callable[..., None]:
    """Compile-time maker of `rows` × `columns` sums of products, all kept in registers while the taps go by.

    Left to itself, LLVM vectorises only innermost loops, and writes each sum to memory at every tap. Sum (r, c) is of
    factors[start + r × row + k × step] × work[taps[k] + positions[first + c]] over k, and goes to
    work[out + r × out_row + c]. Factors are vectors of a work array; with `spread` they are weights, one number for
    all lanes, behind a bias.
    """

    @intrinsic
    def tile(
        _: Any,
        factors: Any,
        start: Any,
        row: Any,
        step: Any,
        work: Any,
        taps: Any,
        positions: Any,
        first: Any,
        out: Any,
        out_row: Any,
    ) -> Any:
        return _signature(factors, start, row, step, work, taps, positions, first, out, out_row), generate

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        factors, start, row, step, work, taps, positions, first, out, out_row = (
            context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        )
        integer = ir.IntType(64)

        def along(index: Any, times: int, stride: Any) -> Any:
            return builder.add(index, builder.mul(integer(times), stride))

        def element(array: Any, index: Any) -> Any:
            return builder.load(builder.gep(array.data, [index]))

        def place(index: Any) -> Any:
            return _vector_at(builder, work.data, index)

        def factor(index: Any) -> Any:
            if not spread:
                return builder.load(place(index), align=4)
            nothing = ir.Constant(_VECTOR, ir.Undefined)
            one = builder.insert_element(nothing, element(factors, index), ir.IntType(32)(0))
            return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

        origins = [element(positions, along(first, c, integer(1))) for c in range(columns)]
        starts = [along(start, r, row) for r in range(rows)]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in origins] for _ in starts]
        for r in range(rows):
            for total in sums[r]:
                builder.store(factor(starts[r]) if spread else zero, total)
        if spread:
            starts = [along(index, 1, step) for index in starts]
        with cgutils.for_range(builder, builder.extract_value(taps.shape, 0)) as loop:
            tap, shift = element(taps, loop.index), builder.mul(loop.index, step)
            seen = [builder.load(place(builder.add(tap, origin)), align=4) for origin in origins]
            for r in range(rows):
                by = factor(builder.add(starts[r], shift))
                for total, one in zip(sums[r], seen, strict=True):
                    product = builder.fmul(by, one, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for r in range(rows):
            for c in range(columns):
                builder.store(builder.load(sums[r][c]), place(along(along(out, r, out_row), c, integer(1))), align=4)
        return context.get_dummy_value()

    return tile


def _combination(combine: Callable[[Any, Any, Any], Any]) -> Callable[..., None]:
    """Compile-time maker of: vector i of the work array becomes what `combine` makes of it and vector j."""

    @intrinsic
    def combination(_: Any, work: Any, i: Any, j: Any) -> Any:
        return _signature(work, i, j), generate

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        at, other = (_vector_at(builder, data, index) for index in values[1:])
        result = combine(builder, builder.load(at, align=4), builder.load(other, align=4))
        builder.store(result, at, align=4)
        return context.get_dummy_value()

    return combination


copy = _combination(lambda builder, a, b: b)  # noqa: ARG005
add = _combination(lambda builder, a, b: builder.fadd(a, b))
subtract = _combination(lambda builder, a, b: builder.fsub(a, b))
multiply = _combination(lambda builder, a, b: builder.fmul(a, b))
maximum = _combination(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))

_weighed = _tile(CHANNELS, POSITIONS, spread=True)
_weighed_once = _tile(CHANNELS, 1, spread=True)
#: Sums of products of vectors, `POSITIONS` × `POSITIONS` at a time.
products = _tile(POSITIONS, POSITIONS, spread=False)


@numba.njit(nogil=True, error_model="numpy")
def apply(layer: Layer, work: Floats) -> None:
    """Compute a layer from the work array into it."""
    m = len(layer.positions)
    block = (len(layer.taps) + 1) * CHANNELS
    for b in range(len(layer.weights) // block):
        out = layer.out + b * CHANNELS * m
        if m == 1:
            _weighed_once(layer.weights, b * block, 1, CHANNELS, work, layer.taps, layer.positions, 0, out, m)
        else:
            for p in range(0, m, POSITIONS):
                _weighed(layer.weights, b * block, 1, CHANNELS, work, layer.taps, layer.positions, p, out + p, m)
        outputs = work[out * LANES : (out + CHANNELS * m) * LANES]
        if layer.activation == LEAKY:
            for i in range(len(outputs)):
                x = outputs[i]
                outputs[i] = x if x > _ZERO else _NEGATIVE_SLOPE * x
        elif layer.activation == SILU:
            for i in range(len(outputs)):
                outputs[i] = outputs[i] * sigmoid(outputs[i])


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def exp(x: Any) -> Any:
    """The exponential to 2e-7 relative, of float32 and in arithmetic that the compiler does in vectors."""
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2_E + _HALF)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    a, b, c, d, e = _INVERSES
    series = _ONE + r * (_ONE + r * a * (_ONE + r * b * (_ONE + r * c * (_ONE + r * d * (_ONE + r * e)))))
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _ONE / (_ONE + exp(-x))
