"""What the command line shows while it works and when it is done."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from braggflow import frames, store

if TYPE_CHECKING:  # they load dask and torch
    from braggflow import train
    from braggflow.runs import Outcome, Progress

#: Where the output is no terminal (a batch job's log), a plain line this often.
_LINE_SECONDS = 10.0
#: Columns of a log, where nobody can widen the window to read what was cut off.
_LOG_WIDTH = 200


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Progress in frames, shown by calling it with (done, total)."""
    with _line(_console(stderr=True), title) as show:
        yield lambda done, total: show(title, done / total, f"{done}/{total} frames")


@contextmanager
def live() -> Iterator[Callable[["Progress"], None]]:
    """A run's progress: frames, rate, peaks, failures, time left, and once the dashboard's address."""
    console = _console(stderr=True)
    start, told = time.monotonic(), False
    with _line(console, "starting (a first run compiles its kernels)") as line:

        def show(state: "Progress") -> None:
            nonlocal told
            if not told:
                _plain(console, f"dashboard: {state.dashboard}")
                told = True
            rate = _rate((state.frames_done - state.frames_before) / max(time.monotonic() - start, 1e-3))
            done = f"{state.frames_done}/{state.frames_total} frames, {rate} frames/s"
            line(
                state.dataset,
                state.frames_done / state.frames_total,
                f"{done}, {state.peaks} peaks, {state.frames_failed} frames failed",
            )

        yield show


@contextmanager
def training() -> Iterator[Callable[["train.Progress"], None]]:
    """A training's progress: steps, loss on what is learned from and on what is not, rate, time left."""
    with _line(_console(stderr=True), "training") as line:

        def show(state: "train.Progress") -> None:
            validation = "" if math.isnan(state.validation) else f", validation {state.validation:.4f}"
            line(
                "training",
                state.fraction,
                f"step {state.step}, loss {state.loss:.4f}{validation}, {state.patches_per_second:.0f} patches/s",
            )

        yield show


@contextmanager
def _line(console: Console, title: str) -> Iterator[Callable[[str, float, str], None]]:
    """One line that moves, shown by calling it with (title, share done, facts); in a log, a line every so often."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=12), TaskProgressColumn())
    facts_column = TextColumn("{task.fields[facts]}", markup=False, table_column=Column(overflow="fold"))
    last = -_LINE_SECONDS
    with Bar(
        *columns,
        TimeRemainingColumn(),
        facts_column,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as display:
        task = display.add_task(title, total=None, facts="")

        def show(title: str, share: float, facts: str) -> None:
            nonlocal last
            now = time.monotonic()
            display.update(task, description=title, completed=share, total=1.0, facts=f"left, {facts}")
            if not console.is_terminal and (share >= 1 or now - last > _LINE_SECONDS):
                _plain(console, f"{title}: {facts}")
                last = now

        yield show


def summary(outcomes: Sequence["Outcome"]) -> None:
    """The table at the end of a run, and for each data set that is not complete what to do."""
    table = Table("data set", "status", "frames", "failed", "peaks", "frames/s", "seconds", title="braggflow run")
    for outcome in outcomes:
        if outcome.status == "refused":
            table.add_row(outcome.name, outcome.status)
            continue
        rate = _rate(outcome.frames_processed / outcome.seconds) if outcome.seconds else ""
        table.add_row(
            outcome.name,
            outcome.status,
            str(outcome.frames),
            str(outcome.frames_failed),
            str(outcome.peaks),
            "done before" if outcome.status == "complete" and not outcome.frames_processed else rate,
            f"{outcome.seconds:.1f}",
        )
    console = _console()
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
    table = Table(Column("data set", overflow="fold"), "status", "parts", "frames", "failed", "peaks", "written (UTC)")
    console = _console()
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
            info["written"].removesuffix("+00:00").replace("T", " "),
        )
        for failure in info["failures"][:10]:
            _plain(console, f"{folder.path.name}: frame {failure['frame']}: {failure['reason']}")
        if len(info["failures"]) > 10:
            _plain(console, f"{folder.path.name}: and {len(info['failures']) - 10} more, see {folder.info}")
        if info["failures"] and not running:
            _plain(console, f"{folder.path.name}: the same braggflow run tries them again.")
    console.print(table)


def frames_store(path: Path) -> None:
    """One line about a frames store that was made."""
    data = frames.open_frames(path)
    shape = " × ".join(map(str, data["frames"].shape))
    coords = ", ".join(str(name) for name in data.coords if name != "frame") or "none"
    masked = f"{int((data['mask'] != 0).sum())} pixels masked" if "mask" in data else "no mask"
    _plain(_console(), f"{path}: {shape} {data['frames'].dtype}, {masked}, coordinates: {coords}")


@contextmanager
def evaluation_progress() -> Iterator[Callable[[str, float], None]]:
    """An evaluation's progress, shown by calling it with what is next and the share done."""
    with _line(_console(stderr=True), "evaluating") as show:
        yield lambda what, share: show("evaluating", share, what)


def evaluation(figures: Mapping[str, Any]) -> None:
    """What `evaluate.card_figures` found, one row a class; distances in pixels."""
    classes: Mapping[str, Mapping[str, float | None]] = figures["classes"]
    names = list(next(iter(classes.values())))
    table = Table("class", *(Column(name.replace("_", " "), justify="right") for name in names))
    for kind, values in classes.items():
        table.add_row(kind, *("–" if values[name] is None else f"{values[name]:.4f}" for name in names))
    console = _console()
    console.print(table)
    shares = ", ".join(f"{kind} {share:.3f}" for kind, share in figures["outliers"].items())
    _plain(console, f"share of outliers flagged: {shares}")


def verdict(found: Mapping[str, Any]) -> None:
    """What `finetune.verdict` found, one row a class: RMS distances from the labels, px."""
    columns = ("peaks", "old, px", "new, px", "new - old", "95 % interval")
    table = Table("class", *(Column(name, justify="right") for name in columns), "judged", title="on frames held out")
    for kind, values in found["classes"].items():
        table.add_row(
            kind,
            str(values["peaks"]),
            *(f"{values[name]:.4f}" for name in ("old", "new")),
            f"{values['difference']:+.4f}",
            f"{values['low']:+.4f} to {values['high']:+.4f}",
            values["judged"],
        )
    console = _console()
    console.print(table)
    _plain(console, f"The new weights are {'' if found['better'] else 'not '}better than {found['old']['file']}.")


def _rate(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_LOG_WIDTH)


def _plain(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
