"""Fits on a GPU: those of the CPU, to a small share of their errors, whatever the batch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from braggflow.config import FitConfig
from braggflow.errors import InputError
from braggflow.fit import fit_patches, patch_fits
from braggflow.simulate import CLASSES, SimulatedPatches, limit_of_patches, simulate_patches

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

#: Of a pair of patches, fitted by numba's simulator of CUDA.
SIMULATED = """
import numpy as np
from braggflow.config import FitConfig
from braggflow.fit import alone, gpu, patch_fits
from braggflow.simulate import CLASSES, simulate_patches

gpu.BATCH = 2
patch_fits.compute_device = lambda wanted, key: wanted
for model in ("gaussian", "pseudo_voigt"):
    drawn = simulate_patches(5, rng=np.random.default_rng(3), config=CLASSES["sampled"])
    drawn.state[1, 0, 0] = 2  # saturated: left to the CPU
    drawn.maxima[2, 0] = (4, 4)  # a neighbour: likewise
    there, here = (
        patch_fits.fit_patches(drawn.counts, drawn.state, drawn.maxima, FitConfig(model=model, device=device))
        for device in ("cuda", "cpu")
    )
    assert there[1:3].tobytes() == here[1:3].tobytes()
    for name in there.dtype.names:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-4, atol=1e-4, err_msg=name)
"""
#: A frame of three peaks, through the stages.
STAGES = """
import numpy as np
from braggflow.config import RunConfig
from braggflow.fit import gpu, patch_fits
from braggflow.frames import frames_from_array, open_series
from braggflow.pipeline import complete_peaks, locate_peaks, on_cpu, search_chunk, stages

gpu.BATCH = 2
patch_fits.compute_device = stages.compute_device = lambda wanted, key: wanted
y, x = np.mgrid[:64, :64]
mean = 4 + sum(300 * np.exp(-((y - v) ** 2 + (x - u) ** 2) / 3) for v, u in ((15.2, 20), (40, 12.4), (50, 50)))
frames = frames_from_array(np.random.default_rng(1).poisson(mean[None]).astype(np.uint16))
config = RunConfig.model_validate({"fit": {"device": "cuda"}, "locate": {"network": "none"}})
opened = open_series(frames, config)
found = [search_chunk(opened, 0, 1)]
answer = locate_peaks(opened.config, found)
assert answer.notes == {"fitted_on_gpu": 3}, answer.notes
here_alone = on_cpu(opened.config)
there, seconds = complete_peaks(opened.config, found, answer)
here, _ = complete_peaks(here_alone, found, locate_peaks(here_alone, found))
assert set(seconds) >= {"locate", "fit", "fit_on_gpu"}
assert len(there) == 3
for name in ("y", "x", "y_std", "amplitude", "intensity_std", "fwhm_major_std", "chi2", "flags"):
    np.testing.assert_allclose(there[name], here[name], rtol=1e-4, atol=1e-4, err_msg=name)
