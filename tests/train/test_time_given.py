"""A training that is given a time ends within it: its end is measured before, and scaled to what is left."""

import math

from braggflow.train.time_given import EndCosts, TimeGiven


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def trained(
    seconds: float,
    costs: EndCosts,
    *,
    loading: float,
    spent: float = 0.0,
    adjusting: int = 300_000,
    peaks: int = 20_000,
) -> tuple[float, float, int, int]:
    """Seconds of the whole and of learning, and patches and peaks of the end, of a training of such costs."""
    clock = Clock()
    given = TimeGiven(seconds, began=100.0 - loading, clock=clock)
    given.begin_learning(spent, costs=costs, adjusting=adjusting, peaks=peaks)
    while given.share_learned() < 1:
        clock.work(0.01)
    learning = clock.now - 100.0
    clock.work(costs.fixed)
    patches = given.patches_to_adjust(adjusting, 1_000)
    clock.work(patches * costs.adjusting)
    measured = given.peaks_to_measure(peaks, 100)
    clock.work(measured * costs.measuring)
    return clock.now - 100.0 + loading + spent, learning, patches, measured


COSTS = EndCosts(fixed=0.5, adjusting=3e-4, measuring=2e-3)


def test_a_short_time_holds_loading_learning_and_a_smaller_end() -> None:
    whole, learning, patches, peaks = trained(20, COSTS, loading=6)
    assert 18 < whole <= 19  # a second is for what is before and after
    assert learning > 8
    assert 1_000 < patches < 300_000
    assert 100 < peaks < 20_000


def test_where_there_is_time_for_it_the_end_is_not_made_smaller() -> None:
    whole, _, patches, peaks = trained(3_600, COSTS, loading=6)
    assert whole <= 3_600
    assert (patches, peaks) == (300_000, 20_000)


def test_a_slower_machine_gets_a_smaller_end_and_keeps_the_time() -> None:
    slow = EndCosts(*(5 * cost for cost in COSTS))
    whole, _, patches, peaks = trained(20, slow, loading=6)
    assert whole <= 20 + 100 * slow.measuring
    assert patches < trained(20, COSTS, loading=6)[2]
    assert peaks < trained(20, COSTS, loading=6)[3]


def test_time_that_was_over_before_learning_leaves_the_least_of_everything() -> None:
    _, learning, patches, peaks = trained(20, COSTS, loading=150)
    assert (learning, patches, peaks) == (0.0, 1_000, 100)


def test_learning_of_a_process_that_was_stopped_counts() -> None:
    fresh, resumed = trained(60, COSTS, loading=6), trained(60, COSTS, loading=6, spent=20)
    assert 56 < resumed[0] <= 59
    assert 13 < fresh[1] - resumed[1] < 14  # a third of the time that is left is for the end


def test_what_is_wanted_less_than_there_is_time_for_is_what_is_done() -> None:
    _, _, patches, peaks = trained(20, COSTS, loading=2, adjusting=50, peaks=0)
    assert (patches, peaks) == (50, 0)


def test_without_a_time_nothing_is_made_smaller() -> None:
    given = TimeGiven(None, clock=Clock())
    given.begin_learning(0.0, costs=None)
    assert not given.limited
    assert given.left == math.inf
    assert (given.patches_to_adjust(300_000, 1_000), given.peaks_to_measure(20_000, 100)) == (300_000, 20_000)
