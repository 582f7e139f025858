"""Patches per second on one core, and error over the limit by class, of every network, the fit and the centroid.

The reference is BraggNN as its published code runs it: eager, batches of 256, attention between 32-channel embeddings.
Then what a GPU could do at most: by its arithmetic and by the bytes that cross the bus, both counted, nothing measured.
With BRAGGFLOW_REAL_DATA set, the upstream checkpoint is measured beside ours.

    python benchmarks/bench_locate.py [SECONDS PER METHOD]
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from braggflow import patches
from braggflow.config import LocateConfig
from braggflow.evaluate import select_estimators
from braggflow.evaluate.estimators import network_estimator
from braggflow.evaluate.evaluation import CLIP, STUDY, on_class
from braggflow.locate import NETWORKS, BraggNN, Localiser, load_localiser, locate_patches
from braggflow.locate.networks import normalise
from braggflow.locate.torch_cpu import torch_network
from braggflow.simulate import CLASSES, PatchSimulation, simulate_patches

REFERENCE = "BraggNN, published form"
REFERENCE_BATCH = 256
SIZE = 11
PEAKS = 5000
ON_CPU = LocateConfig(device="cpu")
#: An H200's data sheet, dense; and what is left of a PCIe 5 x16 link's 63 GB/s in practice.
GPU_FLOP_PER_S = {"float32": 67e12, "bfloat16": 989e12}
BUS_BYTES_PER_S = 55e9


def published_form(model: BraggNN, counts: np.ndarray) -> np.ndarray:
    """(y, x) of patches (n, 11, 11), each batch through the network's layers one by one."""
    results = []
    with torch.no_grad():
        for start in range(0, len(counts), REFERENCE_BATCH):
            features = model.cnn_layers[0](normalise(torch.from_numpy(counts[start : start + REFERENCE_BATCH])))
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


def measure(seconds: float = 3.0) -> list[dict[str, str | float]]:
    """Rows of name, patches_per_s and ratio to the first row's, on one core; `seconds` for each method."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        drawn = simulate_patches(8 * REFERENCE_BATCH, rng=np.random.default_rng(0), config=CLASSES["sampled"])
        chosen = select_estimators((), (), ON_CPU, size=SIZE)
        calls = {REFERENCE: partial(published_form, braggnn().model, drawn.counts)}
        calls |= {method.name: partial(method.locate, drawn) for method in chosen}
        for name in NETWORKS:
            model = load_localiser(ON_CPU.model_copy(update={"network": name}), SIZE).model
            calls[f"{name}, BRAGGFLOW_KERNELS=torch"] = partial(torch_network(model), drawn.counts, drawn.state, 1.0)
        times = best_times(calls, seconds)
    finally:
        torch.set_num_threads(threads)
    return [
        {"name": name, "patches_per_s": len(drawn) / best, "ratio": times[REFERENCE] / best}
        for name, best in times.items()
    ]


def braggnn() -> Localiser:
    return load_localiser(ON_CPU.model_copy(update={"network": "braggnn"}), SIZE)


def differences(n: int) -> dict[str, tuple[float, float]]:
    """Largest and RMS distance, px, of each network's positions from its reference in torch, over all classes.

    The reference is the published form for BraggNN, the module for the other; n patches of each class.
    """
    found: dict[str, list[np.ndarray]] = {}
    for config in (*CLASSES.values(), PatchSimulation()):
        drawn = simulate_patches(n, rng=np.random.default_rng(4), config=config)
        for name in NETWORKS:
            localiser = load_localiser(ON_CPU.model_copy(update={"network": name}), SIZE)
            if name == "braggnn":
                reference = published_form(localiser.model, patches.filled(drawn.counts, drawn.state))
            else:
                with torch.inference_mode():
                    answer = localiser.model.locate(torch.from_numpy(drawn.counts), torch.from_numpy(drawn.state))
                reference = answer.offsets.numpy() + SIZE // 2
            located = locate_patches(localiser, drawn.counts, drawn.state)
            found.setdefault(name, []).append(np.hypot(*(located.positions - reference).T))
    every = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: (one.max(), float(np.sqrt(np.mean(one**2)))) for name, one in every.items()}


def roofline() -> list[dict[str, str | float]]:
    """By network: operations and bytes over the bus for a patch, and the patches/s that a GPU's limits allow.

    Operations are the floating point ones of convolutions, matrix products and dense layers, as torch counts them in
    what runs on a GPU. A patch crosses the bus as 16-bit counts, for `compact` with 8-bit states; 5 float32 come back.
    """
    rows: list[dict[str, str | float]] = []
    for name in NETWORKS:
        model = load_localiser(ON_CPU.model_copy(update={"network": name}), SIZE).model
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.locate(torch.rand(64, SIZE, SIZE), torch.zeros(64, SIZE, SIZE, dtype=torch.uint8))
        flop = counter.get_total_flops() / 64
        there = SIZE**2 * (3 if name == "compact" else 2)
        limits = {kind: rate / flop for kind, rate in GPU_FLOP_PER_S.items()}
        rows.append({"name": name, "flop": flop, "bytes": there + 20, **limits, "bus": BUS_BYTES_PER_S / there})
    return rows


def main(seconds: float) -> None:
    print(f"{'one CPU core':<28}{'patches/s':>10}{'ratio':>8}")
    for row in measure(seconds):
        print(f"{row['name']:<28}{row['patches_per_s']:>10.0f}{row['ratio']:>8.2f}")
    for name, (largest, rms) in differences(PEAKS).items():
        print(f"{name}: positions differ from float32 in torch by {largest:.1e} px at most, RMS {rms:.1e} px")

    print(
        "\nGPU, by arithmetic only: millions of patches/s at most (H200: its data sheet; bus: PCIe 5 x16 in practice)"
    )
    print(f"{'':<14}{'FLOP':>10}{'bytes':>8}{'float32':>10}{'bfloat16':>10}{'bus':>8}")
    for row in roofline():
        allowed = "".join(
            f"{row[kind] / 1e6:>{width}.0f}" for kind, width in (("float32", 10), ("bfloat16", 10), ("bus", 8))
        )
        print(f"{row['name']:<14}{row['flop']:>10.0f}{row['bytes']:>8.0f}{allowed}")

    chosen = select_estimators((), (), ON_CPU, size=SIZE)
    if folder := os.environ.get("BRAGGFLOW_REAL_DATA"):
        checkpoint = f"{folder}/braggnn_upstream/fc16_8_4_2-sz11.pth"
        upstream = load_localiser(LocateConfig(network=checkpoint, device="cpu"), SIZE)
        chosen.append(network_estimator("upstream", upstream))
    print(f"\nRMS error (clipped at {CLIP:g} px) over the Cramér–Rao limit's; median error in pixels")
    print(f"{'':<14}" + "".join(f"{method.name:>20}" for method in chosen))
    for kind in (*CLASSES, STUDY):
        _, figures = on_class(kind, chosen, n=PEAKS)
        cells = (f"{one.rms_over_limit:.2f}; {one.median:.3f}" for one in figures.values())
        print(f"{kind:<14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
