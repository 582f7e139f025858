"""Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated."""

from typing import TYPE_CHECKING, Any

from braggflow.version import __version__

if TYPE_CHECKING:
    from braggflow.cluster import Profile, load_profile
    from braggflow.config import RunConfig, load_config
    from braggflow.convert import ingest
    from braggflow.errors import InputError
    from braggflow.flow import Outcome, Outcomes, Progress, run
    from braggflow.frames import open_frames
    from braggflow.peak_rows import to_dataframe
    from braggflow.pipeline import find_peaks
    from braggflow.results import Provenance, Run, open_peaks, open_run, provenance
    from braggflow.show import Preview, plot_frame, preview

__all__ = [
    "InputError",
    "Outcome",
    "Outcomes",
    "Preview",
    "Profile",
    "Progress",
    "Provenance",
    "Run",
    "RunConfig",
    "__version__",
    "find_peaks",
    "ingest",
    "load_config",
    "load_profile",
    "open_frames",
    "open_peaks",
    "open_run",
    "plot_frame",
    "preview",
    "provenance",
    "run",
    "to_dataframe",
]

_WINGS = {
    "InputError": "errors",
    "Outcome": "flow",
    "Outcomes": "flow",
    "Preview": "show",
    "Profile": "cluster",
    "Progress": "flow",
    "Provenance": "results",
    "Run": "results",
    "RunConfig": "config",
    "find_peaks": "pipeline",
    "ingest": "convert",
    "load_config": "config",
    "load_profile": "cluster",
    "open_frames": "frames",
    "open_peaks": "results",
    "open_run": "results",
    "plot_frame": "show",
    "preview": "show",
    "provenance": "results",
    "run": "flow",
    "to_dataframe": "peak_rows",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import braggflow` (and the command line's help) stays quick.
    if name not in _WINGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WINGS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
