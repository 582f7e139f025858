"""One frame through the chain of a run, with what its stages know besides the table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.detect import JudgedMaxima, cut_patches, detect, judge_maxima, plateau_middles
from braggflow.errors import InputError
from braggflow.explain.findings import Image, Place
from braggflow.frames import UNREADABLE, CorrectedFrame, OpenedSeries
from braggflow.patches import Patches
from braggflow.peak_table import Table
from braggflow.pipeline import accepted, compile_ahead, complete_peaks, locate_peaks, on_cpu, search_chunk


@dataclass(frozen=True, slots=True, eq=False)
class FoundFrame:
    """A frame and its peaks, exactly those that a run of this configuration finds in it."""

    opened: OpenedSeries
    position: int
    raw: NDArray[Any]
    frame: CorrectedFrame
    table: Table
    """Sorted, pixels of the detector."""
    searched: Table
    """(n,) the rows of `table` that are maxima, before they were located: pixels of the searched frame."""
    patches: Patches
    """(n,) those of `searched`."""
    network_std: NDArray[np.float32]
    """(n, 2) the network's standard uncertainty, pixels of the detector; NaN where it states none."""

    @property
    def number(self) -> int:
        """Of the frame."""
        return self.opened.numbers[self.position]

    @property
    def bin(self) -> int:
        """Detector pixels along each side of a searched one."""
        return self.opened.config.frames.bin

    def on_detector(self, y: float, x: float) -> Place:
        """The place on the detector of a searched pixel's middle."""
        offset = (self.bin - 1) / 2
        return float(y * self.bin + offset), float(x * self.bin + offset)

    def searched_pixel(self, y: float, x: float) -> tuple[int, int]:
        """The searched pixel that holds a place of the detector; raises `InputError` where there is none."""
        shape = self.raw.shape
        if not (-0.5 <= y < shape[0] - 0.5 and -0.5 <= x < shape[1] - 0.5):
            raise InputError(
                f"--at {y:g},{x:g}: is not in the frame; must be y from -0.5 to {shape[0] - 0.5}, "
                f"x from -0.5 to {shape[1] - 0.5}, pixels"
            )
        pixel = int((y + 0.5) // self.bin), int((x + 0.5) // self.bin)
        if any(at >= n for at, n in zip(pixel, self.frame.counts.shape, strict=True)):
            raise InputError(f"--at {y:g},{x:g}: lies beyond the last whole bin (frames.bin: {self.bin})")
        return pixel

    def window(self, y: int, x: int, frame: CorrectedFrame | None = None) -> Image:
        """Counts of the patch's size around a searched pixel, NaN where they are ignored or there is no pixel."""
        frame = self.frame if frame is None else frame
        size = self.opened.config.patches.size
        window = np.full((size, size), np.nan, np.float32)
        top, left = y - size // 2, x - size // 2
        part = np.s_[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)]
        inside = np.where(frame.mask[part], np.float32(np.nan), frame.counts[part].astype(np.float32))
        window[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
        return window

    def beside(self, step: int, y: int, x: int) -> Image | None:
        """The window of the selected frame `step` positions away, None where there is none or it cannot be read."""
        position = self.position + step
        if not 0 <= position < len(self.opened.numbers):
            return None
        try:
            return self.window(y, x, self.opened.corrected(self.opened.raw(position)))
        except UNREADABLE:
            return None

    def judged(self, near: tuple[int, int]) -> JudgedMaxima:
        """All maxima of the frame, peaks where their patches are cut, and those below the noise around a pixel."""
        config = self.opened.config
        judged = judge_maxima(
            self.frame.counts,
            self.frame.mask,
            config.detect,
            near=near,
            bin=config.frames.bin,
            **self.opened.known,
        )
        if config.fit.model != "disk":
            peaks = np.flatnonzero(judged.dropped_by == "")
            frame, table = self.frame, judged.table
            table["y_pixel"][peaks], table["x_pixel"][peaks] = plateau_middles(
                frame.counts[None],
                frame.mask,
                *(table[name][peaks] for name in ("frame", "y_pixel", "x_pixel")),
                saturated=frame.saturated,
                saturation=frame.saturation,
            )
        return judged

    def measured_maxima(self) -> Table:
        """The maxima that detection kept, disks as one, with their snr: those that `min_snr` drops too."""
        config = self.opened.config
        found = detect(
            self.frame.counts,
            self.frame.mask,
            config.detect,
            bin=config.frames.bin,
            **self.opened.known,
        )
        found = accepted(config, self.frame, found)
        return cut_patches(self.frame, found.table, config.patches, level=found.level, **config.frames.noise)[1]


def find_in_frame(opened: OpenedSeries, number: int) -> FoundFrame:
    """The frame of a number through the chain; raises `InputError` where it is not selected or cannot be processed."""
    numbers = opened.numbers
    if number not in numbers:
        raise InputError(
            f"--frame {number}: there is no such frame; there are {len(numbers):,}, {numbers[0]} to {numbers[-1]}"
        )
    compile_ahead()
    position = opened.position_of(number)
    found = search_chunk(opened, position, position + 1)
    if found.failures:
        raise InputError(f"frame {number}: {found.failures[0]['reason']}")
    config = on_cpu(opened.config)
    answer = locate_peaks(config, [found])
    table, _ = complete_peaks(config, [found], answer)
    network_std = np.full((len(found.table), 2), np.nan, np.float32)
    if answer.located is not None:
        misfit = np.sqrt(np.fmax(table["chi2"][table["parent"] < 0], 1))
        network_std = answer.located.std * (misfit * opened.config.frames.bin)[:, None]
    raw = opened.raw(position)
    return FoundFrame(opened, position, raw, opened.corrected(raw), table, found.table, found.patches, network_std)
