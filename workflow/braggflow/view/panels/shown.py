"""What panels ask of the page that they stand on."""

from pathlib import Path
from typing import Protocol

from bokeh.document import Document

from braggflow.view.frame_plot import FramePlot
from braggflow.view.later import Later
from braggflow.view.viewed import Viewed


class Shown(Protocol):
    """The page, as panels know it."""

    viewed: Viewed
    """By the settings as they are now."""
    base: Viewed
    """By the settings that were begun with."""
    position: int
    """Of the shown frame."""
    folder: Path
    """Where files go that are saved on the page."""
    dark: bool
    document: Document
    plot: FramePlot
    later: Later

    def say(self, text: str) -> None:
        """One line below the panels."""

    def fail(self, text: str) -> None:
        """The same of what was refused."""

    def use(self, viewed: Viewed) -> None:
        """The same series by other settings."""

    def redraw(self) -> None:
        """Send what the window shows, once for all that was changed until now."""

    def find_peaks(self) -> None:
        """The peaks of the shown frame."""

    def list_peaks(self) -> None:
        """Markers and rows of the peaks in the window."""

    def go_to_number(self, number: int) -> None:
        """Show the frame of this number."""

    def show_trails(self) -> None:
        """The last steps of tracks, where these are to be seen."""

    def bring_forward(self, panel: str) -> None:
        """Show one of the panels."""
