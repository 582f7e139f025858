"""The time that a training is given: what of it is left for learning, and how much its end may cost."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

#: For what this process does before its clock is asked and after its work is done, seconds.
_AROUND = 1.0
#: Of the time that is left when learning begins, no more than this share is kept for the end.
_MOST_OF_IT = 1 / 3
#: How far the rates measured before may be trusted.
_TRUST = 0.9


class EndCosts(NamedTuple):
    """What the end of a training costs on this machine, measured before it begins; seconds."""

    fixed: float
    """Of the last validation, and of whatever else does not scale."""
    adjusting: float
    """For each patch of the adjustment."""
    measuring: float
    """For each peak of each class that the card's figures come from."""


class TimeGiven:
    """The `seconds` of a whole training from `began` on, in `clock`; None: as long as it takes.

    Learning ends so early that there is time left for the end, and the work of the end is scaled to what is left.
    """

    def __init__(
        self, seconds: float | None, began: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._ends = math.inf if seconds is None else (clock() if began is None else began) + seconds - _AROUND
        self._costs = EndCosts(0.0, 0.0, 0.0)
        self._learning, self._until, self._measuring = 0.0, math.inf, 0.0

    @property
    def limited(self) -> bool:
        """Whether there is an end to it."""
        return self._ends < math.inf

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 where they are over."""
        return self._ends - self._clock()

    def begin_learning(
        self, spent: float, costs: EndCosts | None = None, *, adjusting: int = 0, peaks: int = 0
    ) -> None:
        """Learning begins, after `spent` seconds of it in a process that was stopped.

        `costs` are those of the end, of which `adjusting` patches and `peaks` are the most that is wanted.
        """
        self._costs = self._costs if costs is None else costs
        self._ends -= spent
        self._learning = self._clock() - spent
        self._measuring = self._costs.measuring * peaks
        whole = self._costs.fixed + self._costs.adjusting * adjusting + self._measuring
        self._until = self._ends - min(whole / _TRUST, max(0.0, self.left) * _MOST_OF_IT)

    def share_learned(self) -> float:
        """The share of the time for learning that has passed."""
        length = self._until - self._learning
        return (self._clock() - self._learning) / length if length > 0 else 1.0

    def patches_to_adjust(self, wanted: int, fewest: int) -> int:
        """How many of the patches that are wanted for the adjustment there is time for; not fewer than `fewest`."""
        return self._affordable(wanted, self._costs.adjusting, self._measuring, fewest)

    def peaks_to_measure(self, wanted: int, fewest: int) -> int:
        """How many of the peaks of each class that are wanted there is time for; not fewer than `fewest`."""
        return self._affordable(wanted, self._costs.measuring, 0.0, fewest)

    def _affordable(self, wanted: int, cost: float, then: float, fewest: int) -> int:
        """How many there is time for at a `cost` each, where what comes `then` is made smaller in the same measure."""
        whole = wanted * cost + then
        if not self.limited or whole <= self.left * _TRUST:
            return wanted
        return min(wanted, max(fewest, int(wanted * self.left * _TRUST / whole)))
