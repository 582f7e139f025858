"""Networks on a GPU: the CPU's answers, to rounding, whatever the batch."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from braggflow.config import LocateConfig
from braggflow.locate import Located, load_localiser, locate_patches
from braggflow.simulate import CLASSES, SimulatedPatches, simulate_patches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
NETWORKS = ["compact", "braggnn"]


def located(patches: SimulatedPatches, network: str, device: str, batch_size: int = 4096) -> Located:
    localiser = load_localiser(LocateConfig(network=network, device=device), 11)
    return locate_patches(localiser, patches.counts, patches.state, batch_size=batch_size)


def numbers(answer: Located) -> NDArray[np.float64]:
    return np.column_stack([answer.positions, answer.std, answer.domain])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", CLASSES)
def test_answers_are_the_cpus(network: str, kind: str) -> None:
    patches = simulate_patches(3000, rng=np.random.default_rng(4), config=CLASSES[kind])
    there, here = located(patches, network, "cuda"), located(patches, network, "cpu")
    assert not there.notes
    np.testing.assert_allclose(there.positions, here.positions, atol=2e-4)
    np.testing.assert_allclose(there.std, here.std, rtol=1e-3)
    np.testing.assert_allclose(there.domain, here.domain, atol=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_answer_does_not_depend_on_the_others_and_is_the_same_twice(network: str) -> None:
    patches = simulate_patches(10_000, rng=np.random.default_rng(4), config=CLASSES["sampled"])
    whole, again = (numbers(located(patches, network, "cuda")) for _ in range(2))
    np.testing.assert_array_equal(whole, again)
    order = np.random.default_rng(1).permutation(10_000)[:5000]
    localiser = load_localiser(LocateConfig(network=network, device="cuda"), 11)
    part = locate_patches(localiser, patches.counts[order], patches.state[order])
    np.testing.assert_array_equal(numbers(part), whole[order])
