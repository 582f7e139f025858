import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from braggflow.locate import BraggNN, Compact
from braggflow.locate.networks import normalise, planes
from braggflow.patches import State

SIZES = (9, 11, 13, 15)
PUBLISHED_KEYS = {
    f"{layer}.{part}"
    for layer in (
        *(f"nlb.{name}" for name in ("theta_layer", "phi_layer", "g_layer", "out_cnn")),
        *(f"cnn_layers.{k}" for k in (0, 2, 4)),
        *(f"dense_layers.{k}" for k in (0, 2, 4, 6, 8)),
    )
    for part in ("weight", "bias")
}


def published_form(model: BraggNN, patches: torch.Tensor) -> torch.Tensor:
    """BraggNN step by step as in the paper: attention between 32-channel embeddings of the first convolution."""
    features = model.cnn_layers[0](patches)
    n, channels, rows, columns = features.shape
    theta, phi, g = (
        layer(features).flatten(2) for layer in (model.nlb.theta_layer, model.nlb.phi_layer, model.nlb.g_layer)
    )
    attention = torch.softmax(torch.einsum("nci,ncj->nij", theta, phi), dim=-1)
    attended = torch.einsum("nij,ncj->nci", attention, g).reshape(n, channels // 2, rows, columns)
    features = features + model.nlb.out_cnn(attended)
    return model.dense_layers(model.cnn_layers[1:](features).flatten(1))


def test_braggnn_has_the_published_parameters() -> None:
    model = BraggNN(11)
    assert sum(p.numel() for p in model.parameters()) == 33_172
    assert set(model.state_dict()) == PUBLISHED_KEYS


@pytest.mark.parametrize("size", SIZES)
def test_braggnn_equals_its_published_form(size: int) -> None:
    torch.manual_seed(size)
    model = BraggNN(size)
    with torch.no_grad():
        for layer in (model.nlb.theta_layer, model.nlb.phi_layer):
            layer.weight.mul_(4)  # attention that is far from uniform
    patches = torch.rand(40, 1, size, size)
    torch.testing.assert_close(model(patches), published_form(model, patches), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_networks_locate_patches_of_every_size(size: int) -> None:
    photons, state = torch.rand(3, size, size), torch.zeros(3, size, size, dtype=torch.uint8)
    answer = Compact(size).locate(photons, state)
    assert answer.offsets.shape == answer.errors.shape == (3, 2)
    assert answer.domain.shape == (3,)
    assert all(part.isfinite().all() for part in answer)
    assert (answer.errors > 0).all()
    answer = BraggNN(size).locate(photons, state)
    assert answer.offsets.isfinite().all()
    assert answer.errors.shape == (3, 2)
    assert answer.errors.isnan().all()
    assert answer.domain.isnan().all()


def test_compact_has_less_than_a_quarter_of_braggnns_arithmetic() -> None:
    """Multiplications and additions of convolutions, matrix products and dense layers, counted by torch."""
    counts = {}
    for name, run in {
        "braggnn": lambda: published_form(BraggNN(11), torch.zeros(1, 1, 11, 11)),
        "compact": lambda: Compact(11).locate(torch.zeros(1, 11, 11), torch.zeros(1, 11, 11)),
    }.items():
        with FlopCounterMode(display=False) as counter:
            run()
        counts[name] = counter.get_total_flops()
    assert 4 * counts["compact"] < counts["braggnn"]


def test_braggnn_answers_x_first_and_locate_y_first() -> None:
    model = BraggNN(11)
    photons = torch.rand(5, 11, 11)
    answer = model(normalise(photons))
    offsets = model.locate(photons, torch.zeros(5, 11, 11)).offsets
    torch.testing.assert_close(offsets, torch.stack([answer[:, 1] * 11 - 5, answer[:, 0] * 11 - 5], 1))


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 1e4), st.floats(-100, 1e4))
@settings(max_examples=50)
def test_scaled_patches_do_not_show_scale_or_offset(seed: int, scale: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    photons = torch.from_numpy(rng.uniform(0, 100, (4, 9, 9)))
    state = torch.from_numpy(rng.choice(4, (4, 9, 9), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8))
    scaled = normalise(photons)
    assert scaled.shape == (4, 1, 9, 9)
    assert scaled.amin((1, 2, 3)).eq(0).all()
    assert scaled.amax((1, 2, 3)).eq(1).all()
    torch.testing.assert_close(normalise(scale * photons + offset), scaled, rtol=0, atol=1e-8)
    seen, log_height = planes(photons, state)
    other, other_height = planes(scale * photons + offset, state)
    torch.testing.assert_close(other, seen, rtol=0, atol=1e-8)
    torch.testing.assert_close(other_height.exp(), (scale * log_height.exp()).clamp(min=1), rtol=1e-6, atol=0)


def test_compact_sees_the_own_peak_at_full_height_whatever_lies_beside_it() -> None:
    photons, state = torch.full((1, 11, 11), 10.0), torch.zeros(1, 11, 11, dtype=torch.uint8)
    photons[0, 5, 5] = 110.0
    photons[0, 5, 9] = 10_010.0  # a neighbour a hundred times as high
    state[0, :, 8:] = State.OTHER
    photons[0, 0], state[0, 0] = 1e6, State.MISSING
    photons[0, 6, 5], state[0, 6, 5] = 60.0, State.FULL
    seen, log_height = planes(photons, state)
    assert log_height.exp().item() == pytest.approx(100)
    counts, usable, others = seen[0]
    assert counts[5, 5] == 1
    assert counts[5, 4] == 0
    assert counts[6, 5] == 0.5
    assert counts[5, 9] == 3  # no higher
    assert (counts[0] == 0).all()
    assert usable.sum() == 121 - 11 - 1
    assert others.sum() == 3 * 10


def test_a_patch_without_usable_pixels_or_contrast_becomes_zeros() -> None:
    scaled = normalise(torch.full((2, 11, 11), 7.0))
    assert scaled.eq(0).all()
    for state in State:
        seen, log_height = planes(torch.full((2, 11, 11), 7.0), torch.full((2, 11, 11), int(state)))
        assert seen.isfinite().all()
        assert log_height.eq(0).all()
