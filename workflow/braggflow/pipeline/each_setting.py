"""One frame through the whole chain by each of several settings of detection, what they share done once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.config import DetectConfig, RunConfig
from braggflow.detect import Detection, LevelGrid, cut_patches, detect_each
from braggflow.fit import Deblended
from braggflow.frames import UNREADABLE, CorrectedFrame, OpenedSeries
from braggflow.locate import Located
from braggflow.pipeline.stages import ChunkPeaks, accepted, assembled, fit_peaks, locate_peaks


@dataclass(frozen=True, slots=True)
class FrameByEach:
    """What the whole chain makes of one frame by each of several settings."""

    tables: list[peak_table.Table]
    """Of each setting, as `complete_peaks` returns it; empty where the frame fails."""
    failures: list[str]
    """Why the frame fails by each setting; "" where it does not."""
    patches: patches.Patches
    """All patches that differ, of all settings."""
    rows: list[NDArray[np.int64]]
    """Of each setting, the patches of its maxima, in the order of the table."""
    pixels: int
    """Pixels of the searched frame that are not ignored."""


def look_by_each(opened: OpenedSeries, position: int, settings: Sequence[DetectConfig]) -> FrameByEach:
    """The selected frame at a position through the whole chain by each of `settings`, in this process.

    Of each setting the table is what `search_chunk`, `locate_peaks` and `complete_peaks` make of the frame with that
    for `config.detect`, exactly, but for the column `area` (see `detect_each`). The settings are those of one engine,
    background and cell, or each of these has a search of its own. Peaks whose patches are the same by several settings
    are located and fitted once.
    """
    config = opened.config
    empty = patches.empty(config.patches)
    try:
        frame = opened.corrected(opened.raw(position))
    except UNREADABLE as error:
        n = len(settings)
        none = np.empty(0, np.int64)
        return FrameByEach([peak_table.empty()] * n, [_told(error)] * n, empty, [none] * n, 0)
    pool = _Pool(config, frame, opened.numbers[position])
    failures = [""] * len(settings)
    for at, detection in enumerate(_detections(opened, frame, settings)):
        try:
            if isinstance(detection, Exception):
                raise detection
            of_setting = config.model_copy(update={"detect": settings[at]})
            pool.take(accepted(of_setting, frame, detection), settings[at])
        except Exception as error:  # noqa: BLE001 - recorded, as a run does
            failures[at] = _told(error)
            pool.take_nothing()
    return FrameByEach(pool.completed(), failures, pool.patches(), pool.rows, int(np.count_nonzero(~frame.mask)))


def _detections(
    opened: OpenedSeries, frame: CorrectedFrame, settings: Sequence[DetectConfig]
) -> list[Detection | Exception]:
    """What is detected by each of the settings, or why it cannot be."""
    config, found = opened.config, list[Detection | Exception]()

    def detected(some: Sequence[DetectConfig]) -> list[Detection]:
        return detect_each(
            frame.counts,
            frame.mask,
            some,
            bin=config.frames.bin,
            **opened.known,
        )

    try:
        return [*detected(settings)]
    except Exception as error:  # noqa: BLE001 - it may be that of one setting: each is asked alone
        if len(settings) == 1:
            return [error]
    for setting in settings:
        try:
            found += detected([setting])
        except Exception as error:  # noqa: BLE001 - recorded, as a run does
            found.append(error)
    return found


class _Pool:
    """The patches that differ of one frame, and the peaks of each setting that they belong to."""

    def __init__(self, config: RunConfig, frame: CorrectedFrame, number: int) -> None:
        self._config = config
        self._frame = frame
        self._number = number
        self._index: dict[bytes, int] = {}
        self._cut: dict[bytes, tuple[NDArray[np.int64], peak_table.Table]] = {}
        self._patches = [patches.empty(config.patches)]
        self._peaks = [peak_table.empty()]
        self._tables: list[peak_table.Table] = []
        self.rows: list[NDArray[np.int64]] = []

    def take(self, detection: Detection, setting: DetectConfig) -> None:
        """Add a setting's peaks."""
        table = detection.table
        kind = _kind(detection.level)
        places = kind + table[["y_pixel", "x_pixel"]].tobytes()
        if places not in self._cut:
            self._cut[places] = self._cut_out(table, detection.level, kind)
        rows, measured = self._cut[places]
        table["peak_frame"] = self._number
        for name in ("intensity", "intensity_std", "snr", "flags"):
            table[name] = measured[name]
        kept = table["snr"] >= setting.min_snr
        self._tables.append(table[kept])
        self.rows.append(rows[kept])

    def take_nothing(self) -> None:
        """Add a setting by which the frame fails."""
        self._tables.append(peak_table.empty())
        self.rows.append(np.empty(0, np.int64))

    def _cut_out(
        self, table: peak_table.Table, level: NDArray[np.float32] | LevelGrid | None, kind: bytes
    ) -> tuple[NDArray[np.int64], peak_table.Table]:
        """The rows of the pool that the patches of a table (n,) are, and the table as it is measured."""
        config = self._config
        cut, measured = cut_patches(self._frame, table, config.patches, level=level, **config.frames.noise)
        measured["peak_frame"] = self._number
        place = np.column_stack([table["y_pixel"], table["x_pixel"]])
        # A patch's counts are those of its place and the states of its pixels.
        parts = zip(place, cut.state, cut.neighbours, strict=True)
        keys = [kind + b"".join(part.tobytes() for part in of_patch) for of_patch in parts]
        new = np.array([key not in self._index for key in keys], bool)
        for at in np.flatnonzero(new).tolist():
            self._index[keys[at]] = len(self._index)
        self._patches.append(patches.select(cut, new))
        self._peaks.append(measured[new])
        return np.array([self._index[key] for key in keys], np.int64), measured

    def patches(self) -> patches.Patches:
        """All patches that differ."""
        return patches.concatenate(self._patches)

    def completed(self) -> list[peak_table.Table]:
        """The whole table of each setting."""
        config = self._config
        peaks, cut = peak_table.concatenate(self._peaks), self.patches()
        answer = locate_peaks(config, [ChunkPeaks(peaks, cut, {}, [], {})])
        chosen, apart = fit_peaks(config, peaks, cut, answer.fits)
        known: dict[bytes, peak_table.Table] = {}
        tables = []
        for table, rows in zip(self._tables, self.rows, strict=True):
            key = b"".join(part.tobytes() for part in (rows, table["birth"], table["flags"]))
            if key not in known:
                located, fits = _answered(answer.located, rows), _apart(chosen, apart, rows)
                known[key] = assembled(config, table, _of(cut, rows), located, *fits)
            tables.append(_with_levels(known[key], table, config.frames.bin))
        return tables


