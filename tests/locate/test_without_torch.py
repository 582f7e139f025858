"""Networks on a CPU need no torch: each test in a process of its own, with real weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from braggflow.locate import NETWORKS, Compact
from braggflow.locate.cpu import compiled_network
from braggflow.locate.networks import BraggNN, network_from
from braggflow.locate.weights_of_network import weights_of

#: Peaks of a frame, placed by a network, saved.
SEARCH = """
import sys
{first}
import numpy as np
import braggflow
y, x = np.mgrid[:64, :64]
frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
peaks = braggflow.find_peaks(frame, config={{"locate": {{"network": sys.argv[1], "device": "{device}"}}}})
np.save(sys.argv[2], np.stack([peaks["y_network"].values, peaks["x_network"].values]))
print("torch" in sys.modules and sys.modules["torch"] is not None)
"""
WITHOUT = "sys.modules['torch'] = None"


def searched(network: str | Path, file: Path, *, first: str = "", device: str = "auto") -> str:
    run = subprocess.run(
        [sys.executable, "-c", SEARCH.format(first=first, device=device), str(network), str(file)],
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() if run.returncode == 0 else run.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("network", NETWORKS)
def test_where_torch_cannot_be_imported_networks_give_the_same_positions(network: str, tmp_path: Path) -> None:
    assert searched(network, tmp_path / "without.npy", first=WITHOUT) == "False"
    assert searched(network, tmp_path / "with.npy", first="import torch", device="cpu") == "True"
    without, with_torch = np.load(tmp_path / "without.npy"), np.load(tmp_path / "with.npy")
    assert without.shape == (2, 1)
    assert without.tobytes() == with_torch.tobytes()


def test_a_machine_without_a_gpu_never_imports_torch(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert searched("compact", tmp_path / "peaks.npy") == "False"


def test_a_gpu_that_torch_would_have_to_find_is_not_there_without_it(tmp_path: Path) -> None:
    said = searched("compact", tmp_path / "peaks.npy", first=WITHOUT, device="cuda")
    assert "locate.device: cuda is not there (CUDA devices: 0); must be auto, cpu" in said


def test_a_file_that_torch_must_read_is_refused_without_it(tmp_path: Path) -> None:
    torch.save(BraggNN().state_dict(), tmp_path / "network.pth")
    said = searched(tmp_path / "network.pth", tmp_path / "peaks.npy", first=WITHOUT)
    assert "locate.network: " in said
    assert "is read by torch, which cannot be imported" in said
    assert "install it (pip install torch), or give braggnn, compact or a .safetensors file" in said


def test_kernels_of_torch_are_refused_without_it(tmp_path: Path) -> None:
    first = WITHOUT + "; import os; os.environ['BRAGGFLOW_KERNELS'] = 'torch'"
    said = searched("compact", tmp_path / "peaks.npy", first=first)
    assert "BRAGGFLOW_KERNELS: is torch, which cannot be imported" in said


@pytest.mark.parametrize("model", [Compact(9), Compact(15, 16, 32), BraggNN(11), BraggNN(13, (8, 4))])
def test_the_numbers_of_a_network_make_the_same_network(model: torch.nn.Module) -> None:
    weights = weights_of(model)
    again = network_from(weights)
    assert [tuple(tensor.shape) for tensor in again.state_dict().values()] == [
        tuple(tensor.shape) for tensor in model.state_dict().values()
    ]
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    patches = np.random.default_rng(0).poisson(9, (3, weights.size, weights.size)).astype(np.float32)
    state = np.zeros(patches.shape, np.uint8)
    first, second = (compiled_network(of)(patches, state, 1.0) for of in (weights, weights_of(again)))
    assert first.tobytes() == second.tobytes()
