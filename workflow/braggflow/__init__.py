"""Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from braggflow.version import __version__

if TYPE_CHECKING:
    from braggflow.cluster import Profile, load_profile
    from braggflow.config import RunConfig, load_config
    from braggflow.convert import ingest
    from braggflow.errors import InputError
    from braggflow.exchange import TableComparison, compare, import_peaks
    from braggflow.explain import Explanation, explain
    from braggflow.flow import Outcome, Outcomes, Progress, run
    from braggflow.frames import open_frames
    from braggflow.geometry import Geometry, add_q, add_rings, strain
    from braggflow.masks import DrawnMask, load_mask, save_mask
    from braggflow.peak_rows import to_dataframe
    from braggflow.pipeline import find_peaks  # that of flow is the same, and takes Dask arrays too
    from braggflow.results import Provenance, Run, join_log, open_peaks, open_run, open_tracks, provenance
    from braggflow.show import Preview, plot_frame, plot_q, plot_track, plot_tracks, plot_waterfall, preview
    from braggflow.sweeps import Sweep, sweep
    from braggflow.tracks import track
    from braggflow.view import View, view

__all__ = [
    "DrawnMask",
    "Explanation",
    "Geometry",
    "InputError",
    "Outcome",
    "Outcomes",
    "Preview",
    "Profile",
    "Progress",
    "Provenance",
    "Run",
    "RunConfig",
    "Sweep",
    "TableComparison",
    "View",
    "__version__",
    "add_q",
    "add_rings",
    "compare",
    "explain",
    "find_peaks",
    "import_peaks",
    "ingest",
    "join_log",
    "load_config",
    "load_mask",
    "load_profile",
    "open_frames",
    "open_peaks",
    "open_run",
    "open_tracks",
    "plot_frame",
    "plot_q",
    "plot_track",
    "plot_tracks",
    "plot_waterfall",
    "preview",
    "provenance",
    "run",
    "save_mask",
    "strain",
    "sweep",
    "to_dataframe",
    "track",
    "view",
]

_WINGS = {
    "DrawnMask": "masks",
    "Explanation": "explain",
    "Geometry": "geometry",
    "InputError": "errors",
    "Outcome": "flow",
    "Outcomes": "flow",
    "Preview": "show",
    "Profile": "cluster",
    "Progress": "flow",
    "Provenance": "results",
    "Run": "results",
    "RunConfig": "config",
    "TableComparison": "exchange",
    "View": "view",
    "add_q": "geometry",
    "add_rings": "geometry",
    "compare": "exchange",
    "explain": "explain",
    "Sweep": "sweeps",
    "find_peaks": "flow",
    "import_peaks": "exchange",
    "ingest": "convert",
    "join_log": "results",
    "load_config": "config",
    "load_mask": "masks",
    "load_profile": "cluster",
    "open_frames": "frames",
    "open_peaks": "results",
    "open_run": "results",
    "open_tracks": "results",
    "plot_frame": "show",
    "plot_track": "show",
    "plot_tracks": "show",
    "plot_waterfall": "show",
    "plot_q": "show",
    "preview": "show",
    "provenance": "results",
    "run": "flow",
    "save_mask": "masks",
    "sweep": "sweeps",
    "strain": "geometry",
    "to_dataframe": "peak_rows",
    "track": "tracks",
    "view": "view",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import braggflow` (and the command line's help) stays quick.
    if name not in _WINGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WINGS[name]}"), name)


class _Face(ModuleType):
    """The package, of which a name in `__all__` stays what it is where a wing bears the same: `braggflow.explain`."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Python makes a wing an attribute of the package once it is imported.
        if not (name in _WINGS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __dir__() -> list[str]:
    return sorted(__all__)
