"""Networks on a CPU by torch: what `cpu` is tested equal to, and the alternative where its kernels cannot be used.

Chosen by the environment variable BRAGGFLOW_KERNELS=torch, and slower (docs/models.md).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from braggflow.locate.networks import Network

Floats: TypeAlias = NDArray[np.float32]

#: Patches at a time, the last batch filled up: torch's answer for a patch may depend on how many it is given.
BATCH = 256


def torch_network(model: Network) -> Callable[[Floats, NDArray[np.uint8], float], Floats]:
    """A network on the CPU as a function of patches (n, s, s), their states and counts per photon; (n, 5) as `Kernel`.

    One thread computes, as in the compiled kernels, and batches have a fixed size: a patch's result is the same bits
    whatever its companions.
    """

    def locate(counts: Floats, state: NDArray[np.uint8], counts_per_photon: float) -> Floats:
        answers = np.empty((len(counts), 5), np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                for start in range(0, len(counts), BATCH):
                    stop = min(start + BATCH, len(counts))
                    photons = torch.from_numpy(_filled_up(counts[start:stop]) / np.float32(counts_per_photon))
                    said = model.locate(photons, torch.from_numpy(_filled_up(state[start:stop])))
                    columns = (said.offsets, said.errors, said.domain.sigmoid()[:, None])
                    answers[start:stop] = torch.cat(columns, dim=1)[: stop - start].numpy()
        finally:
            torch.set_num_threads(threads)
        return answers

    return locate


def _filled_up(patches: NDArray[Any]) -> NDArray[Any]:
    full = np.zeros((BATCH, *patches.shape[1:]), patches.dtype)
    full[: len(patches)] = patches
    return full
