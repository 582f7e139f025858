"""How things are timed on a GPU, or on the CPU where there is none."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from braggflow.simulate import CLASSES, SimulatedPatches, simulate_patches

_Set = TypeVar("_Set")


class Device:
    """The GPU, if there is one, and how much is asked of it."""

    def __init__(self, *, quick: bool, until: float) -> None:
        self.cuda = torch.cuda.is_available()
        self.name = torch.cuda.get_device_name() if self.cuda else ""
        self.torch = torch.device("cuda" if self.cuda else "cpu")
        self.quick = quick or not self.cuda
        self.patches = 64 if self.quick else 1 << 16
        """Of a set."""
        self.sets = 2 if self.quick else 8
        """Together 317 MB, more than a GPU's cache holds."""
        self.rounds = 1 if self.quick else 7
        self.ceilings: dict[str, float] = {}
        self._until = until

    def drawn(self) -> SimulatedPatches:
        """A set of simulated patches."""
        return simulate_patches(self.patches, rng=np.random.default_rng(7), config=CLASSES["sampled"])

    def there(self, counts: np.ndarray, state: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Sets of patches on the device: the same in different order, so that each set is memory of its own."""
        rng, sets = np.random.default_rng(8), []
        for _ in range(self.sets):
            order = rng.permutation(len(counts))
            sets.append(tuple(torch.from_numpy(array[order]).to(self.torch) for array in (counts, state)))
        return sets

    def seconds(self, call: Callable[[_Set], object], sets: Sequence[_Set]) -> float:
        """Of a call: the median of rounds, each over all sets in turn, by the device's own clock."""
        for one in sets[: 1 if self.quick else 2]:
            call(one)
        self.wait()
        taken = []
        for _ in range(self.rounds):
            if self.cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for one in sets:
                    call(one)
                end.record()
                end.synchronize()
                taken.append(start.elapsed_time(end) / 1000 / len(sets))
            else:
                begin = time.perf_counter()
                for one in sets:
                    call(one)
                taken.append((time.perf_counter() - begin) / len(sets))
        return float(np.median(taken))

    def wall_seconds(self, call: Callable[[], object]) -> float:
        """Of a call that waits for its result itself: the median of rounds by the clock on the wall."""
        call()
        taken = []
        for _ in range(self.rounds):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
        return float(np.median(taken))

    def is_late(self) -> bool:
        """Whether nothing more is to be begun."""
        return time.perf_counter() > self._until

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give the device's memory back."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def share(value: float, ceiling: float | None) -> Any:
    """Of a ceiling, if that was measured."""
    return value / ceiling if ceiling else None
