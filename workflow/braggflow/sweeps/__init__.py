"""How the peaks of a series depend on `minval`, `minscore` and `false_peaks`, and which setting lies on the plateau."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.sweeps.outcome import Sweep
    from braggflow.sweeps.sweeping import sweep

__all__ = ["Sweep", "sweep"]

_MODULES = {"Sweep": "outcome", "sweep": "sweeping"}


def __getattr__(name: str) -> Any:
    # Loaded when first used, as all that it needs of the chain of stages and of matplotlib.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
