"""Train a network on simulated peaks, measure it against the limit of what the photons allow, save it with its card."""

import io
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

import braggflow
from braggflow import localise, synthetic
from braggflow.config import InputError, LocaliseConfig, Section
from braggflow.localise import Localiser
from braggflow.models import BraggNN, Compact, Network

#: Errors are counted up to this many pixels: beyond it a position is lost, however far.
CLIP = 2.0
_REPORT_STEPS = 100
_STATE_SECONDS = 60.0


class TrainConfig(Section):
    """How a network is trained; the same configuration and number of threads give the same weights, bit for bit."""

    network: Literal["braggnn", "compact"] = Field("compact", description="which network")
    size: Literal[9, 11, 13, 15] = Field(11, description="pixels on a side of a patch")
    steps: int = Field(40_000, ge=1, description="batches seen")
    seconds: float | None = Field(None, gt=0, description="stop after this time instead (the result then varies)")
    batch: int = Field(256, ge=2, description="patches a step")
    seed: int = Field(0, ge=0, description="of the first weights and of every simulated patch")
    learning_rate: float = Field(2e-3, gt=0, description="at the end of the warm-up; falls to 0 as a cosine")
    warm_up: int = Field(200, ge=0, description="steps over which the learning rate rises")
    threads: int = Field(1, ge=1, description="CPU threads")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    read_noise: float = Field(5.0, ge=0, description="largest Gaussian noise of the detector, counts")
    noisy_share: float = Field(0.25, ge=0, le=1, description="share of patches with such noise")
    cut_off_share: float = Field(0.1, ge=0, le=1, description="share with low pixels set to 0, as HEDM detectors do")
    missing_share: float = Field(0.03, ge=0, le=1, description="share with missing pixels, filled as patches.py does")
    evaluation: int = Field(20_000, ge=100, description="peaks of each class that the card's figures come from")


class Progress(NamedTuple):
    """Where a training stands."""

    step: int
    fraction: float
    """Of the steps, or of the seconds."""
    loss: float
    """Mean since the last report."""
    patches_per_second: float


