"""What the command line shows while it works and when it is done."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from braggflow.console import moves, moving_line, open_console, plain
from braggflow.errors import InputError, not_written, printable
from braggflow.files import written_whole
from braggflow.results import DataSetStatus, RunFolder, data_set_statuses, read_run_info

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from braggflow.exchange import TableComparison
    from braggflow.explain import Explanation
    from braggflow.flow import Outcome
    from braggflow.show import Preview
    from braggflow.sweeps import Sweep
    from braggflow.train import TrainProgress


#: Where the output is no terminal (a batch job's log), a plain line this often.
_LINE_SECONDS = 10.0
#: With more data sets than this, only those that are not complete are listed at the end of a run.
_ROWS = 30
#: Kinds of pictures that a preview is written as.
_PICTURES = (".png", ".svg", ".pdf")
#: A watched status is drawn this often.
_WATCH_SECONDS = 2.0


@contextmanager
def progress_bar(
    title: str, console: Console | None = None, *, before: str = "", unit: str = "frames", compiles: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Progress in frames, or another unit, shown by calling it with (done, total); `before` says what comes first.

    With `compiles` the line also says when kernels are compiled.
    """
    console = console or open_console(stderr=True)
    with _compiling_line(console, title) if compiles else moving_line(console, title) as show:
        if moves(console):
            show(before or title, None, "")
        yield lambda done, total: show(title, done / total, f"{done}/{total} {unit}")


@contextmanager
def _compiling_line(console: Console, title: str) -> Iterator[Callable[[str, float | None, str], None]]:
    from braggflow.compiled import compiling_told  # with numba, which commands without kernels need not

    with moving_line(console, title) as line, compiling_told(line) as show:
        yield show


@contextmanager
def training_progress() -> Iterator[Callable[["TrainProgress"], None]]:
    """A training's progress: its stage, or steps, loss on what is learned from and on what is not, rate, time left."""
    with _compiling_line(open_console(stderr=True), "training") as line:

        def show(state: "TrainProgress") -> None:
            if state.stage:
                line(state.stage, None, "")
                return
            validation = "" if math.isnan(state.validation) else f", validation {state.validation:.4f}"
            line(
                "training",
                state.fraction,
                f"step {state.step}, loss {state.loss:.4f}{validation}, {state.patches_per_second:.0f} patches/s",
            )

        yield show


def show_summary(outcomes: Sequence["Outcome"]) -> None:
    """The table at the end of a run, and for each data set that is not complete what to do.

    Where there are many, it names only those that are not complete.
    """
    from braggflow.flow import rate

    table = Table("data set", "status", "frames", "failed", "peaks", "frames/s", "seconds", title="braggflow run")
    many = len(outcomes) > _ROWS
    not_begun = [outcome for outcome in outcomes if outcome.status == "interrupted" and not outcome.frames]
    shown = [
        outcome
        for outcome in outcomes
        if outcome not in not_begun and (outcome.status != "complete" or outcome.message or not many)
    ]
    for outcome in shown:
        if outcome.status == "refused":
            table.add_row(_cell(outcome.name), outcome.status)
            continue
        speed = rate(outcome.frames_per_second) if outcome.frames_processed else ""
        table.add_row(
            _cell(outcome.name),
            outcome.status,
            str(outcome.frames),
            str(outcome.frames_failed),
            str(outcome.peaks),
            "done before" if outcome.status == "complete" and not outcome.frames_processed else speed,
            f"{outcome.seconds:.1f}",
        )
    console = open_console()
    if many:
        by_status = Counter(outcome.status for outcome in outcomes)
        plain(console, f"{len(outcomes)} data sets: {', '.join(f'{n} {status}' for status, n in by_status.items())}")
    if shown:
        console.print(table)
    if not_begun:
        plain(console, f"not begun: {len(not_begun)} data sets; the same command goes on with them.")
    if rerun := sum(outcome.tasks_rerun for outcome in outcomes):
        plain(console, f"tasks run again after their worker was lost or a read failed: {rerun}")
    for outcome in shown:
        if outcome.message:
            plain(console, f"{outcome.name}: {outcome.message}")
        if outcome.status == "partial" and outcome.frames_failed:
            plain(
                console,
                f"{outcome.name}: {outcome.frames_failed} frames failed, see: braggflow status {outcome.folder}\n"
                "The same command tries them again.",
            )
        if outcome.status == "interrupted":
            plain(console, f"{outcome.name}: stopped; the same command goes on from here.")
        folder = RunFolder(outcome.folder)
        if not many and (verdict := _verdict(folder)):
            plain(console, f"self-check: {verdict}")
        for what, path in {"peaks": folder.peaks, "report": folder.report}.items():
            if outcome.status in ("complete", "partial") and path.exists():
                plain(console, f"{what}: {path}")


