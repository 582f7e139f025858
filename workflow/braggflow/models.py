"""The networks: BraggNN as published, and a smaller one that also states its uncertainty.

Both take square patches of 9 to 15 pixels on a side, min-max normalised by `normalise`.
"""

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional


def normalise(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each patch to 0-1; the one normalisation of training and inference.

    `counts` is (n, s, s). Returns the scaled patches, (n, 1, s, s), and the natural logarithm of their range in counts
    (at least 1 count), (n, 1). A constant patch becomes all zeros.
    """
    low = counts.amin((1, 2), keepdim=True)
    span = counts.amax((1, 2), keepdim=True) - low
    scaled = (counts - low) / torch.where(span > 0, span, 1)
    return scaled[:, None], span[:, :, 0].clamp(min=1).log()


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
        # Rows of 16 floats: with 9, how a matrix product rounds depends on where in memory a patch happens to lie.
        kernel, shift = functional.pad(first.weight.flatten(1), (0, 7)), _bias(first)  # (c, 16), (c,)
        theta, phi, g, out = (
            layer.weight.flatten(1) for layer in (self.theta_layer, self.phi_layer, self.g_layer, self.out_cnn)
        )
        keys = (phi @ kernel).T  # (16, c/2)
        pixels = functional.pad(functional.unfold(patches, 3).transpose(1, 2), (0, 7))  # (n, (s-2)², 16)
        queries = functional.linear(pixels, keys @ theta @ kernel, keys @ (theta @ shift + _bias(self.theta_layer)))
        attention = torch.softmax(queries @ pixels.transpose(1, 2), -1)  # (n, (s-2)², (s-2)²)
        weight = torch.cat([kernel, out @ g @ kernel], 1)  # (c, 32)
        constant = shift + out @ (g @ shift + _bias(self.g_layer)) + _bias(self.out_cnn)
        features = functional.linear(torch.cat([pixels, attention @ pixels], -1), weight, constant)  # (n, (s-2)², c)
        side = patches.shape[-1] - 2
        # A view with channels last, which the next convolution takes without a copy.
        return features.view(-1, side, side, len(kernel)).permute(0, 3, 1, 2)


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

    def locate(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (y, x) from the centres of patches of counts (n, s, s), pixels: (n, 2), and no uncertainty: NaN."""
        scaled, _ = normalise(counts)
        offsets = self(scaled).flip(1) * self.size - (self.size - 1) / 2
        return offsets, torch.full_like(offsets, torch.nan)


class Compact(nn.Module):
    """Three plain convolutions and one hidden layer: position and its standard error.

    The logarithm of the patch's range in counts joins the hidden layer: normalised patches do not show the count level,
    which sets the uncertainty.
    """

    def __init__(self, size: int = 11, channels: int = 24, hidden: int = 64) -> None:
        super().__init__()
        self.size = size
        narrow = 16 if size <= 11 else 8
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3),
            nn.SiLU(),
            nn.Conv2d(channels, narrow, 1),
            nn.SiLU(),
        )
        self.hidden = nn.Linear(narrow * (size - 6) ** 2 + 1, hidden)
        self.output = nn.Linear(hidden, 4)

    def forward(self, patches: Tensor, log_height: Tensor) -> Tensor:
        """Normalised patches (n, 1, s, s) and log heights (n, 1), both of `normalise`, to (n, 4).

        The four are y and x in pixels from the patch's centre, and the natural logarithms of their standard errors.
        """
        features = self.convolutions(patches).flatten(1)
        hidden = functional.silu(self.hidden(torch.cat([features, log_height], 1)))
        result: Tensor = self.output(hidden)
        return result

    def locate(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (y, x) from the centres of patches of counts (n, s, s), and standard errors, pixels: each (n, 2)."""
        result = self(*normalise(counts))
        return result[:, :2], result[:, 2:].exp()


Network: TypeAlias = BraggNN | Compact