def train(
    config: TrainConfig, out: Path, *, resume: bool = False, progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Train a network, write its weights to `out` (.safetensors) and its card (.json) beside it; return the card.

    The state is kept in `out` with suffix .state while training; with `resume` an interrupted training goes on from
    there, to the same result. Raises `InputError` where `out` or the state do not fit.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"out: {out} must end in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"out: folder {out.parent} does not exist")
    device = localise.device(config.device, key="device")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        seconds, steps, loss = _train(config, out, device, resume, progress)
        card = describe(config, out, device=device, seconds=seconds, steps=steps, loss=loss)
    finally:
        torch.set_num_threads(threads)
    _write(out.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    out.with_suffix(".state").unlink(missing_ok=True)
    return card


def describe(config: TrainConfig, out: Path, *, device: str, seconds: float, steps: int, loss: float) -> dict[str, Any]:
    """The card of the weights in `out`: how they were made, and how good they are now."""
    localiser = localise.load(LocaliseConfig(checkpoint=str(out), device=device), config.size)
    options = ", ".join(f"{name}={value!r}" for name, value in config.model_dump(exclude_defaults=True).items())
    return {
        "network": config.network,
        "size": config.size,
        "parameters": sum(parameter.numel() for parameter in localiser.model.parameters()),
        "sha256": localiser.sha256,
        "made_by": f"braggflow.train.train(TrainConfig({options}), Path({out.name!r}))",
        "code_version": braggflow.__version__,
        "configuration": config.model_dump(mode="json"),
        "data": data_parameters(),
        "steps": steps,
        "patches_seen": steps * config.batch,
        "loss": loss,
        "seconds": round(seconds),
        "hardware": f"{platform.machine()}, {config.threads} CPU thread(s)" if device == "cpu" else "one CUDA GPU",
        "evaluation": evaluate(localiser, n=config.evaluation),
    }


def data_parameters() -> dict[str, Any]:
    """The distribution that training peaks are drawn from, as plain data."""
    mixed = {
        name: list(value) if isinstance(value, tuple) else value for name, value in synthetic.MIXED._asdict().items()
    }
    return {"MIXED": mixed, "MAX_SIGMA_MAJOR": synthetic.MAX_SIGMA_MAJOR}


def _train(
    config: TrainConfig, out: Path, device: str, resume: bool, progress: Callable[[Progress], None] | None
) -> tuple[float, int, float]:
    """The loop: (seconds, steps done, last mean loss); the weights are in `out`."""
    model = _fresh(config).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0)
    step, spent, loss = 0, 0.0, math.nan
    state_file = out.with_suffix(".state")
    if resume and state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["config"] != config.model_dump(mode="json"):
            raise InputError(f"resume: {state_file} is of a training with other settings; remove it to start afresh")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["seconds"]
    saved = reported = time.perf_counter()
    start = saved - spent
    losses: list[Tensor] = []
    while (fraction := _fraction(config, step, time.perf_counter() - start)) < 1:
        rate = (
            config.learning_rate
            * min(1.0, (step + 1) / (config.warm_up + 1))
            * 0.5
            * (1 + math.cos(math.pi * fraction))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        counts, profiles = batch(config, step)
        value = loss_of(model, torch.from_numpy(counts).to(device), profiles)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        losses.append(value.detach())
        step += 1
        now = time.perf_counter()
        if step % _REPORT_STEPS == 0:
            loss = float(torch.stack(losses).mean())
            if progress is not None:
                progress(Progress(step, fraction, loss, len(losses) * config.batch / (now - reported)))
            losses, reported = [], now
        if now - saved > _STATE_SECONDS and step % _REPORT_STEPS == 0:
            _save_state(state_file, config, model, optimiser, step, now - start)
            saved = now
    if losses:
        loss = float(torch.stack(losses).mean())
    save_weights(out, model, config, steps=step, loss=loss)
    return time.perf_counter() - start, step, loss


def _fraction(config: TrainConfig, step: int, seconds: float) -> float:
    return step / config.steps if config.seconds is None else seconds / config.seconds


def _fresh(config: TrainConfig) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: Network = BraggNN(config.size) if config.network == "braggnn" else Compact(config.size)
        if isinstance(model, BraggNN):
            # Its last layers are 4, 2 and 2 units wide: one that starts on the flat side of its activation loses a
            # coordinate for thousands of steps. Begin with all of them on the linear side, half-way across the patch.
            for layer in model.dense_layers:
                if isinstance(layer, torch.nn.Linear):
                    torch.nn.init.orthogonal_(layer.weight)
                    torch.nn.init.constant_(layer.bias, 0.5)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stubs lack it


def loss_of(model: Network, counts: Tensor, profiles: synthetic.Profiles) -> Tensor:
    """The loss on patches (n, s, s) with their true profiles.

    Negative log likelihood of a normal error with the predicted standard error, linear beyond 3 of them: a few hopeless
    patches shall not rule the others. BraggNN predicts none: the absolute error (squared where below 1), in units of
    what the photons allow (Thompson, Larson & Webb 2002, Biophys. J. 82, 2775, eq. 14) and 0.01 px, lest the brightest
    peaks rule.
    """
    centre = (counts.shape[-1] - 1) / 2
    truth = torch.from_numpy(np.stack([profiles["y"] - centre, profiles["x"] - centre], 1).astype(np.float32))
    offsets, errors = model.locate(counts)
    difference = offsets - truth.to(counts.device)
    if isinstance(model, Compact):
        scaled = difference / errors
        return functional.huber_loss(scaled, torch.zeros_like(scaled), delta=3.0) + errors.log().mean()
    variance = profiles["sigma_major"] * profiles["sigma_minor"]
    total = 2 * np.pi * profiles["height"] * variance
    unit = np.sqrt(variance / total + 8 * np.pi * variance**2 * profiles["background"] / total**2 + 0.01**2)
    scaled = difference / torch.from_numpy(unit.astype(np.float32)).to(counts.device)[:, None]
    return functional.smooth_l1_loss(scaled, torch.zeros_like(scaled))


def batch(config: TrainConfig, step: int) -> tuple[NDArray[np.float32], synthetic.Profiles]:
    """The patches of one step, (batch, size, size) counts, and their true profiles; `seed` and `step` decide them."""
    rng = np.random.default_rng([config.seed, step])
    counts, profiles = synthetic.simulate_patches(config.batch, rng=rng, size=config.size)
    noisy = rng.random(len(counts)) < config.noisy_share
    noise = rng.uniform(0, config.read_noise, (noisy.sum(), 1, 1))
    counts[noisy] += noise * rng.standard_normal((noisy.sum(), *counts.shape[1:]), np.float32)
    cut = rng.random(len(counts)) < config.cut_off_share
    counts[cut] = cut_off(counts[cut], rng)
    partial = rng.random(len(counts)) < config.missing_share
    counts[partial] = fill(counts[partial], missing_pixels(partial.sum(), config.size, rng))
    return counts, profiles


def cut_off(counts: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Patches with the pixels below a level, at most 0.3 of each patch's range, set to 0."""
    low, high = counts.min((1, 2), keepdims=True), counts.max((1, 2), keepdims=True)
    level = low + rng.uniform(0, 0.3, low.shape) * (high - low)
    return np.where(counts < level, np.float32(0), counts)


def missing_pixels(n: int, size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which pixels of n patches are missing, (n, size, size): beyond a line, in a band, or dead; never the centre.

    Half of the lines are along an axis (a frame's edge, a module gap), the others any way (the side of a neighbour).
    """
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    angle = np.where(rng.random((n, 1, 1)) < 0.5, np.round(angle / (np.pi / 2)) * (np.pi / 2), angle)
    distance = y * np.sin(angle) + x * np.cos(angle)
    near = rng.uniform(1.5, half, (n, 1, 1))
    width = np.where(rng.random((n, 1, 1)) < 0.3, rng.integers(1, 4, (n, 1, 1)), np.inf)
    missing = (distance > near) & (distance <= near + width)
    dead = (rng.random((n, 1, 1)) < 0.2) & (rng.random(missing.shape) < 0.02)
    dead[:, half, half] = False
    return np.asarray(missing | dead)


def fill(counts: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Patches with missing pixels filled as `patches.cut` does: by their mirror image through the centre, or the level.

    The level is the median of the border pixels that are there. Both are (n, size, size).
    """
    border = np.ones(counts.shape[1:], bool)
    border[1:-1, 1:-1] = False
    level = np.nanmedian(np.where(missing[:, border], np.float32(np.nan), counts[:, border]), axis=1)
    mirrored = np.where(missing[:, ::-1, ::-1], level[:, None, None], counts[:, ::-1, ::-1])
    return np.where(missing, mirrored, counts)


def evaluate(localiser: Localiser, *, n: int = 20_000, seed: int = 1) -> dict[str, dict[str, float]]:
    """How good a network is, for each class of `synthetic.CLASSES`, on `n` peaks of it; distances in pixels.

    `rms_over_limit` is the RMS distance from the truth (distances clipped at `CLIP`) over the Cramér–Rao limit's RMS
    for the same peaks, `limit` that RMS, `median` the median distance, `bias_y` and `bias_x` the mean error,
    `phase_bias` the largest mean error along either axis in 10 steps of the position within the pixel, `within_1_std`
    and `within_2_std` the share of errors below 1 and 2 predicted standard errors (absent where none are predicted; a
    normal error has 0.683 and 0.954).
    """
    result = {}
    for k, kind in enumerate(synthetic.CLASSES):
        rng = np.random.default_rng([seed, k, 1])
        counts, profiles = synthetic.simulate_patches(n, rng=rng, kind=kind, size=localiser.size)
        limit = np.minimum(np.hypot(*synthetic.cramer_rao(profiles, size=localiser.size).T), CLIP)
        truth = np.stack([profiles["y"], profiles["x"]], axis=1)
        positions, deviations = localise.locate(localiser, counts)
        result[kind] = _figures(positions, deviations, truth, limit)
    return result


def _figures(
    positions: NDArray[np.float64],
    deviations: NDArray[np.float32],
    truth: NDArray[np.float64],
    limit: NDArray[np.float64],
) -> dict[str, float]:
    error = positions - truth
    distance = np.minimum(np.hypot(*error.T), CLIP)
    error = np.clip(error, -CLIP, CLIP)
    phase = (np.floor((truth % 1) * 10)).astype(int)
    by_phase = [
        np.bincount(phase[:, a], error[:, a], 10) / np.maximum(np.bincount(phase[:, a], minlength=10), 1)
        for a in (0, 1)
    ]
    figures = {
        "rms_over_limit": _rms(distance) / _rms(limit),
        "limit": _rms(limit),
        "median": float(np.median(distance)),
        "bias_y": float(error[:, 0].mean()),
        "bias_x": float(error[:, 1].mean()),
        "phase_bias": float(np.abs(by_phase).max()),
    }
    if np.isfinite(deviations).all():
        figures |= {f"within_{k}_std": float((np.abs(error) < k * deviations).mean()) for k in (1, 2)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def save_weights(out: Path, model: Network, config: TrainConfig, *, steps: int, loss: float) -> None:
    """Write a network as safetensors, with what it was trained on in the file's metadata (key braggflow, JSON)."""
    metadata = {
        "configuration": config.model_dump(mode="json"),
        "data": data_parameters(),
        "steps": steps,
        "loss": loss,
        "code_version": braggflow.__version__,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One key: safetensors writes several in random order, and the same training shall give the same file.
    _write(out, safetensors.torch.save(tensors, {"braggflow": json.dumps(metadata)}))


def _save_state(
    path: Path, config: TrainConfig, model: Network, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {
        "config": config.model_dump(mode="json"),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.wip")
    partial.write_bytes(content)
    partial.replace(path)
