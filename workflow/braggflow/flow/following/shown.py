"""What is shown while a series is followed: the line that moves, the alarms, the page."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from braggflow.flow.data_set import DataSetRun
from braggflow.flow.following.courses import Courses
from braggflow.flow.outcome import Progress
from braggflow.results import FRAME_STATE, PartSummary, RunFolder, find_alarms, read_part_table

#: How often the page and run.json are written, and the line.
_PAGE_SECONDS, _LINE_SECONDS = 2.0, 0.5


class Shown:
    """Collects what came of the frames so far; `places` are those of the peaks whose courses are shown."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, places: Sequence[tuple[float, float]] | None
    ) -> None:
        self.notes: list[str] = []
        self._progress, self._courses = progress, Courses(places)
        self._states = [np.zeros(0, FRAME_STATE)]
        self._delays: list[float] = []
        self._alarms: dict[tuple[int, str], str] = {}
        self._failed = self._before = self._known = 0
        self._page_at = self._line_at = 0.0

    def add(self, folder: RunFolder, part: PartSummary, delay: float | None = None) -> None:
        """Take a part that is done, so many seconds after its first frame was seen; None: by an earlier process."""
        self._states.append(part.states)
        self._failed += len(part.failures)
        if delay is None:
            self._before += part.stop - part.first
        else:
            self._delays += [delay] * (part.stop - part.first)
        with suppress(OSError, ValueError):
            self._courses.add(read_part_table(folder, part))

    def median_delay(self) -> float | None:
        """Seconds from seeing a frame to its peaks being readable, the median; None before the first."""
        return round(float(np.median(self._delays)), 3) if self._delays else None

    def due(self) -> bool:
        """Whether it is time to write the page again."""
        return time.monotonic() - self._page_at >= _PAGE_SECONDS

    def page(self, work: DataSetRun, record: Mapping[str, Any], status: str, *, ended: bool = False) -> None:
        """Write the page; whatever ails it spoils no run."""
        from braggflow.show import LiveState, write_live_page

        self._page_at = time.monotonic()
        states = np.concatenate(self._states)
        self._states = [states[np.argsort(states["frame"], kind="stable")]]
        with suppress(ArithmeticError, ValueError, LookupError):  # looked at again at the end, which tells
            for alarm in find_alarms(self._states[0]):
                self._alarms.setdefault((alarm.frame, alarm.cause), str(alarm))
        state = LiveState(
            work.name,
            status,
            frames_known=len(work.numbers),
            frames_failed=self._failed,
            late=int(record["late"]),
            seconds_to_peaks=record["seconds_to_peaks"],
            states=self._states[0],
            courses=self._courses.courses(),
            alarms=tuple(self._alarms.values()),
            report=work.folder.report.name if work.config.output.report else "",
            ended=ended,
        )
        with suppress(OSError):  # on a full disk the next part says so
            write_live_page(work.folder, state)

    def stage(self, stage: str) -> None:
        """Say what is done beside or before the frames."""
        if self._progress is not None:
            self._progress(self._state("", stage=stage, frames_total=self._known))

    def progress(self, work: DataSetRun, cluster: str, dashboard: str) -> None:
        """Say how far things are, about twice a second."""
        if self._progress is None or time.monotonic() - self._line_at < _LINE_SECONDS:
            return
        self._line_at = time.monotonic()
        done = sum(stop - first for first, stop in work.done)
        known = self._known = len(work.numbers)
        self._progress(
            self._state(
                work.name,
                cluster=cluster,
                dashboard=dashboard,
                frames_done=done,
                frames_total=known,
                peaks=sum(part.peaks for part in work.done.values()),
                seconds=work.last_part - work.started,
                share=min(1.0, done / max(1, known)),
                notes=(*self.notes, *(f"{work.name}: {alarm}" for alarm in self._alarms.values())),
            )
        )

    def _state(self, dataset: str, **known: Any) -> Progress:
        nothing: dict[str, Any] = {
            "datasets_done": 0,
            "datasets_total": 1,
            "frames_done": 0,
            "frames_total": 0,
            "frames_before": self._before,
            "frames_failed": self._failed,
            "peaks": 0,
            "dashboard": "",
            "cluster": "",
            "stage": "",
            "seconds": 0.0,
            "notes": tuple(self.notes),
            "share": 0.0,
        }
        return Progress(dataset=dataset, **nothing | known)
