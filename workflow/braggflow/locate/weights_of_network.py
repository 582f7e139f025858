"""The weights of a network as numbers, without torch: read, checked, and told from one another by their shapes."""

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: Heights are told apart to this many times the peak's own: how bright a brighter neighbour is does not matter more.
HIGHEST = 3.0
#: Logarithms of the least and the greatest standard error that `Compact` states, pixels.
LOG_ERRORS = (-12, 4)
#: Planes that `Compact` sees: scaled photons, usable, a neighbour's.
PLANES = 3


class Weights(NamedTuple):
    """A network as its numbers."""

    name: str
    """braggnn or compact."""
    size: int
    """Pixels on a side of the patches it takes."""
    shape: tuple[int, ...]
    """What else `networks` makes it from: units of BraggNN's dense layers but the last; channels, hidden and judges."""
    tensors: dict[str, NDArray[np.float32]]
    """By the names of torch's state dict."""


def weights_from(name: str, tensors: Mapping[str, NDArray[Any]]) -> Weights:
    """The network of this name whose shape the tensors tell; `KeyError` or `ValueError` where they are none of its."""
    shapes = {key: np.shape(value) for key, value in tensors.items()}
    if name == "braggnn":
        keys = (f"dense_layers.{k}.weight" for k in range(0, 2 * len(shapes), 2))
        dense = [shapes[key] for key in keys if key in shapes]
        size, shape = 6 + isqrt(dense[0][1] // 8), tuple(rows[0] for rows in dense[:-1])
        expected = _braggnn(size, shape)
    else:
        channels, narrow = shapes["convolutions.0.weight"][0], shapes["convolutions.6.weight"][0]
        hidden, width = shapes["hidden.weight"]
        size, shape = 6 + isqrt((width - 1) // narrow), (channels, hidden, shapes["judge.0.weight"][0])
        expected = _compact(size, *shape)
    expected |= {key.replace("weight", "bias"): rows[:1] for key, rows in expected.items()}
    if expected != shapes:
        wrong = sorted(key for key in {*expected, *shapes} if expected.get(key) != shapes.get(key))
        raise ValueError(f"{wrong[0]} has shape {shapes.get(wrong[0])}, not {expected.get(wrong[0])}")
    return Weights(name, size, shape, {key: np.asarray(value, np.float32) for key, value in tensors.items()})


def weights_of(model: "torch.nn.Module") -> Weights:
    """Those of a network of `networks`, as they are now."""
    tensors = {key: value.detach().cpu().numpy() for key, value in model.state_dict().items()}
    return weights_from("braggnn" if "nlb.theta_layer.weight" in tensors else "compact", tensors)


def _braggnn(size: int, dense: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {
        **{f"nlb.{layer}_layer.weight": (32, 64, 1, 1) for layer in ("theta", "phi", "g")},
        "nlb.out_cnn.weight": (64, 32, 1, 1),
        "cnn_layers.0.weight": (64, 1, 3, 3),
        "cnn_layers.2.weight": (32, 64, 3, 3),
        "cnn_layers.4.weight": (8, 32, 3, 3),
    }
    width = 8 * (size - 6) ** 2
    for k, units in enumerate((*dense, 2)):
        expected[f"dense_layers.{2 * k}.weight"] = (units, width)
        width = units
    return expected


def _compact(size: int, channels: int, hidden: int, judges: int) -> dict[str, tuple[int, ...]]:
    narrow = 16 if size <= 11 else 8
    width = narrow * (size - 6) ** 2 + 1
    return {
        "convolutions.0.weight": (channels, PLANES, 3, 3),
        "convolutions.2.weight": (channels, channels, 3, 3),
        "convolutions.4.weight": (channels, channels, 3, 3),
        "convolutions.6.weight": (narrow, channels, 1, 1),
        "hidden.weight": (hidden, width),
        "output.weight": (2, hidden),
        "judge.0.weight": (judges, width),
        "judge.2.weight": (3, judges),
    }