def _kind(level: NDArray[np.float32] | LevelGrid | None) -> bytes:
    """What patches are rid of: those of settings by which it is the same are shared."""
    if isinstance(level, LevelGrid):
        return blake2b(level.levels.tobytes() + str(level.cell).encode(), digest_size=16).digest()
    return b"radial" if level is not None else b""


def _with_levels(whole: peak_table.Table, table: peak_table.Table, scale: int) -> peak_table.Table:
    """The whole table of the same peaks, with what levels make of its maxima as `table` has it."""
    result = whole.copy()
    own = result["parent"] < 0
    for name in ("death", "score", "significance"):
        result[name][own] = table[name]
    result["area"][own] = table["area"] * scale**2
    return result


def _of(cut: patches.Patches, rows: NDArray[np.int64]) -> patches.Patches:
    return patches.Patches(cut.counts[rows], cut.state[rows], cut.neighbours[rows], cut.centroid[rows])


def _answered(located: Located | None, rows: NDArray[np.int64]) -> Located | None:
    if located is None:
        return None
    return replace(located, positions=located.positions[rows], std=located.std[rows], domain=located.domain[rows])


def _apart(chosen: NDArray[np.bool_], apart: Deblended, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Deblended]:
    """Which of some rows are fitted, and their fits."""
    fitted = chosen[rows]
    fit = (np.cumsum(chosen) - 1)[rows[fitted]]
    first, last = np.searchsorted(apart.patch, fit), np.searchsorted(apart.patch, fit, "right")
    further = np.concatenate([np.arange(0), *(np.arange(*ends) for ends in zip(first, last, strict=True))])
    patch = np.repeat(np.arange(len(fit)), last - first)
    return fitted, Deblended(apart.fits[fit], apart.split[fit], apart.blend[fit], apart.further[further], patch)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
