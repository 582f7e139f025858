"""Pictures of frames and peaks, the report, the movie."""

from braggflow.show.movie import write_movie
from braggflow.show.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, WIDTH
from braggflow.show.report import write_report

__all__ = ["BLACK", "BLUE", "GREEN", "ORANGE", "PURPLE", "VERMILLION", "WIDTH", "write_movie", "write_report"]
