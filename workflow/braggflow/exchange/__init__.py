"""Tables for and of other programs: a run's peaks written in their formats, their lists read, two tables compared."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.exchange.comparing import compare
    from braggflow.exchange.conventions import CONVENTIONS, FORMATS
    from braggflow.exchange.matches import TableComparison
    from braggflow.exchange.reading import import_peaks, write_imported
    from braggflow.exchange.writing import export_peaks

__all__ = [
    "CONVENTIONS",
    "FORMATS",
    "TableComparison",
    "compare",
    "export_peaks",
    "import_peaks",
    "write_imported",
]

_MODULES = {
    "CONVENTIONS": "conventions",
    "FORMATS": "conventions",
    "TableComparison": "matches",
    "compare": "comparing",
    "export_peaks": "writing",
    "import_peaks": "reading",
    "write_imported": "reading",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: a format's module loads what it needs alone.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
