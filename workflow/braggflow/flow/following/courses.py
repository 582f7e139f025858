"""Where a few peaks of a series are as its frames come, for the live page: no part of any result."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from braggflow import peak_table

#: Peaks that are chosen where none is asked for, and how far apart (pixels) these are at least.
_CHOSEN, _APART = 5, 20.0
#: How far (pixels) a peak may be from where it was in the nearest frame known.
_REACH = 5.0


class Courses:
    """Positions of chosen peaks, frame by frame; the first frame that holds peaks chooses them where none is given."""

    def __init__(self, places: Sequence[tuple[float, float]] | None) -> None:
        self._starts = None if places is None else list(places)
        self._found: list[dict[int, tuple[float, float]]] = [{} for _ in places or ()]

    def add(self, table: peak_table.Table) -> None:
        """Take the peaks of more frames."""
        for number in np.unique(table["peak_frame"]).tolist():
            rows = table[table["peak_frame"] == number]
            if self._starts is None:
                self._starts = _bright(rows)
                self._found = [{} for _ in self._starts]
            places = np.stack([rows["y"], rows["x"]], axis=1)
            for start, found in zip(self._starts, self._found, strict=True):
                near = min(found, key=lambda known: abs(known - number)) if found else None
                distance = np.hypot(*(places - (start if near is None else found[near])).T)
                at = int(np.argmin(distance))
                if distance[at] <= _REACH:
                    found[number] = (float(places[at, 0]), float(places[at, 1]))

    def courses(self) -> dict[str, NDArray[np.float64]]:
        """Rows of (frame, y, x) in order of the frames, by the place where each peak was first."""
        return {
            f"({start[0]:.0f}, {start[1]:.0f})": np.array([(n, *found[n]) for n in sorted(found)]).reshape(-1, 3)
            for start, found in zip(self._starts or (), self._found, strict=True)
        }


def _bright(rows: peak_table.Table) -> list[tuple[float, float]]:
    """The brightest peaks of a frame that stand apart."""
    chosen: list[tuple[float, float]] = []
    for row in rows[np.argsort(-rows["intensity"], kind="stable")]:
        if all(np.hypot(row["y"] - y, row["x"] - x) >= _APART for y, x in chosen):
            chosen.append((float(row["y"]), float(row["x"])))
    return chosen[:_CHOSEN]
