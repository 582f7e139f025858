"""Both networks: how torch computes them, how exactly, and how fast patches come through from memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
import torch
from measuring import Device, share
from torch.utils.flop_counter import FlopCounterMode

from braggflow.config import LocateConfig
from braggflow.locate import NETWORKS, Localiser, load_localiser, locate_patches
from braggflow.simulate import CLASSES, SimulatedPatches, simulate_patches

SIZE = 11
Call: TypeAlias = Callable[[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]
_references: dict[tuple[str, str], tuple[SimulatedPatches, np.ndarray]] = {}
#: Classes of which accuracy is told.
TOLD = ("sampled", "sharp", "broad", "faint", "pseudo_voigt")


@contextmanager
def exactly(*, tf32: bool = False, fastest: bool = False) -> Iterator[None]:
    """cuDNN and cuBLAS with TF32 or not; deterministic, or whatever is the fastest here."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=not fastest, benchmark=fastest, allow_tf32=tf32)
    try:
        with flags, torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def localiser_of(name: str, device: Device) -> Localiser:
    return load_localiser(LocateConfig(network=name, device="cuda" if device.cuda else "cpu"), SIZE)


def answer_of(model: Any) -> Call:
    def call(patch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        said = model.locate(*patch)
        return torch.cat([said.offsets.float(), said.errors.float(), said.domain.float()[:, None]], 1)

    return call


def variants(model: Any, device: Device) -> Iterator[tuple[str, Call, AbstractContextManager[Any]]]:
    """Ways to compute a network: name, call, and what the call runs within."""
    kind = device.torch.type
    plain = deepcopy(model).to(device.torch, memory_format=torch.contiguous_format)
    last = deepcopy(model).to(device.torch, memory_format=torch.channels_last)
    yield "float32", answer_of(plain), exactly()
    if not device.cuda:
        return
    yield "float32, channels last", answer_of(last), exactly()
    yield "float32, fastest convolution", answer_of(last), exactly(fastest=True)
    yield "TF32, channels last", answer_of(last), exactly(tf32=True)
    for dtype in (torch.bfloat16, torch.float16):
        call = answer_of(last)

        def cast(patch: Any, call: Call = call, dtype: torch.dtype = dtype) -> torch.Tensor:
            with torch.autocast(kind, dtype):
                return call(patch)

        yield f"{str(dtype).rpartition('.')[2]} by autocast, channels last", cast, exactly()


def flop_of(model: Any) -> float:
    """Floating point operations a patch, of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.locate(torch.rand(64, SIZE, SIZE), torch.zeros(64, SIZE, SIZE, dtype=torch.uint8))
    return counter.get_total_flops() / 64


def on_device(device: Device) -> list[dict[str, Any]]:
    """Patches/s of each way to compute a network, and how it compares with the CPU's kernels."""
    drawn = device.drawn()
    rows = []
    for name in NETWORKS:
        localiser = localiser_of(name, device)
        sets, flop = device.there(drawn.counts, drawn.state), flop_of(localiser.model)
        for variant, call, within in variants(localiser.model, device):
            with within:
                rows.append(row_of(name, variant, call, device, sets, flop, localiser))
    return rows


def row_of(
    name: str, variant: str, call: Call, device: Device, sets: Any, flop: float, localiser: Localiser
) -> dict[str, Any]:
    try:
        rate = len(sets[0][0]) / device.seconds(call, sets)
    except RuntimeError as error:
        return {"network": name, "computed": variant, "error": str(error)[:200]}
    ceiling = "TF32" if "TF32" in variant else "bfloat16" if "16" in variant else "float32"
    return {
        "network": name,
        "computed": variant,
        "million_patches_per_s": rate / 1e6,
        "TFLOP_per_s": rate * flop / 1e12,
        "share_of_matrix_product": share(rate * flop, device.ceilings.get(ceiling)),
        **accuracy(call, device, localiser),
    }


def accuracy(call: Call, device: Device, localiser: Localiser) -> dict[str, Any]:
    """Median error over that of float32 on the CPU; whether bits are the same twice, in any place and any batch."""
    n = 64 if device.quick else 4096
    worst, error, reference_error = 0.0, 0.0, 0.0
    for kind in TOLD[: 1 if device.quick else None]:
        drawn, reference = reference_of(localiser, kind, n)
        here = call(tuple(torch.from_numpy(a).to(device.torch) for a in (drawn.counts, drawn.state)))  # type: ignore[arg-type]
        found = here[:, :2].float().cpu().numpy() + SIZE // 2
        worst = max(worst, float(np.abs(found - reference).max()))
        error += float(np.median(np.hypot(*(found - drawn.position).T)))
        reference_error += float(np.median(np.hypot(*(reference - drawn.position).T)))
    counts, state = (torch.from_numpy(a).to(device.torch) for a in (drawn.counts, drawn.state))
    one, again = call((counts, state)), call((counts, state))
    moved = torch.cat([call((counts[k : k + n // 4], state[k : k + n // 4])) for k in range(0, n, n // 4)])
    rolled = call((counts.roll(77, 0), state.roll(77, 0))).roll(-77, 0)
    return {
        "error_to_float32_on_CPU": error / reference_error,
        "largest_difference_px": worst,
        "same_bits_twice": bool(same(one, again)),
        "in_any_place": bool(same(one, rolled)),
        "in_any_batch": bool(same(one, moved)),
    }


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def reference_of(localiser: Localiser, kind: str, n: int) -> tuple[SimulatedPatches, np.ndarray]:
    """n patches of a class and their positions by torch on the CPU, which need not wait for the CPU's kernels."""
    key = (localiser.name, kind)
    if key not in _references:
        drawn = simulate_patches(n, rng=np.random.default_rng(9), config=CLASSES[kind])
        with torch.inference_mode():
            said = localiser.model.locate(torch.from_numpy(drawn.counts), torch.from_numpy(drawn.state))
        _references[key] = drawn, said.offsets.numpy() + SIZE // 2
    return _references[key]


def from_memory(device: Device) -> list[dict[str, Any]]:
    """Patches/s of `locate_patches`: from arrays in memory to positions in memory."""
    drawn, rows = device.drawn(), []
    counts, state = (np.concatenate([array] * (1 if device.quick else 4)) for array in (drawn.counts, drawn.state))
    for name in NETWORKS:
        localiser = localiser_of(name, device)
        for batch in (256,) if device.quick else (4096, 16384, 65536):
            seconds = device.wall_seconds(
                lambda localiser=localiser, batch=batch: locate_patches(localiser, counts, state, batch_size=batch)
            )
            rate, length = len(counts) / seconds, SIZE**2 * (3 if name == "compact" else 2)
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "million_patches_per_s": rate / 1e6,
                    "share_of_bus": share(rate * length, device.ceilings.get("bus")),
                    "notes": " ".join(locate_patches(localiser, counts[:batch], state[:batch], batch_size=batch).notes),
                }
            )
    return rows


def compiled(device: Device) -> list[dict[str, Any]]:
    """torch.compile of what the networks compute."""
    if not device.cuda:
        return []
    drawn, rows = device.drawn(), []
    for name in NETWORKS:
        localiser = localiser_of(name, device)
        model = deepcopy(localiser.model).to(device.torch, memory_format=torch.channels_last)
        sets, flop = device.there(drawn.counts, drawn.state), flop_of(localiser.model)
        for variant, dtype in (("float32, torch.compile", None), ("bfloat16, torch.compile", torch.bfloat16)):
            if device.is_late():
                break
            made = torch.compile(answer_of(model), dynamic=False)
            casting = torch.autocast("cuda", dtype) if dtype is not None else nullcontext()
            begin = time.perf_counter()
            with exactly(), casting:
                made(sets[0])
                row = {"network": name, "computed": variant, "compiling_s": time.perf_counter() - begin}
                row["million_patches_per_s"] = len(drawn) / device.seconds(made, sets) / 1e6
                row["TFLOP_per_s"] = row["million_patches_per_s"] * flop / 1e6
            rows.append(row)
    return rows