def _verdict(folder: RunFolder) -> str:
    """What a run's self-check says of it; "" where there is none."""
    try:
        return printable(str(read_run_info(folder)["check"]["verdict"]))
    except (InputError, KeyError, TypeError):
        return ""


def _cell(text: str) -> Text:
    """A text of others in a table: not read as rich's markup, and nothing in it changes what is shown of the rest."""
    return Text(printable(text))


def show_status(folder: Path, *, watch: bool = False) -> None:
    """How a run, or the runs below a folder, stand: all in one line, a row each, and why some are not complete.

    With `watch`, line and rows are drawn again and again until no run goes on, or Ctrl-C; a run is waited for.
    """
    console = open_console()
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(console, folder, _first_states(folder))
    states = data_set_statuses(folder)
    plain(console, _standing(states))
    console.print(_rows(states))
    for state in states:
        for reason in state.reasons:
            plain(console, f"{state.name}: {reason}")
        if state.more:
            plain(console, f"{state.name}: and {state.more} more frames, see {RunFolder(state.path).info}")
        if state.status in _NEXT:
            plain(console, f"{state.name}: {_NEXT[state.status]}")


def _first_states(folder: Path) -> list[DataSetStatus]:
    """How the runs stand as soon as there is one."""
    with moving_line(open_console(stderr=True), f"waiting for a run to begin in {folder}") as line:
        while True:
            with suppress(InputError):
                return data_set_statuses(folder)
            line(f"waiting for a run to begin in {folder}", None, "")
            time.sleep(_WATCH_SECONDS)


def statuses_as_json(folder: Path) -> str:
    """A list with an object for each data set: the fields of `DataSetStatus`, and whether it has ended."""
    states = data_set_statuses(folder)
    return json.dumps([{**asdict(state), "path": str(state.path), "ended": state.ended} for state in states], indent=1)


_NEXT = {
    "partial": "the same braggflow run tries them again.",
    "interrupted": "the same braggflow run goes on from here.",
    "stopped": "was killed; the same braggflow run goes on from here.",
}


def _watch(console: Console, folder: Path, states: Sequence[DataSetStatus]) -> None:
    last = -math.inf
    with Live(console=console, auto_refresh=False, transient=True) if moves(console) else nullcontext() as view:
        while not all(state.ended for state in states):
            if view is not None:
                # Those that are not complete are last; the line, the table's frame and the cursor need the rest.
                shown = states[-max(1, console.height - 6) :]
                view.update(Group(Text(_standing(states)), _rows(shown)), refresh=True)
            elif time.monotonic() - last >= _LINE_SECONDS:
                plain(console, _standing(states))
                last = time.monotonic()
            time.sleep(_WATCH_SECONDS)
            states = data_set_statuses(folder)


def _standing(states: Sequence[DataSetStatus]) -> str:
    by_status = ", ".join(f"{n:,} {status}" for status, n in Counter(state.status for state in states).items())
    frames_all, failed, found = (
        sum(getattr(state, key) for state in states) for key in ("frames", "frames_failed", "peaks")
    )
    line = f"{len(states):,} data set{'s' * (len(states) != 1)}: {by_status}; {frames_all:,} frames, {failed:,} failed"
    if all(state.ended for state in states):
        return f"{line}; {found:,} peaks"
    return f"{line}; {sum(s.parts_done for s in states):,} of {sum(s.parts_total for s in states):,} parts done"


def _rows(states: Sequence[DataSetStatus]) -> Table:
    table = Table(Column("data set", overflow="fold"), "status", "parts", "frames", "failed", "peaks", "written (UTC)")
    for state in states:
        counted = (str(state.frames), str(state.frames_failed), str(state.peaks) if state.ended else "")
        table.add_row(
            _cell(state.name),
            _cell(state.status),
            *((f"{state.parts_done}/{state.parts_total}", *counted) if state.parts_total else ("", "", "", "")),
            _cell(state.written.removesuffix("+00:00").replace("T", " ")),
        )
    return table


