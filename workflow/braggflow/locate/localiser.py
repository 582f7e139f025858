"""Sub-pixel positions of peaks from their patches, by a network on a CPU or a GPU."""

import ctypes
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braggflow import patches
from braggflow.errors import InputError
from braggflow.locate.weights_of_network import Weights, weights_of
from braggflow.peak_table import Method

if TYPE_CHECKING:
    from braggflow.locate.cpu import Kernel
    from braggflow.locate.gpu import OnDevice
    from braggflow.locate.networks import Network


logger = logging.getLogger(__name__)

NETWORKS = ("braggnn", "compact")
#: A patch with a lower `Located.domain` is out of the network's domain.
IN_DOMAIN = 0.5


@dataclass(frozen=True)
class Localiser:
    """A network with its weights, and where to compute it. The weights must stay as they are."""

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
    network: "Network | Weights"
    """On the CPU, whatever the device: in torch, or its weights alone."""

    @cached_property
    def model(self) -> "Network":
        """The network in torch, on the CPU."""
        if not isinstance(self.network, Weights):
            return self.network
        from braggflow.locate.networks import network_from

        return network_from(self.network)

    @cached_property
    def kernel(self) -> "Kernel":
        """The network for the CPU: compiled, or by torch where `cpu_kernels` says so."""
        if cpu_kernels() == "torch":
            try:
                from braggflow.locate.torch_cpu import torch_network
            except ImportError as error:
                raise InputError(
                    f"BRAGGFLOW_KERNELS: is torch, which cannot be imported ({error}); unset it, or install torch"
                ) from error

            return torch_network(self.model)
        from braggflow.locate.cpu import compiled_network

        return compiled_network(self.network if isinstance(self.network, Weights) else weights_of(self.network))

    @cached_property
    def on_device(self) -> "OnDevice":
        """The network on its device, which is no CPU."""
        from braggflow.locate.gpu import OnDevice

        return OnDevice(self.model, self.device)


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
    halved; `patches_moved_to_cpu`, how many of the patches were located on the CPU, since no batch fitted. And
    `cuda_graph_not_captured`, 1 where the network is slower for that."""


def cpu_kernels() -> str:
    """How networks are computed on a CPU: compiled, or torch where the environment's BRAGGFLOW_KERNELS is that.

    Raises `InputError` for another value.
    """
    chosen = os.environ.get("BRAGGFLOW_KERNELS") or "compiled"
    if chosen not in ("compiled", "torch"):
        raise InputError(f"BRAGGFLOW_KERNELS: {chosen!r} is not accepted; must be compiled or torch")
    return chosen


def locate_patches(
    localiser: Localiser,
    counts: NDArray[np.float32],
    state: NDArray[np.uint8],
    *,
    counts_per_photon: float = 1.0,
    batch_size: int = 4096,
) -> Located:
    """Place the peaks of n patches to sub-pixel with a network.

    Parameters
    ----------
    localiser : Localiser
        The network, as `load_localiser` returns it.
    counts : numpy.ndarray of float32
        Shape (n, size, size), axes (peak, y, x): the patches, counts.
    state : numpy.ndarray of uint8
        Shape (n, size, size), a `patches.State` each.
    counts_per_photon : float, default 1.0
        Counts of one photon.
    batch_size : int, default 4096
        Patches at once on a GPU, the last batch filled up. On a GPU that runs out of memory it is halved, down to
        `gpu.SMALLEST_BATCH`; if not even that fits, the CPU does the rest. The next call tries `batch_size` again:
        memory may be free by then.

    Returns
    -------
    Located
        Positions (n, 2) as (y, x) in pixels of the patch, their standard uncertainties, whether each patch is of the
        kind the network was made for; and in `notes` what a GPU that ran out of memory led to.

    Raises
    ------
    InputError
        For patches of another size than the network's, and where the environment's BRAGGFLOW_KERNELS is neither
        compiled nor torch.

    Notes
    -----
    On a CPU one thread computes, and a patch's result is the same bits whatever its companions and its place.

    References
    ----------
    The network `braggnn`: Z. Liu et al., IUCrJ 9, 104 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.config import LocateConfig
    >>> from braggflow.locate import load_localiser, locate_patches
    >>> y, x = np.mgrid[:11, :11]
    >>> counts = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 5.3) ** 2 + (x - 4.8) ** 2) / 3), (1, 11, 11))
    >>> state = np.zeros(counts.shape, np.uint8)  # every pixel is the peak's own
    >>> located = locate_patches(load_localiser(LocateConfig(device="cpu"), 11), counts.astype(np.float32), state)
    >>> located.positions.round(1)
    array([[5.3, 4.8]])
    """
    size = localiser.size
    if counts.ndim != 3 or counts.shape[1:] != (size, size):
        raise InputError(f"patches of shape {counts.shape} given to a network for (n, {size}, {size})")
    if state.shape != counts.shape:
        raise InputError(f"states of shape {state.shape} given with patches of shape {counts.shape}")
    if localiser.name == "braggnn":  # it needs a full square
        counts = patches.filled(counts, state)
    counts, state = np.ascontiguousarray(counts, np.float32), np.ascontiguousarray(state, np.uint8)
    answers = np.empty((len(counts), 5), np.float32)
    done, notes = 0, dict[str, int]()
    if localiser.device != "cpu":
        done, notes = localiser.on_device.locate(counts, state, counts_per_photon, batch_size, answers)
    if done < len(counts):
        answers[done:] = localiser.kernel(counts[done:], state[done:], counts_per_photon)
    positions = answers[:, :2] + np.float64((size - 1) / 2)
    return Located(Method[localiser.name], positions, answers[:, 2:4].copy(), answers[:, 4].copy(), notes)


def compute_device(wanted: str, *, key: str = "locate.device") -> str:
    """Where to compute: cpu, cuda or cuda:N. Raises `InputError` naming `key` for a device that is not there.

    torch is imported only on a machine that may have a GPU; where it cannot be imported, there is none.
    """
    if wanted == "cpu":
        return wanted
    count = _gpus()
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if int(wanted.partition(":")[2] or 0) >= count:
        offered = ["auto", "cpu", *(f"cuda:{number}" for number in range(count))]
        raise InputError(f"{key}: {wanted} is not there (CUDA devices: {count}); must be {', '.join(offered)}")
    return wanted


def cuda_device_name() -> str:
    """Name of the GPU that torch would use; "" where it sees none."""
    if not _gpus():
        return ""
    import torch

    return torch.cuda.get_device_name()


def _gpus() -> int:
    """Number of GPUs that torch sees. Importing it takes 2 s: it is asked only where there may be one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not _is_driver_there():
        return 0
    try:
        import torch
    except ImportError as error:
        _say_once(str(error))
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@cache
def _is_driver_there() -> bool:
    """Whether this machine has the driver of a GPU that torch may compute on: CUDA's, or AMD's."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError):
            ctypes.CDLL(library)
            return True
    return Path("/dev/kfd").exists()


@cache
def _say_once(reason: str) -> None:
    logger.warning("torch cannot be imported (%s): networks are computed on the CPU", reason)
