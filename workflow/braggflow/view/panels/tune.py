"""Settings that are tried on the shown frame, on frames over the series, and saved, and run."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, row
from bokeh.models import Button, Checkbox, CustomJSTickFormatter, Div, Select, Slider, Spinner, TextInput

from braggflow.errors import InputError
from braggflow.view.marks import gone_and_new
from braggflow.view.panels.shown import Shown
from braggflow.view.tuning import SampleCounts, count_sample, save_changes
from braggflow.view.viewed import Columns, Viewed

if TYPE_CHECKING:
    from braggflow.config import NoiseMultiple

#: The slider of false peaks: ten to the power of it. What the configuration accepts ends at 1000.
_POWERS = -4.0, 3.0
_POWER = "return (10 ** tick).toPrecision(2).replace(/\\.?0+$/, '') + ' a megapixel'"
#: Milliseconds between two looks at a run that was started here.
_LOOK = 500


class TunePanel:
    """Levels, background and filters."""

    def __init__(self, page: Shown) -> None:
        self._page, self._quiet = page, False
        self._reference: dict[int, Columns] = {}
        self._reference_of = page.base
        self._run: subprocess.Popen[str] | None = None
        self._log: Path | None = None
        self.false_peaks = Slider(
            title="false_peaks", start=_POWERS[0], end=_POWERS[1], step=0.05, value=-1, width=290, name="false_peaks",
            format=CustomJSTickFormatter(code=_POWER),
        )  # fmt: skip
        self.by_noise = Checkbox(label="off", active=False, name="no_false_peaks")
        self.minval, self.minscore = (_spinner(name, step=1) for name in ("minval", "minscore"))
        self.unit = Select(title="in", options=["counts", "sigma"], value="counts", width=90, name="unit")
        self.background = Select(title="background", options=["local", "radial", "none"], width=110, name="background")
        self.cell = _spinner("background_cell", step=8, low=8)
        self.filters = {
            "min_area": _spinner("min_area", step=1, low=1),
            "max_area": _spinner("max_area", step=1, low=1),
            "min_edge_distance": _spinner("min_edge_distance", step=1),
            "min_neighbour_distance": _spinner("min_neighbour_distance", step=0.5),
            "min_snr": _spinner("min_snr", step=0.5),
        }
        self.bin = Select(title="bin", options=["1", "2", "3", "4"], value="1", width=80, name="bin")
        self.sampled, self.changed = Div(width=410, name="sampled"), Div(width=410, name="changed")
        self.name = TextInput(title="configuration to write", value="tuned", width=190, name="config_name")
        self._set(page.viewed)
        self.layout = self._layout()

    def _layout(self) -> Any:
        compare = Button(label="compare with these", width=150, name="compare")
        compare.on_click(self._compare)
        back = Button(label="back to the first", width=130, name="back_to_first")
        back.on_click(self._back)
        save = Button(label="save", width=70, button_type="primary", name="save_config")
        save.on_click(self._save)
        self.start = Button(label="save and run", width=110, name="run")
        self.start.on_click(self._save_and_run)
        for widget in (
            self.minval,
            self.minscore,
            self.cell,
            *self.filters.values(),
            self.unit,
            self.background,
            self.bin,
        ):
            widget.on_change("value", lambda _attr, _old, _new: self._settings_changed())
        self.false_peaks.on_change("value", lambda _attr, _old, _new: self._settings_changed())
        self.by_noise.on_change("active", lambda _attr, _old, _new: self._settings_changed())
        filters = list(self.filters.values())
        self.filters["min_neighbour_distance"].width = 170  # as long as its title
        return column(
            row(self.false_peaks, self.by_noise),
            row(self.minval, self.minscore, self.unit),
            row(self.background, self.cell, self.bin),
            row(*filters[:3]),
            row(*filters[3:]),
            self.changed,
            self.sampled,
            row(compare, back),
            row(self.name, column(Div(text="&nbsp;", height=12), row(save, self.start))),
        )

    def found(self, columns: Columns) -> None:
        """A frame was searched: mark what is gone and new against the settings that are compared with."""
        page = self._page
        if page.viewed is self._reference_of:
            self._reference[page.position] = columns
        elif page.position not in self._reference:
            reference = self._reference_of
            stored = reference.peaks_of_run(page.position) if reference is page.base else None
            self._reference[page.position] = reference.search(page.position) if stored is None else stored
        gone, new = gone_and_new(self._reference[page.position], columns)
        page.plot.show_changes(gone, new)
        if page.viewed is self._reference_of:
            self.changed.text = ""
        else:
            self.changed.text = (
                f"this frame: {len(columns['y']):,} peaks; <span style='color:#d62728'>✕ {len(gone):,} gone</span>, "
                f"<span style='color:#009E73'>+ {len(new):,} new</span>"
            )

    def sections(self) -> dict[str, dict[str, Any]]:
        """What the controls say, as keys of the configuration."""
        detect: dict[str, Any] = {
            "false_peaks": None if self.by_noise.active else float(f"{10**self.false_peaks.value:.3g}"),
            "minval": self._level(self.minval.value),
            "minscore": self._level(self.minscore.value),
            "background": self.background.value,
            "background_cell": int(self.cell.value or 32),
        }
        for key, spinner in self.filters.items():
            whole = key not in ("min_neighbour_distance", "min_snr")
            value = spinner.value
            default = None if key == "max_area" else (1 if key == "min_area" else 0)
            detect[key] = default if value is None else (int(value) if whole else float(value))
        return {"detect": detect, "frames": {"bin": int(self.bin.value)}}

    def _level(self, value: float | None) -> Any:
        if not value:
            return None
        return {"sigma": float(value)} if self.unit.value == "sigma" else float(value)

    def _set(self, viewed: Viewed) -> None:
        """Show the settings of a series in the controls."""
        detect, self._quiet = viewed.asked.detect, True
        self.by_noise.active = detect.false_peaks is None
        if detect.false_peaks is not None:
            from math import log10

            self.false_peaks.value = log10(detect.false_peaks)
        self.unit.value = "sigma" if detect.in_sigma else "counts"
        self.minval.value, self.minscore.value = _number(detect.minval), _number(detect.minscore)
        if detect.background not in self.background.options:
            self.background.options = [*self.background.options, detect.background]
        self.background.value, self.cell.value = detect.background, detect.background_cell
        for key, spinner in self.filters.items():
            spinner.value = getattr(detect, key)
        self.bin.value = str(viewed.asked.frames.bin)
        self._quiet = False

    def _settings_changed(self) -> None:
        if self._quiet:
            return
        page = self._page
        try:
            viewed = page.base.with_settings(self.sections())
        except InputError as error:
            page.fail(str(error))
            return
        page.say("")
        page.use(viewed)
        self.sampled.text = "searching frames over the series …"
        page.later.do("sample", lambda wanted: count_sample(viewed, wanted), self._counted)

    def _counted(self, counts: SampleCounts | None) -> None:
        if counts is not None:
            self.sampled.text = counts.words()

    def _compare(self) -> None:
        self._reference_of, self._reference = self._page.viewed, {}
        self._page.find_peaks()

    def _back(self) -> None:
        self._set(self._page.base)
        self._page.use(self._page.base)
        self.sampled.text = ""

    def _save(self) -> Path | None:
        page = self._page
        try:
            path = save_changes(page.viewed.asked, self.name.value, page.folder, source=page.viewed.name)
        except InputError as error:
            page.fail(str(error))
            return None
        page.say(f"written: {path}")
        return path

    def _save_and_run(self) -> None:
        page = self._page
        source = page.viewed.source
        if source is None:
            page.fail("run: what is shown lies in memory; save the configuration, and run it on files")
            return
        if self._run is not None and self._run.poll() is None:
            page.fail("run: one that was started here is still going on")
            return
        path = self._save()
        if path is None:
            return
        self._log = path.with_suffix(".log")
        command = [sys.executable, "-m", "braggflow", "run", str(path), source, "--out", str(path.with_suffix(""))]
        with self._log.open("w") as log:
            self._run = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
            )
        self._watch = page.document.add_periodic_callback(self._look_at_run, _LOOK)

    def _look_at_run(self) -> None:
        if self._run is None or self._log is None:
            return
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "starting"
        status = self._run.poll()
        if status is None:
            self._page.say(f"run: {last}")
            return
        self._page.document.remove_periodic_callback(self._watch)
        where = self._log.with_suffix("")
        told = f"run ended with status {status}: {last}; results in {where}, its words in {self._log}"
        (self._page.say if status in (0, 3) else self._page.fail)(told)


def _spinner(name: str, *, step: float, low: float = 0) -> Spinner:
    return Spinner(title=name, low=low, step=step, value=None, width=125, name=name)


def _number(level: "float | NoiseMultiple | None") -> float | None:
    if level is None or isinstance(level, float | int):
        return level
    return level.sigma
