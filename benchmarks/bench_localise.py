"""Patches per second on one core, and error over the limit by class, of every network, with ratios to upstream's form.

The reference is BraggNN as its published code runs it: eager, batches of 256, attention between 32-channel embeddings.
With BRAGGFLOW_REAL_DATA set, the accuracy of the upstream checkpoint is printed beside ours.

    python benchmarks/bench_localise.py [SECONDS PER NETWORK]
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from braggflow import localise, synthetic, train
from braggflow.config import LocaliseConfig
from braggflow.models import BraggNN, normalise

REFERENCE = "BraggNN, published form"
REFERENCE_BATCH = 256


def published_form(model: BraggNN, counts: np.ndarray) -> np.ndarray:
    """(x, y) of patches (n, 11, 11), each batch through the network's layers one by one."""
    results = []
    with torch.no_grad():
        for start in range(0, len(counts), REFERENCE_BATCH):
            patches, _ = normalise(torch.from_numpy(counts[start : start + REFERENCE_BATCH]))
            features = model.cnn_layers[0](patches)
            theta, phi, g = (
                layer(features).flatten(2) for layer in (model.nlb.theta_layer, model.nlb.phi_layer, model.nlb.g_layer)
            )
            attention = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
            attended = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(len(features), 32, *features.shape[2:])
            features = features + model.nlb.out_cnn(attended)
            results.append(model.dense_layers(model.cnn_layers[1:](features).flatten(1)) * model.size)
    return torch.cat(results).numpy()


def best_times(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Shortest time of each call; they take turns for `seconds` each, for other work on the machine only slows."""
    best = dict.fromkeys(calls, np.inf)
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    counts, _ = synthetic.simulate_patches(8 * REFERENCE_BATCH, rng=np.random.default_rng(0))
    ours = {
        f"{name}_{size}": localise.load(LocaliseConfig(method=name, device="cpu"), size)
        for name, sizes in localise.shipped().items()
        for size in sizes
    }
    braggnn = ours["braggnn_11"].model
    calls: dict[str, Callable[[], object]] = {REFERENCE: lambda: published_form(braggnn, counts)}
    for name, localiser in ours.items():
        patches, _ = synthetic.simulate_patches(len(counts), rng=np.random.default_rng(0), size=localiser.size)
        calls[name] = lambda one=localiser, of=patches: localise.locate(one, of)
    times = best_times(calls, seconds)
    print(f"{'one CPU core':<28}{'patches/s':>10}{'ratio':>8}")
    for name, best in times.items():
        print(f"{name:<28}{len(counts) / best:>10.0f}{times[REFERENCE] / best:>8.2f}")
    same = np.abs(localise.locate(ours["braggnn_11"], counts)[0][:, ::-1] - published_form(braggnn, counts)).max()
    print(f"largest difference of braggnn_11 from the published form: {same:.1e} px")

    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if folder:
        checkpoint = Path(folder) / "braggnn_upstream" / "fc16_8_4_2-sz11.pth"
        ours["upstream"] = localise.load(LocaliseConfig(checkpoint=str(checkpoint), device="cpu"), 11)
    print("\nRMS error (clipped at 2 px) over the Cramér–Rao limit's; median error in pixels")
    print(f"{'':<12}" + "".join(f"{kind:>16}" for kind in synthetic.CLASSES))
    for name, localiser in ours.items():
        figures = train.evaluate(localiser, n=5000)
        cells = (f"{one['rms_over_limit']:.2f}; {one['median']:.3f}" for one in figures.values())
        print(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
