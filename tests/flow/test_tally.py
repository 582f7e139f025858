"""What is counted of a run, and what it says of the work that is left."""

import dataclasses
import time
from types import SimpleNamespace

import pytest

from braggflow.flow.tally import Tally
from braggflow.pipeline import MIN_GROUPS


def part(first, stop, peaks=10, failures=(), **seconds):
    return SimpleNamespace(first=first, stop=stop, peaks=peaks, failures=failures, seconds=seconds)


def work(groups, done=(), finished=0, began=0.0):
    """A data set of groups of 4 frames, of which an earlier run has done the first ones."""
    return SimpleNamespace(
        groups=range(groups),
        todo=range(groups - len(done)),
        done=dict(enumerate(done)),
        finished=finished,
        numbers=range(4 * groups),
        started=began,
        alarms={},
        watch=lambda: None,
        config=SimpleNamespace(output=SimpleNamespace(report=True)),
    )


def test_what_earlier_runs_did_is_counted_apart(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 130.0)
    tally = Tally(2.0, on_gpu=False)
    begun = work(5, [part(0, 4), part(8, 12, peaks=7)], began=100.0)
    tally.opened(begun)
    tally.frames_processed += 4
    tally.made(part(4, 8, peaks=3, failures=[{"frame": 5}]))
    begun.finished = 1
    state = tally.progress([begun], ended=1, total=4)
    assert (state.frames_before, state.frames_done, state.frames_total) == (8, 12, 20)
    assert (state.peaks, state.frames_failed, state.seconds) == (20, 1, 30.0)
    assert state.share == pytest.approx((1 + 3 / 5) / 4)
    assert tally.progress([begun], ended=2, total=4).share == pytest.approx((2 + 3 / 5) / 4)
    begun.finished = 3
    assert tally.progress([begun], ended=1, total=4).stage == "joining the table and making the report"


@pytest.mark.parametrize("on_gpu", [False, True])
def test_groups_that_are_left_are_asked_for_with_the_time_that_they_take(on_gpu):
    tally = Tally(2.0, on_gpu=on_gpu)
    assert dataclasses.astuple(tally.demand([], unopened=2, others=1)) == (2 * MIN_GROUPS + 1, 2.0, 0.0)
    begun = work(6)
    tally.opened(begun)
    tally.made(part(0, 4, read=1.0, locate=3.0, fit_on_gpu=2.0))
    tally.made(part(4, 8, read=2.0, locate=5.0, fit_on_gpu=2.0))
    begun.finished = 2
    left, cpu, gpu = dataclasses.astuple(tally.demand([begun], unopened=3, others=5))
    assert left == 4 + 3 * 6 + 5
    assert (cpu, gpu) == ((1.5, 6.0) if on_gpu else (7.5, 0.0))
