"""The page: the picture of a frame, its peaks in a table, and panels to look, tune, mask and explain."""

from html import escape
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.events import MouseMove, Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CustomJS,
    DataTable,
    Div,
    NumberFormatter,
    Slider,
    StringFormatter,
    TableColumn,
    TabPanel,
    Tabs,
    TextInput,
    Toggle,
)

from braggflow.errors import InputError
from braggflow.view.followed import no_trails
from braggflow.view.frame_plot import FramePlot
from braggflow.view.later import Later
from braggflow.view.marks import LISTED, MOST, marks_of, nothing
from braggflow.view.panels import ExplainPanel, LookPanel, MaskPanel, TrackPanel, TunePanel
from braggflow.view.viewed import Columns, Detected, ShownFrame, Viewed

#: Width of the panels beside the picture, pixels of the screen, and milliseconds between frames that are played.
PANEL, PLAY = 430, 200
#: Of more peaks in a frame the maxima are shown before they are located.
_MANY = 5_000
_HEADS = {
    "y": "y (px)",
    "x": "x (px)",
    "snr": "SNR",
    "fwhm_major": "FWHM",
    "fwhm_minor": "minor",
    "score": "persistence",
}
#: The page fills the window. In the dark the panels' colours are turned over.
_TEMPLATE = """{% block postamble %}
<style>
  html, body { margin: 0; height: 100%; overflow: hidden; font-family: system-ui, sans-serif; }
  {% if dark %}
  html, body { background: #20262b; color: #e0e0e0; }
  {% endif %}
</style>
{% endblock %}
"""
_TURNED_OVER = {"filter": "invert(0.88) hue-rotate(180deg)", "background": "#fff", "color": "#222"}


