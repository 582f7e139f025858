"""The networks: BraggNN as published, and a smaller one that also states its uncertainty and its domain.

Both take square patches of photons, 9 to 15 pixels on a side, with the state of each pixel (`patches.State`).
"""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from braggflow.locate.weights_of_network import HIGHEST, LOG_ERRORS, PLANES, Weights
from braggflow.patches import State


class NetworkOutput(NamedTuple):
    """What a network says of n patches."""

    offsets: Tensor
    """(n, 2): y and x from the patch's centre, pixels."""
    errors: Tensor
    """(n, 2): their standard errors, pixels; NaN from a network that states none."""
    domain: Tensor
    """(n,): logit of the probability that the patch is of the kind the network was made for; NaN where not stated."""


def normalise(photons: Tensor) -> Tensor:
    """Scale each patch (n, s, s) to 0-1, as BraggNN wants it: (n, 1, s, s). A constant patch becomes all zeros."""
    low = photons.amin((1, 2), keepdim=True)
    span = photons.amax((1, 2), keepdim=True) - low
    return ((photons - low) / torch.where(span > 0, span, 1))[:, None]


class NonLocalBlock(nn.Module):
    """Self-attention over the pixels of the first convolution's output, added to that output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta_layer = nn.Conv2d(channels, channels // 2, 1)
        self.phi_layer = nn.Conv2d(channels, channels // 2, 1)
        self.g_layer = nn.Conv2d(channels, channels // 2, 1)
        self.out_cnn = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, patches: Tensor, first: nn.Conv2d) -> Tensor:
        """First convolution and block in one: (n, 1, s, s) to (n, channels, s - 2, s - 2).

        No activation stands between the convolution and the block, so queries, keys and values are affine in the 9
        pixels under the 3 × 3 kernel: attention over these 9 gives the same answer as over the published 32 channels
        at a fifth of the arithmetic. What a query adds to all its scores alike drops out of the softmax.
        """
        query, query_shift, weight, constant = self.merged(first)
        # Rows of 16 floats: with 9, how a matrix product rounds depends on where in memory a patch happens to lie.
        query, query_shift = functional.pad(query, (0, 7, 0, 7)), functional.pad(query_shift, (0, 7))
        weight = functional.pad(weight.view(-1, 2, 9), (0, 7)).flatten(1)
        pixels = functional.pad(functional.unfold(patches, 3).transpose(1, 2), (0, 7))  # (n, (s-2)², 16)
        queries = functional.linear(pixels, query, query_shift)
        attention = torch.softmax(queries @ pixels.transpose(1, 2), -1)  # (n, (s-2)², (s-2)²)
        features = functional.linear(torch.cat([pixels, attention @ pixels], -1), weight, constant)  # (n, (s-2)², c)
        side = patches.shape[-1] - 2
        # A view with channels last, which the next convolution takes without a copy.
        return features.view(-1, side, side, len(constant)).permute(0, 3, 1, 2)

    def merged(self, first: nn.Conv2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First convolution and block as affine maps of the 9 pixels under the kernel.

        Weight (9, 9) and constant (9,) of the queries; weight (channels, 18) and constant (channels,) of the features,
        from the 9 pixels and the 9 that attention makes of them.
        """
        kernel, shift = first.weight.flatten(1), _bias(first)  # (c, 9), (c,)
        theta, phi, g, out = (
            layer.weight.flatten(1) for layer in (self.theta_layer, self.phi_layer, self.g_layer, self.out_cnn)
        )
        keys = (phi @ kernel).T  # (9, c/2)
        constant = shift + out @ (g @ shift + _bias(self.g_layer)) + _bias(self.out_cnn)
        return (
            keys @ theta @ kernel,
            keys @ (theta @ shift + _bias(self.theta_layer)),
            torch.cat([kernel, out @ g @ kernel], 1),
            constant,
        )


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class BraggNN(nn.Module):
    """BraggNN (Liu et al. 2022, IUCrJ 9, 104); `state_dict` keys are those of the published code's checkpoints."""

    def __init__(self, size: int = 11, dense: tuple[int, ...] = (16, 8, 4, 2)) -> None:
        super().__init__()
        self.size = size
        self.nlb = NonLocalBlock(64)
        self.cnn_layers = nn.Sequential(
            nn.Conv2d(1, 64, 3),
            nn.LeakyReLU(),
            nn.Conv2d(64, 32, 3),
            nn.LeakyReLU(),
            nn.Conv2d(32, 8, 3),
            nn.LeakyReLU(),
        )
        layers: list[nn.Module] = []
        width = 8 * (size - 6) ** 2
        for units in dense:
            layers += [nn.Linear(width, units), nn.LeakyReLU()]
            width = units
        self.dense_layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, patches: Tensor) -> Tensor:
        """Normalised patches (n, 1, s, s) to (n, 2): (x, y) in patch pixel coordinates, over the patch size."""
        first, *others = self.cnn_layers
        assert isinstance(first, nn.Conv2d)
        features = self.nlb(patches, first)
        for layer in others:
            features = layer(features)
        result: Tensor = self.dense_layers(features.flatten(1))
        return result

    def locate(self, photons: Tensor, state: Tensor) -> NetworkOutput:  # noqa: ARG002 - sees no states
        """Where the peaks of patches (n, s, s) are; pixels that are not the peak's own are filled already."""
        offsets = self(normalise(photons)).flip(1) * self.size - (self.size - 1) / 2
        return NetworkOutput(offsets, torch.full_like(offsets, torch.nan), torch.full_like(offsets[:, 0], torch.nan))


