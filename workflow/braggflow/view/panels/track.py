"""The track of a peak that was clicked: its place, intensity and widths along the series; a click goes to its frame."""

from html import escape
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, PrintfTickFormatter, Span
from bokeh.plotting import figure

from braggflow.show import BLUE, GREEN, VERMILLION
from braggflow.view.followed import Course
from braggflow.view.panels.shown import Shown

#: What is drawn of a track, one below the other, with what stands beside each.
_CURVES = {
    "y": "y (px)",
    "x": "x (px)",
    "intensity": "intensity",
    "fwhm": "FWHM (px)",
    "strain": "strain",
}
_WIDTH, _HEIGHT = 410, 100
#: White itself is the default, which a theme would replace.
_WHITE = "#fefefe"
_HOW = "Click a peak of a run whose peaks were followed."


class TrackPanel:
    """Curves of one track, made when the first is shown."""

    def __init__(self, page: Shown) -> None:
        self._page = page
        self.track: int | None = None
        self._course: Course | None = None
        self.words = Div(text=_HOW, width=_WIDTH, name="track_words")
        self._here: list[Span] = []
        self._sources: dict[str, ColumnDataSource] = {}
        self._figures: dict[str, Any] = {}
        self._curves: Any = column(styles={"max-height": "620px", "overflow-y": "auto"})
        self.layout = column(self.words, self._curves)

    def show(self, track: int | None) -> None:
        """The course of a track, or that a peak is on none."""
        followed = self._page.base.followed
        self.track = track
        if followed is None:
            self.words.text = "The peaks of this run were not followed: <code>braggflow track RUN</code>."
            return
        if track is None:
            self.words.text = "This peak is on no track."
            return
        self._course = followed.course(track)
        if not self._figures:
            self._make(self._course)
        for name, source in self._sources.items():
            source.data = _data(self._course, name)
        self.words.text = f"<b>{escape(self._course.title)}</b><br>a click on a curve shows its frame"
        self.moved()

    def moved(self) -> None:
        """Another frame is shown: mark where it lies."""
        for line in self._here:
            line.location = self._page.viewed.numbers[self._page.position]

    def _make(self, course: Course) -> None:
        shared = None
        names = [name for name in _CURVES if name != "strain" or name in course.columns]
        for name in names:
            last = name == names[-1]
            plot: Any = figure(
                width=_WIDTH, height=_HEIGHT + 22 * last, y_axis_label=_CURVES[name], tools="", toolbar_location=None,
                name=f"track_{name}", **({"x_range": shared} if shared else {}), min_border_left=62,
            )  # fmt: skip
            shared = plot.x_range
            source = ColumnDataSource(_data(course, name))
            plot.segment("frame", "low", "frame", "high", source=source, line_color="#888888", line_alpha=0.7)
            plot.scatter("frame", "value", source=source, size=4, color=VERMILLION)
            if name == "fwhm":
                plot.scatter("frame", "other", source=source, size=4, color=GREEN)
            else:
                plot.line("frame", "other", source=source, color=BLUE, line_width=1.5)
            plot.xaxis.visible = last
            plot.xaxis.axis_label = "frame"
            if name == "strain":
                plot.yaxis.formatter = PrintfTickFormatter(format="%.1e")
            _light(plot)
            self._here.append(Span(dimension="height", line_color="#888888", line_dash="dashed"))
            plot.add_layout(self._here[-1])
            plot.on_event(Tap, self._tapped)
            self._sources[name], self._figures[name] = source, plot
        self._curves.children = [*self._figures.values()]

    def _tapped(self, event: Any) -> None:
        if self._course is not None and event.x is not None:
            frames = self._course.columns["frame"]
            self._page.go_to_number(int(frames[np.argmin(np.abs(frames - event.x))]))


def _light(plot: Any) -> None:
    """Dark on white, whatever the theme: on a dark page the colours of all panels are turned over."""
    plot.background_fill_color = plot.border_fill_color = _WHITE
    plot.outline_line_color, plot.grid.grid_line_color = "#cccccc", "#eeeeee"
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = "#666666"
        axis.major_label_text_color = axis.axis_label_text_color = "#222222"
        axis.major_label_text_font_size, axis.axis_label_text_font_size = "11px", "12px"
        axis.axis_label_text_font_style, axis.ticker.desired_num_ticks = "normal", 4


def _data(course: Course, name: str) -> dict[str, Any]:
    """The columns of one curve: values, where their errors reach to, and the line or second set beside them."""
    columns = course.columns
    of = "fwhm_major" if name == "fwhm" else name
    error = np.nan_to_num(columns.get(f"{of}_std", np.zeros(len(columns["frame"]))))
    other = columns["fwhm_minor"] if name == "fwhm" else columns.get(f"{name}_smooth", np.full(len(error), np.nan))
    values = columns[of]
    return {"frame": columns["frame"], "value": values, "low": values - error, "high": values + error, "other": other}
