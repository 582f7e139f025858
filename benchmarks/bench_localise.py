"""Patches per second on one core, and error over the limit by class, of every network, the fit and the centroid.

The reference is BraggNN as its published code runs it: eager, batches of 256, attention between 32-channel embeddings.
With BRAGGFLOW_REAL_DATA set, the upstream checkpoint is measured beside ours.

    python benchmarks/bench_localise.py [SECONDS PER METHOD]
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from braggflow import evaluate, localise, methods, scenes
from braggflow.config import LocaliseConfig
from braggflow.models import BraggNN, normalise

REFERENCE = "BraggNN, published form"
REFERENCE_BATCH = 256
SIZE = 11
PEAKS = 5000


def published_form(model: BraggNN, counts: np.ndarray) -> np.ndarray:
    """(y, x) of patches (n, 11, 11), each batch through the network's layers one by one."""
    results = []
    with torch.no_grad():
        for start in range(0, len(counts), REFERENCE_BATCH):
            patches = normalise(torch.from_numpy(counts[start : start + REFERENCE_BATCH]))
            features = model.cnn_layers[0](patches)
            theta, phi, g = (
                layer(features).flatten(2) for layer in (model.nlb.theta_layer, model.nlb.phi_layer, model.nlb.g_layer)
            )
            attention = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
            attended = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(len(features), 32, *features.shape[2:])
            features = features + model.nlb.out_cnn(attended)
            results.append(model.dense_layers(model.cnn_layers[1:](features).flatten(1)) * model.size)
    return torch.cat(results).numpy()[:, ::-1]


def best_times(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Least work of each call, in a core's seconds; they take turns for `seconds` each, for other work only slows."""
    for call in calls.values():  # compiles, where that is needed
        call()
    best = dict.fromkeys(calls, np.inf)
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    return best


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    drawn = scenes.simulate(8 * REFERENCE_BATCH, rng=np.random.default_rng(0), config=scenes.CLASSES["sampled"])
    on_cpu = LocaliseConfig(device="cpu")
    chosen = methods.select((), (), on_cpu, size=SIZE)
    (braggnn,) = methods.select(("braggnn",), (), on_cpu, size=SIZE)
    assert braggnn.localiser is not None
    model = braggnn.localiser.model
    calls = {REFERENCE: partial(published_form, model, drawn.counts)}
    calls |= {method.name: partial(method.locate, drawn) for method in chosen}
    times = best_times(calls, seconds)
    print(f"{'one CPU core':<28}{'patches/s':>10}{'ratio':>8}")
    for name, best in times.items():
        print(f"{name:<28}{len(drawn) / best:>10.0f}{times[REFERENCE] / best:>8.2f}")
    same = np.abs(braggnn.locate(drawn).positions - published_form(model, drawn.counts)).max()
    print(f"largest difference of braggnn from the published form: {same:.1e} px")

    if folder := os.environ.get("BRAGGFLOW_REAL_DATA"):
        checkpoint = f"{folder}/braggnn_upstream/fc16_8_4_2-sz11.pth"
        upstream = localise.load(LocaliseConfig(checkpoint=checkpoint, device="cpu"), SIZE)
        chosen.append(methods.network("upstream", upstream))
    print(f"\nRMS error (clipped at {evaluate.CLIP:g} px) over the Cramér–Rao limit's; median error in pixels")
    print(f"{'':<14}" + "".join(f"{method.name:>20}" for method in chosen))
    for kind in (*scenes.CLASSES, evaluate.STUDY):
        _, figures = evaluate.on_class(kind, chosen, n=PEAKS)
        cells = (f"{one.rms_over_limit:.2f}; {one.median:.3f}" for one in figures.values())
        print(f"{kind:<14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
