import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow.models import BraggNN, Compact, normalise

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
    counts = torch.rand(3, size, size)
    for model in (BraggNN(size), Compact(size)):
        offsets, errors = model.locate(counts)
        assert offsets.shape == errors.shape == (3, 2)
        assert offsets.isfinite().all()
    assert (errors > 0).all()
    assert BraggNN(size).locate(counts)[1].isnan().all()


def test_braggnn_answers_x_first_and_locate_y_first() -> None:
    model = BraggNN(11)
    counts = torch.rand(5, 11, 11)
    answer = model(normalise(counts)[0])
    offsets, _ = model.locate(counts)
    torch.testing.assert_close(offsets, torch.stack([answer[:, 1] * 11 - 5, answer[:, 0] * 11 - 5], 1))


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 1e4), st.floats(-100, 1e4))
@settings(max_examples=50, deadline=None)
def test_normalised_patches_do_not_show_scale_or_offset(seed: int, scale: float, offset: float) -> None:
    counts = np.random.default_rng(seed).uniform(0, 100, (4, 9, 9))
    scaled, log_height = normalise(torch.from_numpy(counts))
    assert scaled.shape == (4, 1, 9, 9)
    assert scaled.amin((1, 2, 3)).eq(0).all()
    assert scaled.amax((1, 2, 3)).eq(1).all()
    other, other_height = normalise(torch.from_numpy(scale * counts + offset))
    torch.testing.assert_close(other, scaled, rtol=0, atol=1e-8)
    torch.testing.assert_close(other_height, log_height + np.log(scale), rtol=0, atol=1e-8)


def test_a_constant_patch_becomes_zeros() -> None:
    scaled, log_height = normalise(torch.full((2, 11, 11), 7.0))
    assert scaled.eq(0).all()
    assert log_height.eq(0).all()
