"""Networks that place a peak in its patch to sub-pixel: weights, compiled CPU kernels, GPU.

The networks themselves need torch, and are loaded when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from braggflow.locate.checkpoints import load_localiser, network_identity, shipped_sizes
from braggflow.locate.localiser import (
    IN_DOMAIN,
    NETWORKS,
    Localiser,
    Located,
    compute_device,
    cuda_device_name,
    locate_patches,
)
from braggflow.locate.photon_limit import least_std

if TYPE_CHECKING:
    from braggflow.locate.networks import BraggNN, Compact, Network, NetworkOutput

__all__ = [
    "IN_DOMAIN",
    "NETWORKS",
    "BraggNN",
    "Compact",
    "Localiser",
    "Located",
    "Network",
    "NetworkOutput",
    "compute_device",
    "cuda_device_name",
    "least_std",
    "load_localiser",
    "locate_patches",
    "network_identity",
    "shipped_sizes",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from braggflow.locate import networks

    return getattr(networks, name)
