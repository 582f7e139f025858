"""A page in a real browser: Debian's Chromium, headless, driven by Playwright."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from playwright.sync_api import Page as Tab
from playwright.sync_api import TimeoutError as TookTooLong
from playwright.sync_api import sync_playwright

from tests.patience import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: The element of a model of the page, by its name.
_ELEMENT = """name => {
  const model = Bokeh.documents[0].get_model_by_name(name)
  return Bokeh.index.find_one(model).el
}"""
#: Milliseconds from a change of a model to the frame that shows what a data source got for it.
_PAINTED = """async ([name, key, value, watched]) => {
  const document = Bokeh.documents[0]
  const model = document.get_model_by_name(name)
  const source = document.get_model_by_name(watched)
  const begun = performance.now()
  const came = new Promise(resolve => {
    const hear = () => {
      if (!Object.values(source.data)[0].length) return  // what was there is taken away first
      source.properties.data.change.disconnect(hear)
      resolve()
    }
    source.properties.data.change.connect(hear)
  })
  model[key] = value
  await came
  await new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))
  return performance.now() - begun
}"""
#: Seconds after which an answer is asked for once more.
_ANSWERS = 5.0
_TRIES = round(PATIENCE / _ANSWERS)
#: Clicks that follow each other by less are a double click, milliseconds.
_APART = 400
#: Whether the page tells of the pixel at a place: what it tells of others was asked before.
_TOLD_OF = """([y, x]) => {
  const document = Bokeh.documents[0], figure = document.get_model_by_name('figure')
  const within = 0.6 + Math.abs(figure.y_range.start - figure.y_range.end) / figure.inner_height
  const told = document.get_model_by_name('pixel').text.match(/^y (\\d+), x (\\d+)/)
  return told && Math.abs(told[1] - y) <= within && Math.abs(told[2] - x) <= within
}"""
_VALUE = "([name, key]) => Bokeh.documents[0].get_model_by_name(name)[key]"
_SET = "([name, key, value]) => { Bokeh.documents[0].get_model_by_name(name)[key] = value }"


class Served:
    """`braggflow view` in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, started: float) -> None:
        self.process, self.url, self.started = process, url, started


