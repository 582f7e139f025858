"""What is at a place that was clicked: a peak, a maximum that is none and why, or nothing."""

from base64 import b64encode
from html import escape
from io import BytesIO

from bokeh.layouts import column
from bokeh.models import Button, Div

from braggflow.errors import InputError
from braggflow.frames import OpenedSeries
from braggflow.view.panels.shown import Shown

#: Where the picture stands: over the lower part of the frame, which keeps its place.
_OVER_THE_FRAME = {
    "position": "fixed",
    "left": "70px",
    "bottom": "70px",
    "width": "min(980px, 60vw)",
    "background": "white",
    "box-shadow": "0 0 10px #555",
    "z-index": "10",
}
_HOW = "Click a peak, or any other place of the picture."


class ExplainPanel:
    """Words and a picture about one place."""

    def __init__(self, page: Shown) -> None:
        self._page = page
        self.words = Div(text=_HOW, width=410, name="explained")
        self.picture = Div(visible=False, styles=_OVER_THE_FRAME, name="explained_picture")
        self._close = Button(label="close the picture", width=140, visible=False, name="close_picture")
        self._close.on_click(lambda: self._show(""))
        scrolled = {"max-height": "560px", "overflow-y": "auto"}
        self.layout = column(column(self.words, styles=scrolled), self._close)

    def tapped(self, y: float, x: float) -> None:
        """Explain a place of the shown frame, and bring the panel to the front."""
        page = self._page
        viewed, position = page.viewed, page.position
        page.plot.mark((y, x))
        self.words.text = "…"
        self._show("")
        page.bring_forward("explain")
        page.later.do(
            "explain",
            lambda _: _explained(viewed.opened, viewed.numbers[position], y, x, viewed.name),
            lambda found: self._came(*found),
        )

    def clear(self) -> None:
        """Another frame is shown."""
        self._page.later.drop("explain")
        self._page.plot.mark(None)
        self.words.text = _HOW
        self._show("")

    def _show(self, html: str) -> None:
        self.picture.text = html
        self.picture.visible = self._close.visible = bool(html)

    def _came(self, words: list[str], picture: bytes, place: tuple[float, float]) -> None:
        self.words.text = "".join(f"<p style='margin:3px 0'>{escape(sentence)}</p>" for sentence in words)
        self._show(f"<img style='width:100%' src='data:image/png;base64,{b64encode(picture).decode()}'>")
        self._page.plot.mark(place)


def _explained(
    opened: OpenedSeries, number: int, y: float, x: float, source: str
) -> tuple[list[str], bytes, tuple[float, float]]:
    from braggflow.explain import explain_place  # its kernels and pictures take time to load

    try:
        found = explain_place(opened, number, y, x, source=source)
    except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"frame {number}: {error}") from error
    content = BytesIO()
    found.figure.savefig(content, format="png", dpi=110)
    return list(found.words), content.getvalue(), found.place
