"""Pictures of frames and peaks, the report, the movie, and how well positions repeat."""

from braggflow.show.drawing import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH
from braggflow.show.frame_pictures import frame_figure, plot_frame
from braggflow.show.movie import write_movie
from braggflow.show.repeatability import repeatability
from braggflow.show.report import write_report

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "VERMILLION",
    "WIDTH",
    "frame_figure",
    "plot_frame",
    "repeatability",
    "write_movie",
    "write_report",
]
