"""What is shown of a frame, or of the whole series, and how bright, in which colours."""

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import Checkbox, Div, RangeSlider, Select
from numpy.typing import NDArray

from braggflow.view.colours import MAPS, SCALES, Contrast, contrast_of
from braggflow.view.marks import COLOUR_BY
from braggflow.view.panels.shown import Shown
from braggflow.view.projections import PROJECTIONS, projected
from braggflow.view.windows import Image, Picture

#: What can be shown of a frame, with what the page calls it.
_OF_FRAME = {
    "counts": "counts",
    "above": "above the background",
    "background": "the background",
    "foreground": "what is searched",
}


class LookPanel:
    """Which image, its contrast and colours, and what markers are coloured by."""

    def __init__(self, page: Shown) -> None:
        self._page = page
        self._projections: dict[str, tuple[Picture, int]] = {}
        self._contrasts: dict[object, Contrast] = {}
        options = [*_OF_FRAME.items(), *PROJECTIONS.items()]
        self.image = Select(title="show", options=options, value="counts", width=200, name="image")
        self.scale = Select(title="contrast", options=list(SCALES), value="auto", width=100, name="scale")
        self.colours = Select(
            title="colours", options=list(MAPS), value="black to white" if page.dark else "white to black", width=150,
            name="colours",
        )  # fmt: skip
        self.limits = RangeSlider(
            title="counts shown, percent of the range",
            start=0,
            end=100,
            step=1,
            value=(0, 100),
            width=380,
            name="limits",
        )
        self.colour_by = Select(title="markers by", options=list(COLOUR_BY), value="flags", width=150, name="colour_by")
        self.markers = Checkbox(label="markers", active=True, name="markers")
        self.trails = Checkbox(
            label="trails of tracks", active=False, name="show_trails", disabled=page.base.followed is None
        )
        self.same = Checkbox(label="one contrast for all frames", active=False, name="same")
        self._legend = Div(text="circles: <b style='color:#D55E00'>no flag</b>, <b style='color:#0072B2'>flagged</b>")
        for widget, name in (
            (self.image, "value"), (self.scale, "value"), (self.colours, "value"), (self.limits, "value"),
            (self.same, "active"),
        ):  # fmt: skip
            widget.on_change(name, lambda _attr, _old, _new: self._changed())
        self.colour_by.on_change("value", lambda _attr, _old, _new: self._recoloured())
        self.markers.on_change("active", lambda _, __, active: page.plot.show_markers(active))
        self.trails.on_change("active", lambda _attr, _old, _new: page.show_trails())
        self.layout = column(
            row(self.image, self.scale),
            row(self.colours, self.colour_by),
            self.limits,
            row(self.markers, self.trails, self.same),
            self._legend,
        )

    def draw(self, drawn: NDArray[np.bool_] | None, version: int) -> None:
        """Send the window of the image, with a mask that is being drawn, of this version, over it."""
        picture, what = self._picture()
        page = self._page
        page.plot.draw(
            picture,
            self._contrast(picture, what),
            self.colours.value,
            drawn,
            (what, picture.number, version),
        )

    def words_at(self, y: float, x: float) -> str:
        """What stands at a place of the image."""
        page = self._page
        if self.image.value in _OF_FRAME:
            return page.viewed.frame(page.position).words_at(y, x)
        picture, _ = self._picture()
        at = round(y) // picture.bin, round(x) // picture.bin
        if not (round(y) >= 0 <= round(x) and at[0] < picture.image.shape[0] and at[1] < picture.image.shape[1]):
            return ""
        value = picture.image[at]
        return f"y {round(y)}, x {round(x)}: " + (
            f"{value:.6g} ({self.image.value})" if np.isfinite(value) else "ignored"
        )

    def _picture(self) -> tuple[Picture, object]:
        page, kind = self._page, self.image.value
        if kind in _OF_FRAME:
            frame = page.viewed.frame(page.position)
            picture: Picture = getattr(frame, kind)
            return picture, (kind, page.position)
        if kind in self._projections:
            return self._projections[kind][0], kind
        return page.viewed.frame(page.position).counts, ("waiting", page.position)

    def _contrast(self, picture: Picture, what: object) -> Contrast:
        scale, limits = self.scale.value, tuple(float(share) for share in self.limits.value)
        kind = what[0] if isinstance(what, tuple) and self.same.active else what
        key = (kind, scale, limits) if self.same.active else (picture.number, scale, limits)
        if key not in self._contrasts:
            if len(self._contrasts) > 64:
                self._contrasts.clear()
            self._contrasts[key] = contrast_of(picture.image, scale, limits)  # type: ignore[arg-type]
        return self._contrasts[key]

    def _changed(self) -> None:
        kind, page = self.image.value, self._page
        if kind in PROJECTIONS and kind not in self._projections:
            opened = page.viewed.opened
            page.say(f"reading frames: {PROJECTIONS[kind]}")

            def told(done: int, of: int) -> None:
                page.later.tell(lambda: page.say(f"{PROJECTIONS[kind]}: {done} of {of} frames read"))

            page.later.do(
                "projection", lambda _: projected(opened, kind, told=told), lambda found: self._came(kind, *found)
            )
            return
        page.redraw()

    def _came(self, kind: str, image: Image, n: int) -> None:
        page = self._page
        self._projections[kind] = Picture(image.astype(np.float32), page.viewed.opened.correction.bin), n
        page.say(f"{PROJECTIONS[kind]}: of {n} frames, spread evenly")
        page.redraw()

    def settings_changed(self) -> None:
        """What was projected is of other settings."""
        self._projections.clear()
        self._contrasts.clear()
        self._changed()

    def _recoloured(self) -> None:
        by = self.colour_by.value
        self._legend.text = {
            "flags": "circles: <b style='color:#D55E00'>no flag</b>, <b style='color:#0072B2'>flagged</b>",
            "method": "circles: colour by the localiser that gave the position",
        }.get(by, f"circles: {by}, from dark (low) to yellow (high)")
        self._page.list_peaks()
