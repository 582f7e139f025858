"""The line that says what goes on."""

import re
import sys
import time
from io import StringIO
from types import ModuleType

from rich.console import Console

from braggflow import console as console_module
from braggflow.console import moves, moving_line, open_console
from tests.patience import PATIENCE


class Notebook(ModuleType):
    """What a notebook shows of `IPython.display`: each state of one output."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.states: list[str] = []

    def HTML(self, text: str) -> str:  # noqa: N802 - as IPython has it
        return text

    def display(self, text: str, *, display_id: bool) -> "Notebook":
        assert display_id
        self.states.append(text)
        return self

    def update(self, text: str) -> None:
        self.states.append(text)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.states[-1]:
            assert time.monotonic() < deadline, self.states
            time.sleep(0.01)


def test_a_notebook_has_a_line_that_moves_and_goes_without_ipywidgets(monkeypatch):
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr(console_module, "_DRAWN_SECONDS", 0.01)
    with moving_line(Console(force_jupyter=True), "run") as line:
        line("opening <scan>", None, "")
        notebook.wait_for("<pre>opening &lt;scan&gt;  0 s</pre>")
        notebook.wait_for("1 s")  # counted while nothing is called
        line("scan", 0.0, "0/4 frames")
        notebook.wait_for("<pre>scan  0%  0/4 frames</pre>")
        line("scan", 1.0, "4/4 frames")
        notebook.wait_for("scan  100%, 0:00:00 left  4/4 frames")
    assert notebook.states[-1] == ""


def test_what_has_no_share_counts_its_seconds_also_after_something_that_had_one():
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    with moving_line(console, "run") as line:
        line("scan", 1.0, "4/4 frames")
        line("making the report", None, "4/4 frames")
        time.sleep(0.3)  # two drawings or more
    last = [text for text in shown.getvalue().split("\r") if "making the report" in text][-1]
    assert re.search(r" +0 s +4/4 frames", last), last
    assert "%" not in last
    assert "left" not in last


def test_colours_that_are_asked_for_make_no_terminal_of_a_log(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not moves(open_console())
    assert not moves(open_console(stderr=True))