class Page:
    """One page of one visitor; all of it runs in the thread of the server."""

    def __init__(
        self, document: Document, viewed: Viewed, folder: Path, *, frame: int | None = None, dark: bool = False
    ) -> None:
        self.document, self.viewed, self.base, self.folder, self.dark = document, viewed, viewed, folder, dark
        self.position = _position(viewed, frame)
        self.columns: Columns | None = None
        self._waiting = self._locating = self._moved = self._unsearched = False
        self._unjudged = True
        self.later = Later(document, self.fail)
        self.plot = FramePlot(viewed.frame(self.position).counts.extent, self._window_moved, dark=dark)
        self.head = Div(name="head", styles={"font-size": "15px"}, sizing_mode="stretch_width")
        self.below = Div(name="pixel", height=18, styles={"font-family": "monospace"}, sizing_mode="stretch_width")
        self.told = Div(sizing_mode="stretch_width", name="told")
        self.counted = Div(styles={"font-weight": "bold"}, name="counted")
        self.look, self.tune = LookPanel(self), TunePanel(self)
        self.mask, self.explain, self.track = MaskPanel(self), ExplainPanel(self), TrackPanel(self)
        self._table = self._peak_table()
        self.plot.figure.on_event(MouseMove, self._moved_over)
        self.plot.figure.on_event(Tap, self._tapped)
        self._build()
        self._show_first()
        if viewed.notes:
            self.say(" ".join(viewed.notes))

    # ---- what panels ask for ----

    def say(self, text: str) -> None:
        """One line below the panels."""
        self.told.text = escape(text)

    def fail(self, text: str) -> None:
        """The same of what was refused."""
        self.told.text = f'<span style="color:#c0392b">{escape(text)}</span>'

    def show_frame(self, position: int) -> None:
        """Another frame: its picture and its peaks."""
        self._name_frame(position)
        self.explain.clear()
        self.track.moved()
        self.show_trails()
        self.redraw()
        if self.viewed is self.base and self.base.run is not None:
            self.find_peaks()
        else:
            self._unsearched = True

    def _show_first(self) -> None:
        """The first frame: its picture is there at once, its peaks when the browser has loaded the page.

        The first search loads the machine code of its kernels, which takes longer than anything else here.
        """
        self._name_frame(self.position)
        self._unsearched = True
        self._draw()

    def _look_for_peaks(self) -> None:
        """The peaks of the shown frame, when its picture is on its way."""
        viewed, frame, stored = self.viewed, self.viewed.frame(self.position), self.viewed is self.base
        self.later.do("locate", lambda _: _peaks_or_why_not(viewed, frame, stored=stored), self._came)

    def _name_frame(self, position: int) -> None:
        self.position = position
        number = self.viewed.numbers[position]
        coordinates = ", ".join(f"{escape(name)} {escape(value)}" for name, value in self.viewed.coordinates(position))
        self.head.text = f"<b>{escape(self.viewed.title)}</b>: frame {number}" + (
            f" ({coordinates})" if coordinates else ""
        )
        self.slider.update(value=position, title=f"frame {number}, of {len(self.viewed.numbers):,}")

    def go_to_number(self, number: int) -> None:
        """Show the frame of this number."""
        if number in self.viewed.numbers:
            self._asked_for(self.viewed.numbers.index(number))

    def show_trails(self) -> None:
        """The last steps of tracks, where these are to be seen."""
        followed = self.base.followed if self.look.trails.active else None
        if followed is not None:
            self.plot.trails.data = followed.trails(self.viewed.numbers[self.position], self.plot.shown)
        elif len(self.plot.trails.data["x0"]):
            self.plot.trails.data = no_trails()

    def use(self, viewed: Viewed) -> None:
        """The same series by other settings."""
        other_pixels = viewed.asked.frames != self.viewed.asked.frames
        self.viewed = viewed
        if other_pixels:
            self.look.settings_changed()
        self.plot.whole = self._picture_extent()
        self.redraw()
        self.find_peaks()

    def bring_forward(self, panel: str) -> None:
        """Show one of the panels."""
        self.tabs.active = self._panels.index(panel)

    def redraw(self) -> None:
        """Send what the window shows, once for all that was changed until now."""
        if self._waiting:
            return
        self._waiting = True
        self.document.add_next_tick_callback(self._draw)

    def find_peaks(self) -> None:
        """The peaks of the shown frame: the run's where the settings are the run's, else those of a search now."""
        viewed, self._unsearched = self.viewed, False
        self.later.drop("locate")
        try:
            frame = viewed.frame(self.position)
        except InputError as error:
            self._came(str(error))
        else:
            self._came(_peaks_or_why_not(viewed, frame, stored=viewed is self.base))

    def _came(self, found: tuple[Columns, Detected | None] | str) -> None:
        if self._unjudged:  # frames are read for it: when the first picture and its peaks are there
            self._unjudged = False
            self.later.do("judge", lambda _: self.base.contradictions(), self._contradicted)
        if isinstance(found, str):
            self.columns, self._locating = None, False
            self.fail(found)
            self.list_peaks()
            return
        viewed, (columns, rest) = self.viewed, found
        self._located(columns, all_of_them=rest is None)
        if rest is not None:
            self.later.do("locate", lambda _: viewed.located(rest.patches()), self._located)

    def _contradicted(self, said: tuple[str, ...]) -> None:
        if said and self.viewed.asked.frames == self.base.asked.frames:
            self.told.text = f"{self.told.text} {escape(' '.join(said))}".strip()

    def _located(self, columns: Columns, *, all_of_them: bool = True) -> None:
        self.columns, self._locating = columns, not all_of_them
        self.list_peaks()
        # What is marked as gone and new is another message: the peaks are not kept waiting for it.
        shown = self.viewed, self.position
        self.document.add_next_tick_callback(lambda: self._mark_changes(columns, shown))

    def _mark_changes(self, columns: Columns, shown: tuple[Viewed, int]) -> None:
        if self.columns is columns and self.viewed is shown[0] and self.position == shown[1]:
            self.tune.found(columns)

    def list_peaks(self) -> None:
        """Markers and rows of the peaks in the window."""
        if self.columns is None:
            self.plot.peaks.data = nothing()
            self.counted.text = "looking for peaks …" if self._locating else "no peaks: the frame could not be searched"
            return
        first = "score" if self._locating else "snr"  # which is known when their patches were cut
        listed = marks_of(self.columns, self.plot.shown, self.look.colour_by.value, first=first)
        self.plot.peaks.data = listed
        n, shown = len(self.columns["y"]), len(listed["y"])
        text = f"{n:,} peak{'s' * (n != 1)}" + ("" if shown == n else f", {shown:,} in the window")
        if shown == MOST:
            text += f" (those of the highest {_HEADS[first]})"
        if self._locating:
            text += "; being located …"
        self.counted.text = text

    # ---- its parts ----

    def _build(self) -> None:
        n = len(self.viewed.numbers)
        self.slider = Slider(
            start=0, end=max(n - 1, 1), step=1, value=self.position, disabled=n == 1, show_value=False,
            sizing_mode="stretch_width", name="frame",
        )  # fmt: skip
        self.slider.on_change("value", lambda _, __, new: self._asked_for(int(new)))
        back, on = Button(label="◀", width=44, name="back"), Button(label="▶", width=44, name="on")
        back.on_click(lambda: self._asked_for(self.position - 1))
        on.on_click(lambda: self._asked_for(self.position + 1))
        self.play = Toggle(label="play", width=60, name="play")
        self.play.on_change("active", lambda _, __, active: self._play(active))
        go_to = TextInput(placeholder="17, omega 3.5", width=140, name="go_to")
        go_to.on_change("value", lambda _attr, _old, text: self._go_to(text))
        whole = Button(label="whole frame", width=96, name="whole")
        whole.on_click(self.plot.fit)
        self._timer: Any = None
        panels: dict[str, Any] = {
            "look": self.look,
            "tune": self.tune,
            "mask": self.mask,
            "explain": self.explain,
            "track": self.track,
        }
        self._panels = list(panels)
        tabs = Tabs(
            tabs=[TabPanel(title=title, child=panel.layout) for title, panel in panels.items()],
            width=PANEL,
            name="panels",
        )
        tabs.on_change("active", lambda _, __, at: self._panel_chosen(at))
        self.tabs = tabs
        left = column(
            self.head,
            row(back, on, self.play, self.slider, go_to, whole, sizing_mode="stretch_width"),
            self.plot.figure,
            self.below,
            sizing_mode="stretch_both",
        )
        right = column(
            tabs,
            self.told,
            self.counted,
            self._table,
            width=PANEL,
            sizing_mode="stretch_height",
            styles=_TURNED_OVER if self.dark else {},
        )
        self.document.add_root(row(left, right, sizing_mode="stretch_both", name="page"))
        self.document.add_root(self.explain.picture)
        self.document.title = f"{self.viewed.title} – braggflow"
        self.document.template, self.document.template_variables["dark"] = _TEMPLATE, self.dark
        if self.dark:
            self.document.theme = "dark_minimal"

    def _peak_table(self) -> DataTable:
        numbers = [
            TableColumn(
                field=name,
                title=_HEADS.get(name, name),
                formatter=NumberFormatter(format=form, text_align="right"),
                width=66,
            )
            for name, form in LISTED.items()
        ]
        words = [
            TableColumn(field=name, title=name, formatter=StringFormatter(), width=110) for name in ("flags", "method")
        ]
        table = DataTable(
            source=self.plot.peaks, columns=[*numbers, *words], index_position=None, sizing_mode="stretch_both",
            min_height=160, autosize_mode="none", reorderable=False, name="peaks",
        )  # fmt: skip
        # By itself a table of as many rows as before goes on showing those of before.
        anew = CustomJS(args={"table": table}, code="table.view.change.emit()")
        self.plot.peaks.js_on_change("data", anew)
        self.plot.peaks.selected.on_change("indices", lambda _, __, rows: self._row_chosen(rows))
        return table

    def _picture_extent(self) -> Any:
        return self.viewed.frame(self.position).counts.extent

    def _draw(self) -> None:
        self._waiting, unsearched = False, self._unsearched
        if unsearched:  # markers of another frame go with its picture: many take long to paint
            self.columns, self._locating, self._unsearched = None, True, False
            self.list_peaks()
        try:
            self.look.draw(self.mask.drawn(), self.mask.version)
        except InputError as error:
            self.fail(str(error))
        if self._moved and self.columns is not None:
            self.list_peaks()
            self.show_trails()
        self._moved = False
        if unsearched:
            self._look_for_peaks()

    # ---- what a visitor does ----

    def _window_moved(self) -> None:
        self._moved = True
        self.redraw()

    def _asked_for(self, position: int) -> None:
        position = min(max(position, 0), len(self.viewed.numbers) - 1)
        if position != self.position:
            try:
                self.viewed.frame(position)
            except InputError as error:
                self.fail(str(error))
                return
            self.show_frame(position)

    def _go_to(self, text: str) -> None:
        if not text.strip():
            return
        try:
            self._asked_for(self.viewed.position_of(text))
        except InputError as error:
            self.fail(str(error))

    def _play(self, active: bool) -> None:
        if self._timer is not None:
            self.document.remove_periodic_callback(self._timer)
        self._timer = self.document.add_periodic_callback(self._next, PLAY) if active else None

    def _next(self) -> None:
        self._asked_for((self.position + 1) % len(self.viewed.numbers))

    def _panel_chosen(self, at: int) -> None:
        self.mask.activate(self._panels[at] == "mask")

    def _moved_over(self, event: Any) -> None:
        if event.x is not None and event.y is not None:
            self.below.text = escape(self.look.words_at(event.y, event.x))

    def _tapped(self, event: Any) -> None:
        if event.x is None or event.y is None:
            return
        panel = self._panels[self.tabs.active]
        if panel == "mask":
            self.mask.tapped(event.y, event.x)
            return
        if self.base.followed is not None:
            hit, track = self.base.followed.track_at(self.viewed.numbers[self.position], event.y, event.x)
            if hit:
                self.track.show(track)
        if panel == "track":
            self.plot.mark((event.y, event.x))
        else:
            self.explain.tapped(event.y, event.x)

    def _row_chosen(self, rows: list[int]) -> None:
        if len(rows) != 1:
            return
        data = self.plot.peaks.data
        y, x = float(data["y"][rows[0]]), float(data["x"][rows[0]])
        shown = self.plot.shown
        if not (shown.top < y < shown.bottom and shown.left < x < shown.right):
            self.plot.zoom_to(y, x, 200)
        self.plot.mark((y, x))


