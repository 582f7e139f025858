"""A run's progress as people see it: on a terminal, in a notebook, in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from braggflow.compiled import compiling_told
from braggflow.console import moving_line, plain
from braggflow.flow.outcome import Progress


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
