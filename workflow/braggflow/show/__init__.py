"""Pictures of frames and peaks, a look at one frame, the report, the movie, and how well positions repeat."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.show.drawing import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH
    from braggflow.show.frame_pictures import frame_figure, plot_frame
    from braggflow.show.halves import repeatability
    from braggflow.show.movie import write_movie
    from braggflow.show.previewing import Preview, preview
    from braggflow.show.report import write_report

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "VERMILLION",
    "WIDTH",
    "Preview",
    "frame_figure",
    "plot_frame",
    "preview",
    "repeatability",
    "write_movie",
    "write_report",
]

_MODULES = {
    "BLACK": "drawing",
    "BLUE": "drawing",
    "GREEN": "drawing",
    "ORANGE": "drawing",
    "PURPLE": "drawing",
    "VERMILLION": "drawing",
    "WIDTH": "drawing",
    "Preview": "previewing",
    "frame_figure": "frame_pictures",
    "plot_frame": "frame_pictures",
    "preview": "previewing",
    "repeatability": "halves",
    "write_movie": "movie",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: matplotlib takes half a second, and a look at a frame's table needs none of it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