@contextmanager
def served(*arguments: object, folder: Path) -> Iterator[Served]:
    """The page of `braggflow view ARGUMENTS`, started in a folder; Ctrl-C must end it without a complaint."""
    started = perf_counter()
    command = [sys.executable, "-m", "braggflow", "view", *map(str, arguments), "--no-browser"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + process.communicate(timeout=PATIENCE)[1]
        yield Served(process, line.strip(), started)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, complaints
        assert "Traceback" not in complaints
        assert "ERROR" not in complaints
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


class Browser:
    """One tab on a page. What the page says on its console is kept: nothing is expected there."""

    def __init__(self, tab: Tab) -> None:
        self.tab, self.said, self._asked = tab, list[str](), 0
        tab.on("console", lambda message: self._hear(message.type, message.text))
        tab.on("pageerror", lambda error: self.said.append(str(error)))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "GPU stall" not in text:
            self.said.append(f"{kind}: {text}")

    def open(self, url: str) -> None:
        """Open a page and wait until its picture is painted."""
        self.tab.goto(url)
        self.tab.wait_for_function(
            "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].get_model_by_name('picture')"
            "?.data.image.length > 0",
            timeout=PATIENCE * 1000,
        )
        self.tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def element(self, name: str) -> Any:
        """The element of a widget, by its name."""
        return self.tab.evaluate_handle(_ELEMENT, name).as_element()

    def value(self, name: str, key: str = "value") -> Any:
        return self.tab.evaluate(_VALUE, [name, key])

    def set(self, name: str, value: Any, key: str = "value") -> None:
        """Change a widget, and wait until the page has answered all that it was asked."""
        self.tab.evaluate(_SET, [name, key, value])
        self.settle()

    def click(self, name: str) -> None:
        self.element(name).query_selector("button, input").click()
        self.settle()

    def choose(self, name: str, value: str) -> None:
        """Choose an option as a visitor does: by what it is called."""
        called = {
            of if isinstance(of, str) else of[0]: of if isinstance(of, str) else of[1]
            for of in self.value(name, "options")
        }
        self.element(name).query_selector("select").select_option(label=called[value])
        self.settle()

    def type(self, name: str, text: str) -> None:
        field = self.element(name).query_selector("input")
        field.fill(text)
        field.press("Enter")
        self.settle()

    def settle(self) -> None:
        """Wait until the server has answered: it tells of the pixel below the mouse after all that was asked before."""
        for _ in range(_TRIES):
            if self._told_of(*self._somewhere()):
                return
        raise AssertionError("the server does not answer")

    def told_at(self, y: float, x: float) -> str:
        """What the page tells of a pixel of the detector."""
        for _ in range(_TRIES):
            if self._told_of(y, x):
                return str(self.value("pixel", "text"))
            self.settle()  # a mouse that does not move says nothing
        raise AssertionError(f"nothing is told of y {y}, x {x}")

    def _told_of(self, y: float, x: float) -> bool:
        self.tab.mouse.move(*self.place(y, x))
        with suppress(TookTooLong):  # a page that is busy may not hear the mouse
            self.tab.wait_for_function(_TOLD_OF, arg=[y, x], timeout=_ANSWERS * 1000)
            return True
        return False

    def _somewhere(self) -> tuple[float, float]:
        """Another place of the shown part of the frame each time: a mouse that does not move says nothing.

        Most lie above the picture of an explanation, which may come meanwhile and hides the lower part.
        """
        x_start, x_end, y_start, y_end = self.tab.evaluate(
            """() => {
              const {x_range, y_range} = Bokeh.documents[0].get_model_by_name('figure')
              return [x_range.start, x_range.end, y_range.start, y_range.end]
            }"""
        )
        self._asked += 1
        share = self._asked * 0.618 % 1
        return y_end + (0.15 + 0.4 * share) * (y_start - y_end), x_start + (0.4 + 0.2 * share) * (x_end - x_start)

    def wait_for_text(self, name: str, pattern: str, *, seconds: float = PATIENCE) -> str:
        """Wait until a line of the page matches, and return it."""
        self.tab.wait_for_function(
            "([name, pattern]) => new RegExp(pattern).test(Bokeh.documents[0].get_model_by_name(name).text)",
            arg=[name, pattern],
            timeout=seconds * 1000,
        )
        return str(self.value(name, "text"))

    def painted(self, name: str, value: Any, *, watched: str, key: str = "value") -> float:
        """Milliseconds from a change of a widget until what it changed is painted: something, of a data source."""
        return float(self.tab.evaluate(_PAINTED, [name, key, value, watched]))

    def place(self, y: float, x: float) -> tuple[float, float]:
        """Where a pixel of the detector is on the screen."""
        left, top, width, height = self.tab.evaluate(
            """() => {
              const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('figure'))
              const frame = view.frame.bbox, box = view.el.getBoundingClientRect()
              return [box.left + frame.left, box.top + frame.top, frame.width, frame.height]
            }"""
        )
        x_start, x_end, y_start, y_end = self.tab.evaluate(
            """() => {
              const {x_range, y_range} = Bokeh.documents[0].get_model_by_name('figure')
              return [x_range.start, x_range.end, y_range.start, y_range.end]
            }"""
        )
        # The screen's first row is the end of the axis: rows count downwards.
        return left + (x - x_start) / (x_end - x_start) * width, top + (y_end - y) / (y_end - y_start) * height

    def click_at(self, y: float, x: float) -> None:
        across, down = self.place(y, x)
        self.tab.mouse.click(across, down)  # at once: what is held for 0.3 s is no click, however busy the machine
        self.settle()
        self.tab.wait_for_timeout(_APART)

    def drag(self, *places: tuple[float, float]) -> None:
        """Drag through places (y, x) of the detector."""
        points = [self.place(*place) for place in places]
        self.tab.mouse.move(*points[0])
        self.tab.mouse.down()
        for point in points[1:]:
            self.tab.mouse.move(*point, steps=4)
        self.tab.mouse.up()
        self.settle()

    @property
    def count(self) -> int:
        """The peaks of the shown frame, as the page says; the first search may still go on."""
        found = re.match(r"([\d,]+) peak", self.wait_for_text("counted", r"^[\d,]+ peak"))
        assert found
        return int(found[1].replace(",", ""))


@contextmanager
def browser(*, width: int = 1280, height: int = 800) -> Iterator[Browser]:
    """A tab of a browser of its own."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Browser(started.new_page(viewport={"width": width, "height": height}))
        finally:
            started.close()
