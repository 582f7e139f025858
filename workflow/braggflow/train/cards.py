"""Weights and their cards on disk: how a network was made, and how good it is."""

import json
import platform
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from braggflow.errors import InputError
from braggflow.evaluate import card_figures
from braggflow.files import write_atomic
from braggflow.locate import BraggNN, Localiser, Network, compute_device
from braggflow.train.settings import TrainConfig, TrainResult
from braggflow.version import __version__


def config_of_card(card: Path) -> TrainConfig:
    """The configuration that a card (.json) says a network was trained with; raises `InputError` where it says none."""
    try:
        settings = json.loads(card.read_text(encoding="utf-8"))["configuration"]
        if "scenes" in settings:  # as version 0.1.0 called it
            settings["simulation"] = settings.pop("scenes")
            settings["simulation"]["counts_per_photon"] = settings["simulation"].pop("gain")
        return TrainConfig.model_validate(settings)
    except OSError as error:
        raise InputError(f"--card {card}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"--card {card}: is no card of a network that was trained from scratch") from error


def check_weights_path(out: Path) -> None:
    """Raise `InputError` where no weights can be written to `out`."""
    if out.suffix != ".safetensors":
        raise InputError(f"out: {out} must end in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"out: folder {out.parent} does not exist")


def card_of(config: TrainConfig, model: Network, result: TrainResult, peaks: int) -> dict[str, Any]:
    """The card of a network: how it was made, and how good it is, on so many peaks of each class (0: not measured)."""
    options = ", ".join(f"{name}={value!r}" for name, value in config.model_dump(exclude_defaults=True).items())
    device = compute_device(config.device, key="device")
    card = {
        "network": config.network,
        "size": config.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "made_by": f"braggflow.train.train(TrainConfig({options}), out)",
        "code_version": __version__,
        "configuration": config.model_dump(mode="json"),
        "steps": result.steps,
        "patches_seen": result.steps * config.batch,
        "validation_loss": result.validation,
        "seconds": round(result.seconds),
        "hardware": f"{platform.machine()}, {config.threads} CPU thread(s)" if device == "cpu" else "one CUDA GPU",
    }
    return card | ({"evaluation": evaluated(model, peaks)} if peaks else {})


def evaluated(model: Network, n: int) -> dict[str, Any]:
    """How good a network on the CPU is, on `n` peaks of each class: `evaluate.card_figures`."""
    name = "braggnn" if isinstance(model, BraggNN) else "compact"
    ready = deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return card_figures(Localiser(name, model.size, "", "", "cpu", ready), n=n)


def save_weights(out: Path, model: Network, card: dict[str, Any]) -> dict[str, Any]:
    """Write a network as safetensors, its card in the file's metadata (key braggflow, JSON) and in .json beside it.

    Returns the card with the `sha256` of the weights file.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # How long it took is no part of the weights: the same training shall give the same file.
    lasting = {name: value for name, value in card.items() if name not in ("seconds", "hardware")}
    # One key: safetensors writes several in random order.
    content = safetensors.torch.save(tensors, {"braggflow": json.dumps(lasting)})
    write_atomic(out, content)
    beside = card | {"sha256": sha256(content).hexdigest()}
    write_atomic(out.with_suffix(".json"), (json.dumps(beside, indent=2) + "\n").encode())
    return beside
