"""A run's progress as people see it: on a terminal, in a notebook, in a log."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event
from rich.console import Console

from braggflow.console import moving_line, plain
from braggflow.flow.outcome import Progress

Line = Callable[[str, float | None, str], None]
#: What a line says while kernels are compiled.
COMPILING = "compiling, once after an installation"


@contextmanager
def run_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What is being done, frames, rate, peaks, failures, workers, time left; the dashboard and each note once."""
    told, dataset = set[str](), ""
    with moving_line(console, "starting") as drawn, compiling_told(drawn) as line:

        def show(state: Progress) -> None:
            nonlocal dataset
            dataset = state.dataset or dataset or "braggflow"
            for note in (*([f"dashboard: {state.dashboard}"] if state.dashboard else []), *state.notes):
                if note not in told:
                    plain(console, note)
                    told.add(note)
            if state.stage:
                line(state.stage, None, ", ".join(filter(None, (_found(state), state.cluster))))
            elif not state.frames_total:
                line(dataset, None, state.cluster)
            else:
                line(dataset, state.share, ", ".join(filter(None, (_counts(state), state.cluster))))

        yield show


@contextmanager
def compiling_told(drawn: Line) -> Iterator[Line]:
    """A line like `drawn` that also says when kernels are compiled: nothing else before the frames takes minutes."""
    last: tuple[str, float | None, str] | None = None

    def line(title: str, share: float | None, facts: str) -> None:
        nonlocal last
        last = (title, share, facts)
        drawn(title, share, facts)

    def compiling(begun: bool) -> None:
        if begun:
            drawn(COMPILING, None, "")
        elif last is not None:
            drawn(*last)

    listener = _Compiling(compiling)
    event.register("numba:compile", listener)
    try:
        yield line
    finally:
        event.unregister("numba:compile", listener)


class _Compiling(event.Listener):
    """Told by numba of each function that it compiles in this thread; what one calls is compiled within it."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell, self._depth, self._thread = tell, 0, threading.current_thread()

    def on_start(self, _: Any) -> None:
        """Begin to compile."""
        self._step(1)

    def on_end(self, _: Any) -> None:
        """Have compiled."""
        self._step(-1)

    def _step(self, by: int) -> None:
        if threading.current_thread() is self._thread:
            self._depth += by
            if self._depth == max(0, by):
                self._tell(by > 0)


def _found(state: Progress) -> str:
    return f"{state.frames_done}/{state.frames_total} frames, {state.peaks} peaks" if state.frames_total else ""


def _counts(state: Progress) -> str:
    if not state.frames_total:
        return ""
    several = f"{state.datasets_done}/{state.datasets_total} data sets, " if state.datasets_total > 1 else ""
    processed = state.frames_done - state.frames_before
    speed = f", {rate(processed / state.seconds)} frames/s" if processed and state.seconds else ""
    return (
        f"{several}{state.frames_done}/{state.frames_total} frames{speed}, {state.peaks} peaks, "
        f"{state.frames_failed} frames failed"
    )


def rate(per_second: float) -> str:
    """A rate with two digits, or whole where it has more."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
