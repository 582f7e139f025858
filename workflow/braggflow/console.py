"""Lines that a terminal, a notebook or a log shows while something goes on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

#: Where the output is no terminal (a batch job's log), a plain line this often.
_LINE_SECONDS = 10.0
#: Columns of a log, where nobody can widen the window to read what was cut off.
_LOG_WIDTH = 200


def open_console(*, stderr: bool = False) -> Console:
    """A console whose lines nobody can widen where it is no terminal, but a log."""
    console = Console(stderr=stderr)
    return console if moves(console) else Console(stderr=stderr, width=_LOG_WIDTH)


def moves(console: Console) -> bool:
    """Whether a line can be drawn anew: on a terminal or in a notebook, but not in a log."""
    return console.is_terminal or console.is_jupyter


def plain(console: Console, text: str) -> None:
    """A line as it is, however long."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Time(ProgressColumn):
    """The time that is left, or where it is not known how much is to do, the time that has passed."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.elapsed or 0:.0f} s")
        remaining = task.time_remaining
        return Text("" if remaining is None else f"{timedelta(seconds=int(remaining))} left")


@contextmanager
def moving_line(console: Console, title: str) -> Iterator[Callable[[str, float | None, str], None]]:
    """One line that moves, shown by calling it with (title, share done, facts).

    Where the share is None the title says what is done, and the line counts the seconds. In a log a plain line is
    written for each new title of this kind, and else every ten seconds.
    """
    last, written = -_LINE_SECONDS, ""
    with Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TaskProgressColumn(show_speed=False),
        _Time(),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(overflow="fold")),
        console=console,
        disable=not moves(console),
        transient=True,
    ) as display:
        task, shown = display.add_task(title, total=None, facts=""), title

        def show(title: str, share: float | None, facts: str) -> None:
            nonlocal last, written, shown
            total = None if share is None else 1.0
            if (share is None and title != shown) or display.tasks[0].total != total:
                display.reset(task, total=total)  # its time begins anew
            display.update(task, description=title, completed=share or 0.0, facts=facts)
            shown = title
            if moves(console):
                return
            now, line = time.monotonic(), f"{title}: {facts}" if facts else title
            at_once = share is None or (share >= 1 and line != written)
            if (at_once and line != written) or now - last > _LINE_SECONDS:
                plain(console, line)
                last, written = now, line

        yield show
