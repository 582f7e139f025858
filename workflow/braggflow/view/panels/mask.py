"""A mask drawn on the picture: shapes by dragging, undone and redone, proposed, and saved."""

from typing import Any

import numpy as np
from bokeh.events import SelectionGeometry
from bokeh.layouts import column, row
from bokeh.models import Button, Checkbox, Div, Select, Spinner, TextInput
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.masks import DrawnMask, Proposal, load_mask, propose, save_mask
from braggflow.view.panels.shown import Shown
from braggflow.view.tuning import plain_path

#: What a drag or a click draws, and what is said of it.
_SHAPES = {
    "rectangle": "drag from corner to corner",
    "ellipse": "drag the box around it",
    "ring": "drag the box around it; its inner radius below, as a share of the outer one",
    "polygon": "click its corners, then press Enter",
    "brush": "drag; its radius below",
    "pixel": "click a pixel: it is ignored in all frames",
}


class MaskPanel:
    """Draws on the picture while it is the panel in front."""

    def __init__(self, page: Shown) -> None:
        self._page, self.version = page, 0
        self.mask = DrawnMask(page.viewed.shape)
        self._active = False
        self._proposals: list[Proposal] = []
        self.shape = Select(title="draw", options=list(_SHAPES), value="rectangle", width=130, name="shape")
        self.erase = Checkbox(label="erase", active=False, name="erase")
        self.radius = Spinner(title="brush radius (px)", low=0.5, step=0.5, value=3, width=125, name="radius")
        self.inner = Spinner(
            title="inner radius (share)", low=0, high=0.99, step=0.05, value=0.8, width=140, name="inner"
        )
        self.above = Spinner(title="above (counts)", value=None, step=1, width=125, name="above")
        self.below = Spinner(title="below (counts)", value=None, step=1, width=125, name="below")
        self.how, self.size = Div(width=410), Div(width=410, name="mask_size")
        self.name = TextInput(title="mask file to write", value="mask", width=190, name="mask_name")
        self.proposed = Select(title="proposed", options=[], width=270, name="proposed")
        self.shape.on_change("value", lambda _attr, _old, _new: self.activate(self._active))
        page.plot.figure.on_event(SelectionGeometry, self._drawn)
        self.layout = self._layout()
        self._said()

    def _layout(self) -> Any:
        def button(label: str, action: Any, name: str, width: int = 80, **more: Any) -> Button:
            made = Button(label=label, width=width, name=name, **more)
            made.on_click(action)
            return made

        gap = Div(text="&nbsp;", height=12)
        store = self._page.viewed.store
        saves = [button("save", self._save, "save_mask", 70, button_type="primary")]
        if store is not None:
            saves.append(button("into the store", self._save_in_store, "save_mask_in_store", 110))
        return column(
            row(self.shape, column(gap, self.erase)),
            self.how,
            row(self.radius, self.inner),
            row(self.above, self.below, column(gap, button("threshold", self._threshold, "threshold", 90))),
            row(
                button("undo", lambda: self._set(self.mask.undo()), "undo"),
                button("redo", lambda: self._set(self.mask.redo()), "redo"),
                button("clear", lambda: self._set(DrawnMask(self._page.viewed.shape)), "clear"),
                button("look for bad pixels", self._propose, "propose", 140),
            ),
            row(self.proposed, column(Div(text="&nbsp;", height=12), button("take", self._take, "take", 70))),
            self.size,
            row(
                self.name,
                column(Div(text="&nbsp;", height=12), row(*saves, button("load", self._load, "load_mask", 70))),
            ),
        )

    def drawn(self) -> NDArray[np.bool_] | None:
        """(y, x) of the detector, or None where nothing is drawn."""
        return self.mask.array if self.mask.shapes else None

    def activate(self, active: bool) -> None:
        """Whether a drag draws."""
        self._active = active
        plot, shape = self._page.plot, self.shape.value
        tools = {
            "rectangle": plot.box,
            "ellipse": plot.box,
            "ring": plot.box,
            "polygon": plot.polygon,
            "brush": plot.lasso,
        }
        plot.draw_with(tools.get(shape) if active else None)
        self.how.text = _SHAPES[shape]

    def tapped(self, y: float, x: float) -> None:
        """A click on the picture."""
        if self.shape.value == "pixel":
            self._step("pixel", y=round(y), x=round(x))

    def _drawn(self, event: Any) -> None:
        if not (self._active and event.final):
            return
        geometry, shape = event.geometry, self.shape.value
        if geometry["type"] == "rect":
            y0, y1, x0, x1 = (float(geometry[name]) for name in ("y0", "y1", "x0", "x1"))
            centre, radii = ((y0 + y1) / 2, (x0 + x1) / 2), (abs(y1 - y0) / 2, abs(x1 - x0) / 2)
            if shape == "rectangle":
                self._step("rectangle", y0=y0, x0=x0, y1=y1, x1=x1)
            elif shape == "ellipse":
                self._step("ellipse", centre=centre, radii=radii)
            elif shape == "ring":
                outer = max(radii)
                self._step("ring", centre=centre, inner=outer * float(self.inner.value or 0), outer=outer)
            return
        points = [(float(y), float(x)) for y, x in zip(geometry["y"], geometry["x"], strict=True)]
        if geometry["type"] == "poly" and shape == "polygon":
            self._step("polygon", points=points)
        elif geometry["type"] == "poly" and shape == "brush":
            self._step("brush", points=points, radius=float(self.radius.value or 1))

    def _step(self, kind: str, **numbers: Any) -> None:
        try:
            self._set(getattr(self.mask, kind)(**numbers, erase=self.erase.active))
        except InputError as error:
            self._page.fail(str(error))

    def _threshold(self) -> None:
        frame = self._page.viewed.frame(self._page.position)
        self._step("threshold", image=frame.seen.raw, above=self.above.value, below=self.below.value)

    def _propose(self) -> None:
        page = self._page
        page.say("looking at frames of the series for bad pixels and gaps …")
        page.later.do("propose", lambda _: propose(page.viewed.opened), self._came)

    def _came(self, proposals: list[Proposal]) -> None:
        self._proposals = proposals
        self.proposed.options = [(str(at), proposal.words) for at, proposal in enumerate(proposals)]
        self.proposed.value = "0" if proposals else ""
        self._page.say(f"{len(proposals)} proposed" if proposals else "nothing looks like a bad pixel or a gap")

    def _take(self) -> None:
        if self.proposed.value:
            proposal = self._proposals[int(self.proposed.value)]
            self._set(self.mask.pixels(proposal.array, said=proposal.words, erase=self.erase.active))

    def _set(self, mask: DrawnMask) -> None:
        self.mask = mask
        self.version += 1
        self._said()
        self._page.redraw()

    def _said(self) -> None:
        n, steps = int(np.count_nonzero(self.mask.array)), len(self.mask.shapes)
        share = n / self.mask.array.size
        self.size.text = (
            f"{steps} step{'s' * (steps != 1)}, {n:,} pixels ({share:.2%} of the frame)" if steps else "nothing drawn"
        )

    def _save(self) -> None:
        page = self._page
        try:
            path = plain_path(self.name.value, page.folder, ".tif")
            self._set(save_mask(self.mask, path))
        except InputError as error:
            page.fail(str(error))
            return
        page.say(f"written: {path}; use it by frames.mask: {path}")

    def _save_in_store(self) -> None:
        page, store = self._page, self._page.viewed.store
        if store is None:
            return
        try:
            self._set(save_mask(self.mask, store))
        except InputError as error:
            page.fail(str(error))
            return
        page.say(f"written into {store}; runs use it from now on")

    def _load(self) -> None:
        page = self._page
        name = self.name.value.strip().removesuffix(".tif")
        path = page.folder / f"{name}.tif"
        try:
            if not name or "/" in name or name.startswith("."):
                raise InputError(f"name: {name!r} is not accepted; a file of the folder {page.folder}")
            mask = load_mask(path)
            if mask.shape != self.mask.shape:
                raise InputError(f"{path}: is of frames of {mask.shape}, these are {self.mask.shape}")
        except InputError as error:
            page.fail(str(error))
            return
        self._set(mask)
        page.say(f"{path}: drawn by {mask.drawn_by or 'unknown'}, {mask.drawn_at or 'unknown when'}")
