"""What the command line shows while it works and when it is done."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from braggflow import frames, store
from braggflow.runs import Outcome, Progress

#: Where the output is no terminal (a batch job's log), a plain line this often.
_LINE_SECONDS = 10.0


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, advanced by calling it with (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as display:
        task = display.add_task(title, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


@contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """A run's progress: frames, rate, peaks, failures, time left, and once the dashboard's address."""
    console = Console(stderr=True)
    start, last = time.monotonic(), 0.0
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Bar(*columns, TextColumn("{task.fields[facts]}"), TimeRemainingColumn(), console=console) as display:
        display.live.auto_refresh = console.is_terminal
        task = display.add_task("starting workers", total=None, facts="", visible=console.is_terminal)

        def show(state: Progress) -> None:
            nonlocal last
            if last == 0.0:
                console.print(f"dashboard: {state.dashboard}")
            now = time.monotonic()
            rate = (state.frames_done - state.frames_before) / max(now - start, 1e-3)
            facts = f"{rate:.0f} frames/s, {state.peaks} peaks, {state.frames_failed} frames failed"
            if console.is_terminal:
                display.update(
                    task, description=state.dataset, completed=state.frames_done, total=state.frames_total, facts=facts
                )
            elif last == 0.0 or now - last > _LINE_SECONDS:
                console.print(f"{state.dataset}: {state.frames_done}/{state.frames_total} frames, {facts}")
            last = now if last == 0.0 or now - last > _LINE_SECONDS else last

        yield show


def summary(outcomes: Sequence[Outcome]) -> None:
    """The table at the end of a run, and for each data set that is not complete what to do."""
    table = Table("data set", "status", "frames", "failed", "peaks", "frames/s", "seconds", title="braggflow run")
    for outcome in outcomes:
        rate = f"{outcome.frames_processed / outcome.seconds:.0f}" if outcome.seconds else "done before"
        table.add_row(
            outcome.name,
            outcome.status,
            str(outcome.frames),
            str(outcome.frames_failed),
            str(outcome.peaks),
            rate,
            f"{outcome.seconds:.1f}",
        )
    console = Console()
    console.print(table)
    for outcome in outcomes:
        if outcome.message:
            _plain(console, f"{outcome.name}: {outcome.message}")
        if outcome.status == "partial":
            _plain(
                console,
                f"{outcome.name}: {outcome.frames_failed} frames failed, see: braggflow status {outcome.folder}\n"
                "The same command tries them again.",
            )
        if outcome.status == "interrupted":
            _plain(console, f"{outcome.name}: stopped; the same command goes on from here.")
        folder = store.RunFolder(outcome.folder)
        for what, path in {"peaks": folder.peaks, "report": folder.report}.items():
            if outcome.status in ("complete", "partial") and path.exists():
                _plain(console, f"{what}: {path}")


def status(folders: Sequence[store.RunFolder]) -> None:
    """One row a run, and the first failures of each."""
    table = Table("data set", "status", "parts", "frames", "failed", "peaks", "written (UTC)")
    console = Console()
    for folder in folders:
        info = store.read_info(folder)
        counts = info["counts"]
        running = info["status"] == "running"
        finished = len(list(folder.parts.glob("part-*.npz"))) if running else info["parts"]["done"]
        table.add_row(
            folder.path.name,
            "running (or killed: the same command resumes)" if running else info["status"],
            f"{finished}/{info['parts']['total']}",
            str(counts["frames"]),
            str(counts["frames_failed"]),
            "" if running else str(counts["peaks"]),
            info["written"],
        )
        for failure in info["failures"][:10]:
            _plain(console, f"{folder.path.name}: frame {failure['frame']}: {failure['reason']}")
        if len(info["failures"]) > 10:
            _plain(console, f"{folder.path.name}: and {len(info['failures']) - 10} more, see {folder.info}")
    console.print(table)


def frames_store(path: Path) -> None:
    """One line about a frames store that was made, and what to do next."""
    data = frames.open_frames(path)
    shape = " × ".join(map(str, data["frames"].shape))
    coords = ", ".join(str(name) for name in data.coords if name != "frame") or "none"
    masked = f"{int((data['mask'] != 0).sum())} pixels masked" if "mask" in data else "no mask"
    _plain(Console(), f"{path}: {shape} {data['frames'].dtype}, {masked}, coordinates: {coords}")


def _plain(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