"""


def drawn(kind: str, n: int = 4000, size: int = 11) -> SimulatedPatches:
    return simulate_patches(n, rng=np.random.default_rng(5), config=CLASSES[kind], size=size)


def fitted(patches: SimulatedPatches, device: str, model: str = "gaussian", **options: object) -> NDArray[np.void]:
    config = FitConfig.model_validate({"model": model, "device": device, **options})
    return fit_patches(patches.counts, patches.state, patches.maxima, config)


def shares(there: NDArray[np.void], here: NDArray[np.void]) -> NDArray[np.float64]:
    """Differences of positions in standard errors, where both converged."""
    both = there["converged"] & here["converged"]
    return np.maximum(*(np.abs(there[c] - here[c])[both] / here[f"{c}_std"][both] for c in "yx"))


@pytest.mark.parametrize("script", [SIMULATED, STAGES], ids=["patches", "stages"])
def test_the_kernel_does_what_the_cpu_does_in_the_simulator_of_cuda(script: str) -> None:
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cpu_fits_and_a_gpu_that_is_asked_for_is_refused() -> None:
    patches = drawn("sampled", 50)
    assert fitted(patches, "auto").tobytes() == fitted(patches, "cpu").tobytes()
    with pytest.raises(InputError, match=r"fit\.device: cuda is not there \(CUDA devices: 0\); must be auto, cpu"):
        fitted(patches, "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_numba_cannot_use_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_fits, "compute_device", lambda wanted, **_: wanted)  # as if torch saw one
    with pytest.raises(InputError, match=r"fit\.device: cuda:1, .*pip install 'braggflow\[gpu\]', or set it to cpu"):
        fitted(drawn("sampled", 1), "cuda:1")


@cuda
@pytest.mark.parametrize("model", ["gaussian", "pseudo_voigt"])
@pytest.mark.parametrize("kind", CLASSES)
def test_positions_are_the_cpus(kind: str, model: str) -> None:
    patches = drawn(kind)
    there, here = fitted(patches, "cuda", model), fitted(patches, "cpu", model)
    assert np.mean(there["converged"] == here["converged"]) > 0.999
    off = shares(there, here)
    assert off.max() < 0.01
    assert np.quantile(off, 0.999) < 1e-3
    both = there["converged"] & here["converged"]
    for name in (
        "y_std",
        "amplitude",
        "background",
        "fwhm_major",
        "fwhm_minor_std",
        "counts_std",
        "chi2",
        "misfit",
        "halo",
    ):
        middle = np.median(np.abs(there[name] - here[name])[both & np.isfinite(here[name])])
        assert middle < 1e-4 * np.nanmedian(np.abs(here[name])), name


@cuda
@pytest.mark.parametrize("kind", ["sampled", "sharp", "broad", "elongated", "pseudo_voigt"])
def test_positions_are_at_the_limit(kind: str) -> None:
    patches = drawn(kind, 20_000)
    found = fitted(patches, "cuda", "pseudo_voigt" if kind == "pseudo_voigt" else "gaussian")
    error = np.stack([found["y"], found["x"]], axis=1) - patches.position
    clipped = np.nan_to_num(np.minimum(np.abs(error), 2), nan=2)
    assert np.sqrt(np.mean(clipped**2) / np.mean(limit_of_patches(patches) ** 2)) < 1.07


@cuda
def test_a_fit_does_not_depend_on_the_others_and_is_the_same_twice() -> None:
    patches = drawn("sampled")
    whole, again = fitted(patches, "cuda"), fitted(patches, "cuda")
    assert whole.tobytes() == again.tobytes()
    order = np.random.default_rng(1).permutation(len(patches.counts))[:777]
    part = fit_patches(patches.counts[order], patches.state[order], patches.maxima[order], FitConfig(device="cuda"))
    assert part.tobytes() == whole[order].tobytes()


@cuda
@pytest.mark.parametrize("size", [9, 15])
def test_other_sizes_gain_noise_and_likelihood(size: int) -> None:
    patches = drawn("sampled", 500, size)
    for options, noise in (
        ({}, {"counts_per_photon": 2.5, "read_noise": 3.0}),
        ({"likelihood": "least_squares"}, {}),
        ({"max_iterations": 2}, {}),
    ):
        there, here = (
            fit_patches(
                patches.counts,
                patches.state,
                patches.maxima,
                FitConfig.model_validate({"device": device, **options}),
                **noise,
            )
            for device in ("cuda", "cpu")
        )
        assert np.mean(there["converged"] == here["converged"]) > 0.99
        assert not here["converged"].any() or shares(there, here).max() < 0.01


@cuda
def test_no_patches_are_no_fits() -> None:
    assert len(fitted(drawn("sampled", 1), "cuda")[:0]) == 0
    empty = np.empty((0, 11, 11), np.float32)
    assert (
        len(fit_patches(empty, empty.astype(np.uint8), np.empty((0, 3, 2), np.float32), FitConfig(device="cuda"))) == 0
    )
