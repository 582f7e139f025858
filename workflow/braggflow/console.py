"""Lines that a terminal, a notebook or a log shows while something goes on."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from html import escape
from importlib import import_module
from threading import Event, Thread, Timer

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from braggflow.errors import printable

#: Where the output is no terminal (a batch job's log), a plain line this often.
_LINE_SECONDS = 10.0
#: What takes no longer than this is not told in a log.
_SHORT_SECONDS = 1.0
#: A notebook's line is drawn anew this often.
_DRAWN_SECONDS = 0.5
#: Columns of a log, where nobody can widen the window to read what was cut off.
_LOG_WIDTH = 200


def open_console(*, stderr: bool = False) -> Console:
    """A console whose lines nobody can widen where it is no terminal, but a log."""
    stream = sys.stderr if stderr else sys.stdout
    # FORCE_COLOR, which notebooks set for the commands in their cells, makes no terminal of what is none.
    forced = None if stream.isatty() else False
    console = Console(stderr=stderr, force_terminal=forced)
    return console if moves(console) else Console(stderr=stderr, force_terminal=forced, width=_LOG_WIDTH)


def moves(console: Console) -> bool:
    """Whether a line can be drawn anew: on a terminal or in a notebook, but not in a log."""
    return console.is_terminal or console.is_jupyter


def plain(console: Console, *lines: str) -> None:
    """Lines as they are, however long, in one go: no line of another thread comes between them."""
    console.print("\n".join(map(printable, lines)), soft_wrap=True, markup=False, highlight=False)


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

    Where the share is None the title says what is done, and the line counts the seconds. In a log it is a plain line:
    for what is done, once it has taken most of a second; for a share, every ten seconds and at its end.
    """
    with ExitStack() as stack:
        if console.is_jupyter:
            show = _in_notebook(stack)
        else:
            show = _drawn(stack, console, title) if moves(console) else _logged(stack, console)
        yield lambda title, share, facts: show(printable(title), share, printable(facts))


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Say on standard error what is done while the block runs, with its seconds; not in a log, where nobody waits."""
    console = open_console(stderr=True)
    if not moves(console):
        yield
        return
    with moving_line(console, what) as line:
        line(what, None, "")
        yield


def _in_notebook(stack: ExitStack) -> Callable[[str, float | None, str], None]:
    """A line of a notebook, by its own means: rich would need ipywidgets, and warn where they are not there."""
    shown = import_module("IPython.display")
    handle = shown.display(shown.HTML(""), display_id=True)
    now: tuple[str, float | None, str] = ("", None, "")
    since, ended = time.monotonic(), Event()

    def draw() -> None:
        (title, share, facts), seconds = now, time.monotonic() - since
        if share is None:
            state = f"{seconds:.0f} s"
        elif share > 0:
            state = f"{share:.0%}, {timedelta(seconds=int(seconds * (1 - share) / share))} left"
        else:
            state = f"{share:.0%}"
        handle.update(shown.HTML(f"<pre>{escape('  '.join(filter(None, (title, state, facts))))}</pre>"))

    def keep_drawing() -> None:
        while not ended.wait(_DRAWN_SECONDS):
            draw()

    def end() -> None:
        ended.set()
        drawing.join()
        handle.update(shown.HTML(""))

    def show(title: str, share: float | None, facts: str) -> None:
        nonlocal now, since
        if (now[1] is None) != (share is None) or (share is None and now[0] != title):
            since = time.monotonic()
        now = (title, share, facts)

    drawing = Thread(target=keep_drawing, daemon=True)
    drawing.start()
    stack.callback(end)
    return show


def _drawn(stack: ExitStack, console: Console, title: str) -> Callable[[str, float | None, str], None]:
    columns = (BarColumn(bar_width=12), TaskProgressColumn(), _Time())
    facts_column = TextColumn("{task.fields[facts]}", markup=False, table_column=Column(overflow="fold"))
    text = TextColumn("{task.description}", markup=False)
    display = stack.enter_context(
        Progress(SpinnerColumn(finished_text=" "), text, *columns, facts_column, console=console, transient=True)
    )
    task = display.add_task(title, total=None, facts="")

    def show(title: str, share: float | None, facts: str) -> None:
        nonlocal task
        now, total = display.tasks[0], None if share is None else 1.0
        if now.total != total or (share is None and now.description != title):
            display.remove_task(task)  # its time begins anew; a total of None could not be set on the old one
            task = display.add_task(title, total=total, facts=facts)
        display.update(task, description=title, completed=share or 0.0, facts=facts)

    return show


def _logged(stack: ExitStack, console: Console) -> Callable[[str, float | None, str], None]:
    last, written, stage = -_LINE_SECONDS, "", ""
    waiting = Timer(0, lambda: None)

    def show(title: str, share: float | None, facts: str) -> None:
        nonlocal last, written, stage, waiting
        line, now = f"{title}: {facts}" if facts else title, time.monotonic()
        if share is None:
            if title != stage:
                waiting.cancel()
                stage, waiting = title, Timer(_SHORT_SECONDS, plain, (console, line))
                waiting.daemon = True
                waiting.start()
            return
        waiting.cancel()
        stage = ""
        if now - last > _LINE_SECONDS or (share >= 1 and line != written):
            plain(console, line)
            last, written = now, line

    stack.callback(lambda: waiting.cancel())
    return show
