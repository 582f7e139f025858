"""What the stamps of frames were when they arrived, on disk: a run that is taken up knows which were written anew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from braggflow.frames import frame_stamps


class StampRecord:
    """The stamps of the frames of a series, by position in it; a line for those that arrived together."""

    def __init__(self, file: Path, series: Path) -> None:
        self._file, self._series = file, series
        self.known = _read(file)

    def add(self, positions: Sequence[int]) -> list[int]:
        """Take the stamps of frames that arrived, before they are read; those of `positions` that have one."""
        stamps = dict(zip(positions, frame_stamps(self._series, positions), strict=True))
        there = {position: stamp for position, stamp in stamps.items() if stamp}
        if there:
            with self._file.open("a", encoding="ascii") as file:
                file.write(json.dumps(there) + "\n")
        self.known |= there
        return list(there)

    def changed(self) -> set[int]:
        """Positions of the frames that are others now, or gone."""
        positions = sorted(self.known)
        now: Mapping[int, str] = dict(zip(positions, frame_stamps(self._series, positions), strict=True))
        return {position for position, stamp in self.known.items() if now[position] != stamp}

    def lacking(self, positions: Sequence[int]) -> list[int]:
        """Those of the positions whose frames never came."""
        never = [position for position in positions if position not in self.known]
        return [position for position, now in zip(never, frame_stamps(self._series, never), strict=True) if not now]


def _read(file: Path) -> dict[int, str]:
    known: dict[int, str] = {}
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            known |= {int(position): str(stamp) for position, stamp in json.loads(line).items()}
        except (ValueError, AttributeError):
            continue  # a crash cut it short: these frames are processed again
    return known
