"""Sub-pixel positions of peaks from their patches, by a network.

torch is imported by the functions that need it: asking which network a run would use does not load it.
"""

import hashlib
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from braggflow import patches
from braggflow.config import InputError, LocaliseConfig
from braggflow.peaks import Method

if TYPE_CHECKING:
    import torch

    from braggflow.models import Network

NETWORKS = ("braggnn", "compact")
#: Patches that go through a network at once on a CPU, always: with one shape (the last batch is padded) a patch's
#: result is the same bits whatever its companions, its place and the number of threads. More gave no more speed.
CPU_BATCH = 128
#: A GPU that cannot hold this many patches at once leaves them to the CPU.
SMALLEST_GPU_BATCH = 64
#: A lack of GPU memory in errors that are no `torch.OutOfMemoryError`: of CUDA itself (as on a GPU that others have
#: filled), cuBLAS and cuDNN.
_GPU_IS_FULL = re.compile("CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
#: A patch with a lower `Located.domain` is out of the network's domain.
IN_DOMAIN = 0.5


@dataclass(frozen=True, slots=True)
class Localiser:
    """A network with its weights, and where to compute it."""

    name: str
    """braggnn or compact."""
    size: int
    """Pixels on a side of the patches it takes."""
    file: str
    """Name of the weights file."""
    sha256: str
    """Of the weights file."""
    device: str
    """cpu, cuda or cuda:N."""
    model: "Network"
    """On the CPU, whatever the device."""


@dataclass(frozen=True, slots=True)
class Located:
    """A network's answer for n patches."""

    method: Method
    positions: NDArray[np.float64]
    """(n, 2) as (y, x) in pixels of the patch (0 is the first pixel's centre)."""
    std: NDArray[np.float32]
    """(n, 2) standard uncertainties, pixels; NaN from a network that states none."""
    domain: NDArray[np.float32]
    """(n,) probability that the patch is of the kind the network was made for; NaN from a network that states none."""
    notes: dict[str, int] = field(default_factory=dict)
    """What a GPU that ran out of memory led to, empty where none did: `gpu_batch_halved`, how often the batch was
    halved; `patches_moved_to_cpu`, how many of the patches were located on the CPU, since no batch fitted."""


def shipped() -> dict[str, tuple[int, ...]]:
    """Patch sizes of the weights in the package, by network."""
    names = [entry.name for entry in _weights_folder().iterdir()]
    matches = [match for name in names if (match := re.fullmatch(r"([a-z]+)_(\d+)\.safetensors", name))]
    return {network: tuple(sorted(int(match[2]) for match in matches if match[1] == network)) for network in NETWORKS}


def identity(config: LocaliseConfig, size: int) -> dict[str, str]:
    """Which network and weights `load` would use: `name`, `file` (its name) and `sha256`, without loading torch.

    Raises `InputError` naming `localise.checkpoint` where there are none.
    """
    path = _weights_file(config, size)
    content = _read(path)
    return {"name": _name(path, content), "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}


def load(config: LocaliseConfig, size: int) -> Localiser:
    """The network of a configuration, for patches of `size`, ready to `locate`.

    The weights are those shipped, or `localise.checkpoint`: a .safetensors file of `braggflow train`, or a .pth state
    dict of the published BraggNN code (shapes tell its patch size and dense layers).
    Raises `InputError` naming `localise.checkpoint`, `localise.method` or `localise.device`.
    """
    path = _weights_file(config, size)
    content = _read(path)
    name = _name(path, content)
    place = device(config.device)
    model = _build(path, name, _state(path, content))
    if model.size != size:
        raise InputError(
            f"localise.checkpoint: {path} is for patches of size {model.size}, patches.size is {size}; "
            f"set patches.size={model.size} or give weights for {size}"
        )
    if config.method in NETWORKS and config.method != name:
        raise InputError(
            f"localise.checkpoint: {path} holds a {name} network, localise.method is {config.method}; "
            f"must be auto or {name}"
        )
    import torch

    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return Localiser(name, size, path.name, hashlib.sha256(content).hexdigest(), place, model)


def locate(
    localiser: Localiser,
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    *,
    gain: float = 1.0,
    batch_size: int = 4096,
) -> Located:
    """Positions of the peaks in n patches of counts with the states of their pixels, both of shape (n, size, size).

    `gain` is the number of counts per photon. `batch_size` is the number of patches at once on a GPU; on a CPU it is
    `CPU_BATCH`. Every batch has the same shape, so results do not depend on how patches are batched: bit for bit on a
    CPU. On a GPU that runs out of memory the batch is halved, down to `SMALLEST_GPU_BATCH`; if not even that fits, the
    CPU does the rest. `Located.notes` says so. The next call tries `batch_size` again: memory may be free by then.
    Raises `InputError` for patches of another size.
    """
    size = localiser.size
    if counts.ndim != 3 or counts.shape[1:] != (size, size):
        raise InputError(f"patches of shape {counts.shape} given to a network for (n, {size}, {size})")
    if state.shape != counts.shape:
        raise InputError(f"states of shape {state.shape} given with patches of shape {counts.shape}")
    import torch

    n = len(counts)
    if localiser.name == "braggnn":  # it needs a full square
        counts = patches.filled(counts, state)
    located = Located(Method[localiser.name], np.empty((n, 2)), np.empty((n, 2), np.float32), np.empty(n, np.float32))

    def place(model: "Network", device: str, start: int, batch: int) -> int:
        part = slice(start, min(start + batch, n))
        k = part.stop - start
        padded, states = np.zeros((batch, size, size), np.float32), np.zeros((batch, size, size), np.uint8)
        padded[:k], states[:k] = counts[part], state[part]
        # TF32 would keep 10 bits of 23, and the fastest convolution of a cuDNN benchmark is not always the same one.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            photons = torch.from_numpy(padded).to(device) / gain
            answer = model.locate(photons, torch.from_numpy(states).to(device))
            located.positions[part] = answer.offsets[:k].cpu().numpy()
            located.std[part] = answer.errors[:k].cpu().numpy()
            located.domain[part] = answer.domain[:k].sigmoid().cpu().numpy()
        return part.stop

    done = 0 if localiser.device == "cpu" else _on_gpu(localiser, place, n, batch_size, located.notes)
    while done < n:
        done = place(localiser.model, "cpu", done, CPU_BATCH)
    located.positions[:] += (size - 1) / 2
    return located


#: Has a network on a device place the patches from the given one on, a batch of them; returns where the next starts.
_Place: TypeAlias = "Callable[[Network, str, int, int], int]"


def _on_gpu(localiser: Localiser, place: _Place, n: int, batch: int, notes: dict[str, int]) -> int:
    """Place n patches in batches that fit; how many are placed: fewer than n where not even the smallest fits."""
    import torch

    done, model = 0, None
    while done < n:
        try:
            if model is None:
                # A copy: where it does not fit, the one on the CPU is there still.
                model = deepcopy(localiser.model).to(localiser.device)
            done = place(model, localiser.device, done, batch)
            continue
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and not _GPU_IS_FULL.search(str(error)):
                raise
        # After the handler, in which the error's traceback would still hold the tensors of the batch.
        torch.cuda.empty_cache()
        if model is None or batch <= SMALLEST_GPU_BATCH:
            notes["patches_moved_to_cpu"] = n - done
            break
        batch = max(batch // 2, SMALLEST_GPU_BATCH)
        notes["gpu_batch_halved"] = notes.get("gpu_batch_halved", 0) + 1
    return done


def _weights_folder() -> Path:
    folder = resources.files("braggflow") / "weights"
    assert isinstance(folder, Path)  # the package is never imported from an archive: numba needs its files
    return folder


def _weights_file(config: LocaliseConfig, size: int) -> Path:
    if config.checkpoint is not None:
        return Path(config.checkpoint)
    name = "compact" if config.method == "auto" else config.method
    if name not in NETWORKS:
        raise InputError(f"localise.method: {name} is no network; accepted: auto, {', '.join(NETWORKS)}")
    sizes = shipped()
    if size not in sizes[name]:
        have = "; ".join(f"{network} {', '.join(map(str, sizes[network])) or 'none'}" for network in NETWORKS)
        raise InputError(
            f"localise.checkpoint: null, but no {name} weights are shipped for patches.size {size} (shipped: {have}); "
            "choose one of these sizes, or give the file made by: braggflow train"
        )
    return _weights_folder() / f"{name}_{size}.safetensors"


def _refuse(path: Path, found: str) -> InputError:
    return InputError(
        f"localise.checkpoint: {path} {found}; "
        "must be a .safetensors file of braggflow train or a .pth state dict of BraggNN"
    )


def _read(path: Path) -> bytes:
    if path.suffix not in (".safetensors", ".pth"):
        raise _refuse(path, "is of no known kind")
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


def _state(path: Path, content: bytes) -> "dict[str, torch.Tensor]":
    if path.suffix == ".safetensors":
        import safetensors.torch

        return safetensors.torch.load(content)
    import io

    import torch

    try:
        # Before version 1.6 PyTorch wrote bare pickles; torch's reader of these fails in too many ways to be let in.
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if content[:2] == b"PK" else None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _refuse(path, "cannot be read as a PyTorch state dict") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _refuse(path, "is no PyTorch state dict of tensors")
    return state


def _build(path: Path, name: str, state: "Mapping[str, torch.Tensor]") -> "Network":
    """The network whose shape the tensors tell, holding them."""
    from braggflow.models import BraggNN, Compact

    try:
        if name == "braggnn":
            dense = [
                state[f"dense_layers.{k}.weight"].shape
                for k in range(0, 2 * len(state), 2)
                if f"dense_layers.{k}.weight" in state
            ]
            model: Network = BraggNN(6 + isqrt(dense[0][1] // 8), tuple(shape[0] for shape in dense[:-1]))
        else:
            channels, narrow = state["convolutions.0.weight"].shape[0], state["convolutions.6.weight"].shape[0]
            hidden, width = state["hidden.weight"].shape
            model = Compact(6 + isqrt((width - 1) // narrow), channels, hidden)
        model.load_state_dict(dict(state))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise _refuse(path, f"does not fit a {name} network (tensors: {_some(state)})") from error
    return model


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "") or "none"


def device(wanted: str, *, key: str = "localise.device") -> str:
    """Where to compute: cpu, cuda or cuda:N. Raises `InputError` naming `key` for a device that is not there."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= count:
        offered = ["auto", "cpu", *(f"cuda:{number}" for number in range(count))]
        raise InputError(f"{key}: {wanted} is not there (CUDA devices: {count}); must be {', '.join(offered)}")
    return wanted
