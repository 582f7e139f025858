"""What is told while a run goes on."""

import time
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

from rich.console import Console

from braggflow.flow import Progress, run_progress
from braggflow.flow.following.shown import Shown

STATE = Progress(
    dataset="scan",
    datasets_done=1,
    datasets_total=3,
    frames_done=30,
    frames_total=30,
    frames_before=10,
    frames_failed=2,
    peaks=1234,
    dashboard="http://here:8787",
    cluster="4 workers",
    stage="",
    seconds=4.0,
    notes=("scan: the beam was lost",),
    share=1.0,
)


def told(*states):
    out = StringIO()
    with run_progress(Console(file=out, width=400)) as show:
        for state in states:
            show(state)
    return out.getvalue()


def test_frames_their_rate_peaks_failures_and_workers_are_told_and_notes_once():
    lines = told(STATE, STATE).splitlines()
    (line,) = {line for line in lines if "frames" in line}
    assert "scan" in line
    assert "1/3 data sets, 30/30 frames, 5 frames/s, 1234 peaks, 2 frames failed, 4 workers" in line
    assert lines.count("dashboard: http://here:8787") == lines.count("scan: the beam was lost") == 1


def test_before_there_are_frames_no_count_of_them_is_told():
    assert "frames" not in told(replace(STATE, frames_done=0, frames_total=0, peaks=0))


def test_a_series_that_is_followed_tells_its_share_and_writes_its_page_now_and_then(monkeypatch):
    seen, clock = [], [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    shown = Shown(seen.append, None)

    work = SimpleNamespace(name="scan", numbers=range(8), started=90.0, last_part=99.0)
    work.done = {(0, 2): SimpleNamespace(peaks=7), (4, 8): SimpleNamespace(peaks=5)}
    shown.progress(work, "", "")
    clock[0] += 0.4
    shown.progress(work, "", "")  # too soon
    (state,) = seen
    assert (state.frames_done, state.frames_total, state.peaks, state.seconds) == (6, 8, 12, 9.0)
    assert state.share == 0.75
    assert shown.due()
    shown._page_at = clock[0]
    clock[0] += 1.9
    assert not shown.due()
    clock[0] += 0.1
    assert shown.due()
