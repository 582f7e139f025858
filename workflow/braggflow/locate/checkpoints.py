"""Weights of networks: those in the package, and files.

torch is imported by the functions that need it: asking which network a run would use does not load it.
"""

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.config import LocateConfig
from braggflow.errors import InputError
from braggflow.locate.localiser import NETWORKS, Localiser, compute_device, cpu_kernels
from braggflow.locate.weights_of_network import Weights, weights_from


def shipped_sizes() -> dict[str, tuple[int, ...]]:
    """Patch sizes of the weights in the package, by network."""
    names = [entry.name for entry in _weights_folder().iterdir()]
    matches = [match for name in names if (match := re.fullmatch(r"([a-z]+)_(\d+)\.safetensors", name))]
    return {network: tuple(sorted(int(match[2]) for match in matches if match[1] == network)) for network in NETWORKS}


def network_identity(config: LocateConfig, size: int) -> dict[str, str]:
    """Which network and weights `load_localiser` would use, without loading torch: `name`, `file` (its name), `sha256`.

    Raises `InputError` naming `locate.network` where there are none.
    """
    path = _weights_file(config, size)
    content = _read(path)
    found = {"name": _name(path, content), "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    # torch's answers differ from the compiled ones in their last bits: parts of both do not belong together.
    return found if cpu_kernels() == "compiled" else {**found, "kernels": cpu_kernels()}


def load_localiser(config: LocateConfig, size: int) -> Localiser:
    """Load the network of a configuration, ready for `locate_patches`.

    Parameters
    ----------
    config : LocateConfig
        `network` is compact or braggnn (weights of the package), a .safetensors file of `braggflow train`, or a .pth
        state dict of the published BraggNN code (shapes tell its patch size and dense layers). `device` says where it
        computes.
    size : int
        Pixels on a side of the patches.

    Returns
    -------
    Localiser
        The network with its weights; the process keeps the last few, so that asking again costs nothing.

    Raises
    ------
    InputError
        Naming `locate.network` where there are no weights for this size, or the file cannot be read or holds no network
        known here; naming `locate.device` for a device that is not there.

    Examples
    --------
    >>> from braggflow.config import LocateConfig
    >>> from braggflow.locate import load_localiser
    >>> localiser = load_localiser(LocateConfig(network="braggnn", device="cpu"), 11)
    >>> localiser.name, localiser.size, localiser.file
    ('braggnn', 11, 'braggnn_11.safetensors')
    """
    path = _weights_file(config, size)
    return _loaded(path, _stamp(path), compute_device(config.device), size)


@lru_cache(maxsize=4)
def _loaded(path: Path, stamp: tuple[int, ...], place: str, size: int) -> Localiser:  # noqa: ARG001
    """The weights file of this `stamp`, kept by the process: each of a run's tasks asks for the same one."""
    content = _read(path)
    name = _name(path, content)
    weights = _build(path, name, _state(path, content))
    if weights.size != size:
        raise InputError(
            f"locate.network: {path} is for patches of size {weights.size}, patches.size is {size}; "
            f"set patches.size={weights.size} or give weights for {size}"
        )
    return Localiser(name, size, path.name, hashlib.sha256(content).hexdigest(), place, weights)


def _weights_folder() -> Path:
    folder = resources.files("braggflow.locate") / "weights"
    assert isinstance(folder, Path)  # the package is never imported from an archive: numba needs its files
    return folder


def _weights_file(config: LocateConfig, size: int) -> Path:
    name = config.network
    if name not in NETWORKS:
        return Path(name)
    sizes = shipped_sizes()
    if size not in sizes[name]:
        have = "; ".join(f"{network} {', '.join(map(str, sizes[network])) or 'none'}" for network in NETWORKS)
        raise InputError(
            f"locate.network: {name}, but its weights are not shipped for patches.size {size} (shipped: {have}); "
            "choose one of these sizes, or give the file made by: braggflow train"
        )
    return _weights_folder() / f"{name}_{size}.safetensors"


def _refuse(path: Path, found: str) -> InputError:
    return InputError(
        f"locate.network: {path} {found}; must be {', '.join(NETWORKS)}, none, "
        "a .safetensors file of braggflow train, or a .pth state dict of BraggNN"
    )


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with the file."""
    if path.suffix not in (".safetensors", ".pth"):
        raise _refuse(path, "is of no known kind")
    try:
        found = path.stat()
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror})") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> bytes:
    _stamp(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror})") from error


def _name(path: Path, content: bytes) -> str:
    """The network that a weights file is for; a .pth file can only be the published BraggNN."""
    if path.suffix == ".pth":
        return "braggnn"
    import safetensors
    import safetensors.numpy

    try:
        keys = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _refuse(path, f"is no safetensors file ({error})") from error
    if "nlb.theta_layer.weight" in keys:
        return "braggnn"
    if "convolutions.0.weight" in keys:
        return "compact"
    raise _refuse(path, f"holds no network known here (tensors: {_some(keys)})")


def _state(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    if path.suffix == ".safetensors":
        import safetensors.numpy

        return safetensors.numpy.load(content)
    import io

    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"locate.network: {path} is read by torch, which cannot be imported ({error}); install it (pip install "
            f"torch), or give {', '.join(NETWORKS)} or a .safetensors file"
        ) from error
    try:
        # Before version 1.6 PyTorch wrote bare pickles; torch's reader of these fails in too many ways to be let in.
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if content[:2] == b"PK" else None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _refuse(path, "cannot be read as a PyTorch state dict") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _refuse(path, "is no PyTorch state dict of tensors")
    return {key: value.float().numpy() for key, value in state.items()}


def _build(path: Path, name: str, state: Mapping[str, NDArray[Any]]) -> Weights:
    """The network whose shape the tensors tell, holding them."""
    try:
        weights = weights_from(name, state)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _refuse(path, f"does not fit a {name} network (tensors: {_some(state)})") from error
    if wrong := [key for key, tensor in weights.tensors.items() if not np.isfinite(tensor).all()]:
        raise _refuse(path, f"holds weights that are no finite numbers (tensors: {_some(wrong)})")
    return weights


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "") or "none"
