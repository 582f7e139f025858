"""Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated."""

from typing import TYPE_CHECKING, Any

from braggflow.version import __version__

if TYPE_CHECKING:
    from braggflow.errors import InputError
    from braggflow.flow import run
    from braggflow.frames import open_frames
    from braggflow.pipeline import find_peaks
    from braggflow.results import open_peaks

__all__ = ["InputError", "__version__", "find_peaks", "open_frames", "open_peaks", "run"]

_HOMES = {
    "InputError": "errors",
    "find_peaks": "pipeline",
    "open_frames": "frames",
    "open_peaks": "results",
    "run": "flow",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import braggflow` (and the command line's help) stays quick.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
