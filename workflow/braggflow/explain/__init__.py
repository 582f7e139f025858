"""Why there is a peak at a place of a frame, or none: what each stage of the chain saw there and decided."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.explain.explaining import explain, explain_in, explain_place
    from braggflow.explain.explanation import Explanation
    from braggflow.explain.findings import Maximum
    from braggflow.explain.found_frame import FoundFrame, find_in_frame

__all__ = ["Explanation", "FoundFrame", "Maximum", "explain", "explain_in", "explain_place", "find_in_frame"]

_MODULES = {
    "Explanation": "explanation",
    "FoundFrame": "found_frame",
    "Maximum": "findings",
    "explain": "explaining",
    "explain_in": "explaining",
    "explain_place": "explaining",
    "find_in_frame": "found_frame",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: kernels take a second to load.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
