"""The picture of a frame on the page: window-sized, recoloured and reduced on this side, with markers over it."""

from collections.abc import Callable
from typing import Any

from bokeh.events import RangesUpdate, Reset
from bokeh.models import (
    BoxSelectTool,
    BoxZoomTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    HoverTool,
    LassoSelectTool,
    PanTool,
    PolySelectTool,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from braggflow.show import BLACK, GREEN
from braggflow.view.colours import Contrast, coloured
from braggflow.view.followed import no_trails
from braggflow.view.marks import nothing
from braggflow.view.windows import Extent, Picture, covered

#: Of the screen before the page has said how large it is, in pixels.
_SCREEN = {"inner_height": 900, "inner_width": 900}
#: Free room around a whole frame, as a share of it.
_MARGIN = 0.02
#: Whole numbers on an axis, or none where two of them are alike.
_TICKS = "return Math.abs(tick - Math.round(tick)) < 1e-6 ? Math.round(tick).toString() : tick.toFixed(1)"

Point = tuple[float, float]


class FramePlot:
    """A figure with the window of a picture, markers of peaks, what is gone and new, and one marked place."""

    def __init__(self, whole: Extent, moved: Callable[[], None], *, dark: bool = False) -> None:
        self.whole, self._moved = whole, moved
        self._sent: object = None
        self._fitted, self._size = True, dict(_SCREEN)
        x_range, y_range = Range1d(whole.left, whole.right), Range1d(whole.bottom, whole.top)
        self.figure: Any = figure(
            x_range=x_range,
            y_range=y_range,
            sizing_mode="stretch_both",
            min_width=320,
            min_height=320,
            tools="",
            x_axis_label="x (pixel)",
            y_axis_label="y (pixel)",
            output_backend="canvas",
            name="figure",
        )
        self.figure.grid.visible = False
        for axis in self.figure.axis:
            axis.formatter = CustomJSTickFormatter(code=_TICKS)
        self.image = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []}, name="picture")
        self.figure.image_rgba("image", "x", "y", "dw", "dh", source=self.image)
        self.trails = ColumnDataSource(no_trails(), name="trails")
        self.figure.segment(
            "x0", "y0", "x1", "y1", source=self.trails, line_color="colour", line_alpha="alpha", line_width=2
        )
        self.peaks = ColumnDataSource(nothing(), name="peak_marks")
        ring = self.figure.scatter(
            "x", "y", source=self.peaks, size=13, fill_alpha=0.0, line_color="colour", line_width=1.6,
            nonselection_line_alpha=0.75, selection_line_width=3.5,
        )  # fmt: skip
        self.gone, self.new = (ColumnDataSource({"x": [], "y": []}) for _ in range(2))
        self.figure.scatter("x", "y", source=self.gone, marker="x", size=14, line_color="#d62728", line_width=2.2)
        self.figure.scatter("x", "y", source=self.new, marker="cross", size=16, line_color=GREEN, line_width=2.2)
        self.place = ColumnDataSource({"x": [], "y": []})
        self.figure.scatter(
            "x", "y", source=self.place, marker="square", size=26, fill_alpha=0.0, line_width=2,
            line_color="#ffffff" if dark else BLACK,
        )  # fmt: skip
        self._tools(ring)
        self._ring = ring
        self.figure.on_event(RangesUpdate, lambda _: self._has_moved())
        self.figure.on_event(Reset, lambda _: self.fit())
        for name in ("inner_width", "inner_height"):
            self.figure.on_change(name, self._resized)

    def _tools(self, ring: Any) -> None:
        pan, wheel = PanTool(), WheelZoomTool(zoom_on_axis=False)
        self.box, self.polygon, self.lasso = BoxSelectTool(), PolySelectTool(), LassoSelectTool()
        for tool in (self.box, self.polygon, self.lasso):
            tool.renderers, tool.visible = [], False
        hover = HoverTool(
            renderers=[ring],
            tooltips=[("y, x", "@y{0.00}, @x{0.00}"), ("SNR", "@snr{0.0}"), ("flags", "@flags"), ("by", "@method")],
        )
        self.figure.add_tools(
            pan,
            wheel,
            BoxZoomTool(match_aspect=True),
            ResetTool(),
            SaveTool(),
            hover,
            self.box,
            self.polygon,
            self.lasso,
        )
        self._pan = pan
        self.figure.toolbar.active_drag, self.figure.toolbar.active_scroll = pan, wheel
        self.figure.toolbar.logo = None

    def draw_with(self, tool: Any | None) -> None:
        """What a drag does: one of the tools of the mask, or to move the picture."""
        for each in (self.box, self.polygon, self.lasso):
            each.visible = each is tool
        self.figure.toolbar.active_drag = tool if tool in (self.box, self.lasso) else self._pan
        self.figure.toolbar.active_tap = tool if tool is self.polygon else None

    @property
    def shown(self) -> Extent:
        """The part of the detector in the window."""
        x, y = self.figure.x_range, self.figure.y_range
        return Extent(min(y.start, y.end), max(y.start, y.end), min(x.start, x.end), max(x.start, x.end))

    @property
    def _screen(self) -> tuple[int, int]:
        """Height and width of the window, in pixels of the screen."""
        return self._size["inner_height"], self._size["inner_width"]

    def fit(self) -> None:
        """Show the whole frame, pixels square."""
        self._fitted = True
        whole = self.whole
        self._look_at((whole.top + whole.bottom) / 2, (whole.left + whole.right) / 2, 1 + _MARGIN)

    def zoom_to(self, y: float, x: float, side: float) -> None:
        """Show about `side` pixels of the detector around a place."""
        self._fitted = False
        longest = max(self.whole.bottom - self.whole.top, self.whole.right - self.whole.left)
        self._look_at(y, x, side / longest)

    def _look_at(self, y: float, x: float, share: float) -> None:
        height, width = self._screen
        whole = self.whole
        pixel = share * max((whole.bottom - whole.top) / height, (whole.right - whole.left) / width)
        self.figure.x_range.update(start=x - pixel * width / 2, end=x + pixel * width / 2)
        self.figure.y_range.update(start=y + pixel * height / 2, end=y - pixel * height / 2)
        self._moved()

    def _has_moved(self) -> None:
        self._fitted = False
        self._moved()

    def _resized(self, name: str, _: object, size: int) -> None:
        self._size[name] = size
        shown = self.shown
        if self._fitted:
            self.fit()
        else:  # pixels stay square
            longest = max(self.whole.bottom - self.whole.top, self.whole.right - self.whole.left)
            side = max(shown.bottom - shown.top, shown.right - shown.left)
            self._look_at((shown.top + shown.bottom) / 2, (shown.left + shown.right) / 2, side / longest)

    def draw(
        self, picture: Picture, contrast: Contrast, name: str, drawn: NDArray[Any] | None, version: object
    ) -> None:
        """Send the window of a picture, unless the same was sent last; `version` tells pictures and masks apart."""
        window = picture.window(self.shown, *self._screen)
        what = (version, contrast, name, window.extent, window.factor)
        if what == self._sent:
            return
        self._sent = what
        mask = None if drawn is None else covered(drawn, window)
        top, bottom, left, right = window.extent
        self.image.data = {
            "image": [coloured(window.image, contrast, name, drawn=mask)],
            "x": [left],
            "y": [top],
            "dw": [right - left],
            "dh": [bottom - top],
        }

    def show_markers(self, visible: bool) -> None:
        """Whether peaks are marked."""
        self._ring.visible = visible

    def show_changes(self, gone: NDArray[Any], new: NDArray[Any]) -> None:
        """Mark maxima (n, 2) that other settings have lost, and those that they have found."""
        for source, places in ((self.gone, gone), (self.new, new)):
            if len(places) or len(source.data["y"]):  # else the page would paint once more for nothing
                source.data = {"y": places[:, 0], "x": places[:, 1]}

    def mark(self, place: Point | None) -> None:
        """Frame one place (y, x), or none."""
        self.place.data = {"x": [], "y": []} if place is None else {"y": [place[0]], "x": [place[1]]}