@contextmanager
def evaluation_progress() -> Iterator[Callable[[str, float], None]]:
    """An evaluation's progress, shown by calling it with what is next and the share done."""
    with _compiling_line(open_console(stderr=True), "evaluating") as show:
        yield lambda what, share: show("evaluating", share, what)


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """What `evaluate.card_figures` found, one row a class; distances in pixels."""
    classes: Mapping[str, Mapping[str, float | None]] = figures["classes"]
    names = list(next(iter(classes.values())))
    table = Table("class", *(Column(name.replace("_", " "), justify="right") for name in names))
    for kind, values in classes.items():
        table.add_row(kind, *("–" if values[name] is None else f"{values[name]:.4f}" for name in names))
    console = open_console()
    console.print(table)
    shares = ", ".join(f"{kind} {share:.3f}" for kind, share in figures["outliers"].items())
    plain(console, f"share of outliers flagged: {shares}")


def show_verdict(found: Mapping[str, Any]) -> None:
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
    console = open_console()
    console.print(table)
    plain(console, f"The new weights are {'' if found['better'] else 'not '}better than {found['old']['file']}.")


def show_preview(found: "Preview") -> None:
    """Counts by flag and filter, the strongest peaks, warnings, and what a run would take."""
    console = open_console()
    plain(console, f"{found.source}, frame {found.frame} of {found.frames:,}")
    plain(console, "  " + ", ".join(f"{n:,} {name}" for name, n in found.counts.items()))
    rows = found.rows()
    if rows:
        table = Table(*(Column(name, justify="left" if name == "flags" else "right") for name in found.columns))
        for row in rows:
            table.add_row(*row)
        console.print(table)
        more = found.peaks.sizes["peak"] - len(rows)
        if more > 0:
            plain(console, f"and {more:,} more of lower SNR")
    for warning in found.warnings:
        plain(console, f"warning: {warning}")
    rate = 1 / found.seconds_per_frame if found.seconds_per_frame else 0
    plain(console, f"one core does about {rate:.3g} such frames a second")


def show_sweep(found: "Sweep") -> None:
    """The settings along each level through the recommended one, which is marked, and the reason."""
    console = open_console()
    n = len(found.rows())
    looked = f"{found.map.sizes['frame']:,} of {found.frames_of_series:,} frames"
    plain(console, f"{found.source}: {n:,} setting{'s' * (n != 1)} in {looked}")
    places = found.along()
    table = Table("", *(Column(name, justify="right") for name in found.columns))
    for place, row in zip(places, found.rows(places), strict=True):
        table.add_row("→" if place == found.place else "", *row, style="bold" if place == found.place else None)
    if places:
        console.print(table)
    plain(console, f"recommended: {found.reason}" if found.place is not None else found.reason)


def write_picture(found: "Preview | Explanation", out: Path | None) -> Path:
    """Write the picture; raises `InputError` where the file's kind is not known or it cannot be written."""
    from braggflow.frames import data_set_name

    path = out if out is not None else Path(f"preview_{data_set_name(found.source)}_{found.frame}.png")
    return save_figure(found.figure, path)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure; raises `InputError` as `write_picture` does."""
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"--out {path}: must end in {', '.join(_PICTURES)}")
    try:
        with written_whole(path) as temporary:
            figure.savefig(temporary)
    except OSError as error:
        raise not_written(f"--out {path}", error) from error
    return path


def show_comparison(found: "TableComparison") -> None:
    """What two tables have in common, by intensity, and which settings differ."""
    console, figures = open_console(), found.figures
    first, second = (printable(name) for name in found.names)
    plain(console, f"{first} and {second}: {figures['frames']:,} frames, radius {figures['radius']:g} px")
    apart = figures["matched_in_other_frame"]
    beside = f", {apart:,} of them in frames beside each other" if apart else ""
    plain(console, f"  in both       {figures['matched']:>9,}{beside}")
    plain(console, f"  extra         {figures['extra']:>9,}  only in {first}")
    plain(console, f"  missed        {figures['missed']:>9,}  only in {second}")
    if figures["matched"]:
        for axis in "yx":
            value, spread = figures[f"offset_{axis}"], figures[f"scatter_{axis}"]
            plain(console, f"  offset {axis}      {value:>+9.3f} px, scatter {spread:.3f} px")
        plain(console, f"  distance      {figures['distance_median']:>9.3f} px, 95 %: {figures['distance_95']:.3f} px")
    if found.by_intensity:
        table = Table("intensity", "peaks", "in both", "offset y", "offset x", "distance")
        for row in found.by_intensity:
            offsets = (f"{row[name]:.3f}" for name in ("offset_y", "offset_x", "distance_median"))
            table.add_row(
                f"{row['from']:.4g} to {row['to']:.4g}", f"{row['peaks']:,}", f"{row['matched']:.1%}", *offsets
            )
        console.print(table)
    for line in found.settings:
        plain(console, f"differs: {line}")