class Compact(nn.Module):
    """Three plain convolutions and two small heads: the position; its standard errors and whether the patch is a peak.

    It sees which pixels are usable and which are nearer to a neighbour's maximum, so it has nothing to guess at edges,
    gaps and overlaps. The logarithm of the patch's height in photons joins what the heads see: scaled patches do not
    show how many photons there are, which decides the uncertainty.
    """

    def __init__(self, size: int = 11, channels: int = 24, hidden: int = 64, judges: int = 48) -> None:
        super().__init__()
        self.size = size
        narrow = 16 if size <= 11 else 8
        self.convolutions = nn.Sequential(
            nn.Conv2d(PLANES, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, narrow, 1),
            nn.SiLU(),
        )
        width = narrow * (size - 6) ** 2 + 1
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, 2)
        # A head of its own: what makes a position sure, or a patch no peak, is not what moves it.
        self.judge = nn.Sequential(nn.Linear(width, judges), nn.SiLU(), nn.Linear(judges, 3))

    def features(self, photons: Tensor, state: Tensor) -> Tensor:
        """What both heads see of patches (n, s, s): the last convolution's output and the log height, (n, features)."""
        seen, log_height = planes(photons, state)
        return torch.cat([self.convolutions(seen).flatten(1), log_height], 1)

    def judged(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Standard errors of y and x, pixels, (n, 2), and the logit of being in the domain, (n,)."""
        verdict = self.judge(features).float()
        return verdict[:, :2].clamp(*LOG_ERRORS).exp(), verdict[:, 2]

    def locate(self, photons: Tensor, state: Tensor) -> NetworkOutput:
        """Where the peaks of patches (n, s, s) are, how surely, and whether they are peaks of the kind it knows."""
        features = self.features(photons, state)
        return NetworkOutput(self.output(functional.silu(self.hidden(features))).float(), *self.judged(features))


def planes(photons: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What `Compact` sees of patches (n, s, s) with their states: planes (n, 3, s, s) and log heights (n, 1).

    Photons are scaled so that the lowest of the peak's own pixels is 0 and the highest of them near the centre is 1.
    A pixel that is not usable, but for a saturated one, is 0. The height is at least 1 photon.
    """
    own = (state == State.OWN) | (state == State.FULL)
    half = photons.shape[-1] // 2
    core = slice(half - 2, half + 3)
    low = torch.where(own, photons, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(own[:, core, core], photons[:, core, core], -torch.inf).amax((1, 2), keepdim=True)
    span = (high - low).nan_to_num(0, 0, 0)
    scaled = ((photons - low.nan_to_num(0, 0, 0)) / torch.where(span > 0, span, 1)).clamp(-1, HIGHEST)
    usable = (state == State.OWN) | (state == State.OTHER)
    stacked = torch.stack([torch.where(state == State.MISSING, 0, scaled), usable, state == State.OTHER], 1)
    return stacked, span[:, :, 0].clamp(min=1).log()


Network: TypeAlias = BraggNN | Compact


def network_from(weights: Weights) -> Network:
    """The network in torch that holds these weights, on the CPU, to be asked and not to learn."""
    model = BraggNN(weights.size, weights.shape) if weights.name == "braggnn" else Compact(weights.size, *weights.shape)
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in weights.tensors.items()})
    asked: Network = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return asked
