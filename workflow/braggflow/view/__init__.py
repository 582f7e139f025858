"""A page to look at frames and peaks, to tune settings, to draw masks, and to be told why there is a peak or none."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.view.starting import View, open_in_browser, serve_page, view

__all__ = ["View", "open_in_browser", "serve_page", "view"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: the page's library takes a second.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from braggflow.view import starting

    return getattr(starting, name)
