"""Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from braggflow.config import InputError
    from braggflow.frames import open_frames
    from braggflow.runs import find_peaks, run
    from braggflow.store import open_peaks

__all__ = ["InputError", "__version__", "find_peaks", "open_frames", "open_peaks", "run"]

_HOMES = {
    "InputError": "config",
    "find_peaks": "runs",
    "open_frames": "frames",
    "open_peaks": "store",
    "run": "runs",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import braggflow` (and the command line's help) stays quick.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
