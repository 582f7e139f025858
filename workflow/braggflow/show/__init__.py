"""Pictures of frames and peaks, a look at one frame, the report, the movie, and how well positions repeat."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braggflow.show.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, TRACK_COLOURS, VERMILLION
    from braggflow.show.comparison_picture import plot_comparison
    from braggflow.show.drawing import WIDTH, NotebookFigure, add_image, axes_at
    from braggflow.show.frame_pictures import frame_figure, plot_frame
    from braggflow.show.live import LiveState, write_live_page
    from braggflow.show.movie import write_movie
    from braggflow.show.of_tracks.all_tracks import plot_tracks
    from braggflow.show.of_tracks.one_reflection import plot_series, show_frame
    from braggflow.show.of_tracks.one_track import plot_track
    from braggflow.show.of_tracks.trails import Trails
    from braggflow.show.of_tracks.waterfall import plot_waterfall
    from braggflow.show.plots import plot_q
    from braggflow.show.previewing import Preview, preview
    from braggflow.show.report import (
        halves_of_patches,
        repeatability,
        single_profiles,
        write_batch_report,
        write_report,
    )
    from braggflow.show.run_figures import (
        plot_all_peaks,
        plot_disagreement,
        plot_disagreement_of_frames,
        plot_examples,
        plot_located,
        plot_maxima,
        plot_peaks_per_frame,
        plot_projections,
        plot_ranked,
        plot_removed_and_flagged,
        plot_searched,
        plot_widths,
    )

#: The names of each module.
_NAMES = {
    "colours": ("BLACK", "BLUE", "GREEN", "ORANGE", "PURPLE", "TRACK_COLOURS", "VERMILLION"),
    "comparison_picture": ("plot_comparison",),
    "drawing": ("WIDTH", "NotebookFigure", "add_image", "axes_at"),
    "frame_pictures": ("frame_figure", "plot_frame"),
    "live": ("LiveState", "write_live_page"),
    "movie": ("write_movie",),
    "of_tracks.all_tracks": ("plot_tracks",),
    "of_tracks.one_reflection": ("plot_series", "show_frame"),
    "of_tracks.one_track": ("plot_track",),
    "of_tracks.trails": ("Trails",),
    "of_tracks.waterfall": ("plot_waterfall",),
    "plots": ("plot_q",),
    "previewing": ("Preview", "preview"),
    "report": ("halves_of_patches", "repeatability", "single_profiles", "write_batch_report", "write_report"),
    "run_figures": (
        *("plot_all_peaks", "plot_disagreement", "plot_disagreement_of_frames", "plot_examples", "plot_located"),
        *("plot_maxima", "plot_peaks_per_frame", "plot_projections", "plot_ranked", "plot_removed_and_flagged"),
        *("plot_searched", "plot_widths"),
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "TRACK_COLOURS",
    "VERMILLION",
    "WIDTH",
    "LiveState",
    "NotebookFigure",
    "Preview",
    "Trails",
    "add_image",
    "axes_at",
    "frame_figure",
    "halves_of_patches",
    "plot_all_peaks",
    "plot_comparison",
    "plot_disagreement",
    "plot_disagreement_of_frames",
    "plot_examples",
    "plot_frame",
    "plot_located",
    "plot_maxima",
    "plot_peaks_per_frame",
    "plot_projections",
    "plot_q",
    "plot_ranked",
    "plot_removed_and_flagged",
    "plot_searched",
    "plot_series",
    "plot_track",
    "plot_tracks",
    "plot_waterfall",
    "plot_widths",
    "preview",
    "repeatability",
    "show_frame",
    "single_profiles",
    "write_batch_report",
    "write_live_page",
    "write_movie",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: matplotlib takes half a second, and neither a frame's table nor the page needs it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