def _peaks_or_why_not(viewed: Viewed, frame: ShownFrame, *, stored: bool) -> tuple[Columns, Detected | None] | str:
    """The peaks of a frame, of a run those `stored`; or what is to be said where it cannot be searched.

    Of many peaks that are not located yet the maxima, and what locates them.
    """
    from braggflow.pipeline import compile_ahead  # which takes long to load: the picture is there before

    try:
        columns = viewed.peaks_of_run(frame.position) if stored else None
        if columns is not None:
            return columns, None
        compile_ahead()
        found = viewed.detected(frame)
        if len(found.table) > _MANY and found.all_count:
            return found.at_maxima(), found
        return viewed.located(found.patches()), None
    except InputError as error:
        return str(error)


def _position(viewed: Viewed, frame: int | None) -> int:
    """The position of a frame; without one, of the middle frame of those that were written."""
    numbers = viewed.numbers
    if frame is None:
        there = [at for at in range(len(numbers)) if at not in viewed.opened.missing]
        if not there:
            raise InputError(f"{viewed.name}: none of its frames was ever written")
        return there[len(there) // 2]
    if frame not in numbers:
        raise InputError(
            f"frame {frame}: {viewed.name} has no such frame; there are {len(numbers):,}, {numbers[0]} to {numbers[-1]}"
        )
    return numbers.index(frame)
