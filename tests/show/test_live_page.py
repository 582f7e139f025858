"""The page of a run that follows a series: what it says, and that a browser shows it anew by itself."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from braggflow.results import FRAME_STATE, RunFolder
from braggflow.show import LiveState, write_live_page
from tests.patience import PATIENCE

PICTURES = Path(os.environ.get("BRAGGFLOW_PICTURES", "build/pictures"))


def written(folder: Path, n_frames: int, *, ended: bool = False, name: str = "scan") -> str:
    """The page after so many frames."""
    numbers = np.arange(n_frames)
    states = np.zeros(n_frames, FRAME_STATE)
    states["frame"], states["peaks"], states["mean"] = numbers, 14 + numbers % 3, 4 + np.sin(numbers / 40)
    place = np.stack([numbers, 100 + 0.01 * numbers, 50 - np.sin(numbers / 30)], axis=1).astype(float)
    state = LiveState(
        name,
        "is whole" if ended else "is being written",
        frames_known=1000,
        frames_failed=2,
        late=3,
        seconds_to_peaks=0.4321 if n_frames else None,
        states=states,
        courses={"(100, 50)": place, "(20, 30)": place[:0]},
        alarms=("from frame 8 on: the <beam> is lost",) if n_frames else (),
        report="report.html",
        ended=ended,
    )
    write_live_page(RunFolder(folder), state)
    return RunFolder(folder).live_page.read_text(encoding="utf-8")


def test_it_says_how_far_things_are_and_loads_itself_anew_until_the_end(tmp_path):
    page = written(tmp_path, 700, name="<b>scan")
    assert "&lt;b&gt;scan is being written" in page
    assert "<b>scan" not in page
    assert "the &lt;beam&gt; is lost" in page
    counts = re.findall(r"<li>(.*)</li>", page)
    assert counts == [
        "700 frames done of 1,000 that are known so far",
        "2 could not be read yet",
        "3 came late",
        "10,499 peaks, 15.0 a frame",
        "peaks 0.43 s after their frame (median)",
    ]
    curves = re.findall(r'points="([^"]*)"', page)
    assert len(curves) == 4
    assert all(200 < len(curve.split()) <= 500 for curve in curves)
    assert '<meta http-equiv="refresh"' in page
    assert "report.html" not in page
    last = written(tmp_path, 700, ended=True)
    assert "refresh" not in last
    assert '<a href="report.html">' in last
    assert "0 frames done" in written(tmp_path, 0)


@pytest.mark.browser
def test_a_browser_shows_it_and_what_was_written_since(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see make test-browser")
    from tests.view.browser import CHROMIUM, browser

    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    written(tmp_path, 300)
    with browser(height=1100) as tab:
        tab.tab.goto(RunFolder(tmp_path).live_page.as_uri())
        assert "300 frames done" in tab.tab.inner_text("body")
        written(tmp_path, 900)
        tab.tab.get_by_text("900 frames done").wait_for(timeout=PATIENCE * 1000)
        PICTURES.mkdir(parents=True, exist_ok=True)
        tab.tab.screenshot(path=PICTURES / "live.png")
        assert tab.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.tab.locator("polyline").count() == 4
        assert tab.said == []
