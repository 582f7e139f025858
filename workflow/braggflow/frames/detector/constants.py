"""Counts of a photon and read noise of a series' detector, from the noise of its own frames."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.frames.correction import correct_frame
from braggflow.frames.detector.bad_pixels import find_bad_pixels, without_bad_pixels
from braggflow.frames.detector.transfer import (
    BLOCKS,
    Line,
    Points,
    block_side,
    fitted_line,
    joined_points,
    neighbours_correlation,
    points_of_frame,
    points_of_frames,
    source_threshold,
)
from braggflow.frames.series import OpenedSeries
from braggflow.frames.store import UNREADABLE, read_raw

#: Sets of three consecutive frames, spread over the series: with the 16 frames by which marks are judged, few to read.
_SETS = 5
#: The same, and the pixels of a frame, where numbers that are given are only looked at: every run pays for it.
_SETS_TO_JUDGE, _PIXELS_TO_JUDGE = 1, 2**18
#: Standard error up to which counts per photon are known: 5 % are two of it.
_KNOWN = 0.025
#: The same for one frame, and the share of its variance that is peaks' tails and the like (measured, docs/detector.md).
_KNOWN_ALONE, _STRUCTURE = 0.0125, 0.015
#: First and second differences of peaks that hardly move give the same line, to this share.
_STILL = 0.1
#: Whole counts with less variance than this hide what one photon adds, unless each photon is a count.
_COARSE, _LEAST_OF_WHOLE = 0.5, 0.9
#: Share by which the noise found must differ from the noise that the constants make, and by how many standard errors.
_CONTRADICTED, _CERTAIN = 0.2, 5.0
#: Correlation of neighbouring pixels' noise from which on it is said, and that from which on a pixel's noise is not
#: that of its photons: frames were smoothed, or show a scene that changes. Between them, that from which on stated
#: uncertainties are too small by a quarter or more.
_CORRELATED, _SHARED, _SMOOTHED = 0.05, 0.12, 0.3
#: Points of the transfer line without which nothing is said of noise that is shared: frames of some 160² have them.
_ENOUGH_POINTS = 200
_KEYS = "frames.counts_per_photon: auto", "frames.read_noise: auto"


@dataclass(frozen=True, slots=True)
class DetectorConstants:
    """What a series is processed with; plain values, for `run.json`."""

    counts_per_photon: float
    read_noise: float
    """Standard deviation of a pixel without light, counts; rounding to whole counts is part of it."""
    counts_per_photon_std: float | None = None
    """Standard error, None where the number was given."""
    read_noise_std: float | None = None
    pedestal: float | None = None
    """Counts at which the variance is that of the read noise alone, None where it is not known."""
    how: str = "given"
    notes: tuple[str, ...] = ()
    """What the user should know, a sentence each."""
    bad_pixels: dict[str, Any] = field(default_factory=dict)
    """What `find_bad_pixels` found; empty where it was not asked."""

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "notes": list(self.notes)}

    def attributes(self) -> dict[str, float | int | str]:
        """Attributes of the peak table."""
        known = {key: value for key, value in self.record().items() if isinstance(value, float)}
        bad = sum(len(self.bad_pixels.get(kind, ())) for kind in ("hot", "noisy", "dead"))
        return {**known, "detector_constants": self.how, "bad_pixels": bad}


class _Noise(NamedTuple):
    """The points of a series' photon transfer line."""

    points: Points
    first_differences: Points | None
    """The same of pairs, where `points` are of three frames each."""
    frames: int
    at_a_time: int
    whole: bool
    """Whether counts are whole numbers."""
    thresholded: int
    """Counts below which pixels were set to 0, 0: none."""
    cut_at_zero: bool
    """Whether noise below 0 could not be stored."""


def settled_constants(
    opened: OpenedSeries, kept: Mapping[str, Any] | None = None, *, judge: bool = False
) -> tuple[OpenedSeries, DetectorConstants]:
    """The series with numbers in place of `frames.counts_per_photon: auto` and `frames.read_noise: auto`.

    With `frames.find_bad_pixels`, its bad pixels are found and joined to its mask.

    Parameters
    ----------
    opened : OpenedSeries
        The series as it was opened.
    kept : mapping, optional
        The record of the constants that a run was begun with: it is taken as it is.
    judge : bool, default False
        Look whether the frames contradict constants that are both given; else no frame is read for them.

    Returns
    -------
    series : OpenedSeries
        The same series; the constants of its configuration are numbers, and bad pixels are masked.
    constants : DetectorConstants
        The numbers, in counts, with standard errors where they were found from the frames, and `notes`: what the user
        should know of them.

    Raises
    ------
    InputError
        Where `auto` is asked for and the frames do not tell; the message names the key and says what to do.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow import RunConfig
    >>> from braggflow.frames import frames_from_array, open_series, settled_constants
    >>> rng = np.random.default_rng(0)
    >>> level = np.linspace(20, 60, 256) * np.ones((256, 1))
    >>> counts = np.stack([2 * rng.poisson(level) for _ in range(6)])
    >>> config = RunConfig.model_validate({"frames": {"counts_per_photon": "auto"}})
    >>> series, found = settled_constants(open_series(frames_from_array(counts), config))
    >>> abs(found.counts_per_photon - 2) < 0.1, series.config.frames.counts_per_photon == found.counts_per_photon
    (True, True)
    """
    frames = opened.config.frames
    if kept is not None:
        found = DetectorConstants(**{**kept, "notes": tuple(kept["notes"])})
    elif isinstance(frames.counts_per_photon, str) or isinstance(frames.read_noise, str):
        found = _found(opened)
    else:
        found = DetectorConstants(frames.counts_per_photon, frames.read_noise)
        found = replace(found, notes=contradictions(opened)) if judge else found
    numbers = {"counts_per_photon": found.counts_per_photon, "read_noise": found.read_noise}
    config = opened.config.model_copy(update={"frames": frames.model_copy(update=numbers)})
    opened = replace(opened, config=config)
    if frames.find_bad_pixels and kept is None:
        found = replace(found, bad_pixels=find_bad_pixels(opened))
    return without_bad_pixels(opened, found.bad_pixels) if found.bad_pixels else opened, found


def contradictions(opened: OpenedSeries) -> tuple[str, ...]:
    """Sentences where the noise of frames, a few of which are read, is clearly not what the constants make of it."""
    counts_per_photon, read_noise = opened.config.frames.detector_constants
    noise = _noise(opened, sets=_SETS_TO_JUDGE, pixels=_PIXELS_TO_JUDGE)
    if isinstance(noise, str) or noise.thresholded or noise.at_a_time == 1:
        return ()
    line = fitted_line(noise.points, noise.points.quiet)
    if line is None:
        return ()
    correlation = neighbours_correlation(noise.points, line.used)
    shared = _shared(noise, line, correlation)
    if correlation > _SMOOTHED:
        return shared
    made = counts_per_photon * line.level + read_noise**2
    off = abs(line.variance - made)
    if made <= 0 or off < _CONTRADICTED * made or off < _CERTAIN * line.variance_std:
        return shared
    return (
        *shared,
        f"pixels of {line.level:.3g} counts have a noise of {line.variance**0.5:.3g} counts from frame to frame; with "
        f"frames.counts_per_photon: {counts_per_photon:g} and frames.read_noise: {read_noise:g} it would "
        f"be {made**0.5:.3g}, which the stated uncertainties are made of (auto finds both from the frames)",
    )


def _shared(noise: _Noise, line: Line, correlation: float) -> tuple[str, ...]:
    """What noise that neighbouring pixels share does to stated uncertainties, which take that of each for its own.

    Of noise that was smoothed alike along both axes a peak's position sees (1 + 2 times the sum of the correlations
    along a row) squared times the variance that a pixel shows; those of a Gaussian go with the square of the distance.
    Nothing is said of small frames, and where most of a frame is peaks or masked: peaks that change look like it.
    """
    few = line.used.mean() < 0.5 or np.count_nonzero(line.used) < _ENOUGH_POINTS
    if correlation <= _SHARED or noise.at_a_time == 1 or few:
        return ()
    times = 1 + 2 * sum(correlation ** (distance**2) for distance in (1, 2, 3))
    return (
        f"neighbouring pixels share noise (correlation {correlation:.2f}), as where frames were smoothed or "
        f"interpolated: stated uncertainties of positions are about {times:.1f} times too small "
        f"(locate.scale_std: {times:.1f} makes up for it), unless it is the scene that changes between frames",
    )


def _found(opened: OpenedSeries) -> DetectorConstants:
    """The constants by the frames, those that are given as they are."""
    frames = opened.config.frames
    asked = ", ".join(
        key for key, value in zip(_KEYS, (frames.counts_per_photon, frames.read_noise), strict=True) if value == "auto"
    )

    def refused(reason: str) -> InputError:
        return InputError(f"{asked}: cannot be known from the frames: {reason}; give a number")

    noise = _noise(opened)
    if isinstance(noise, str):
        raise refused(noise)
    if noise.thresholded:
        raise refused(f"pixels below {noise.thresholded} counts were set to 0 before")
    quiet = _line(noise, noise.points.quiet)
    if quiet is None:
        raise refused("too few pixels are free of peaks and marks, or counts are cut off at 0")
    correlation = neighbours_correlation(noise.points, quiet.used)
    if correlation > _SMOOTHED:
        raise refused(
            f"the noise of neighbouring pixels is not their own (correlation {correlation:.2f}): frames were smoothed, "
            "or the scene changes from one to the next"
        )
    said = _notes(noise, quiet, correlation)
    read_noise = None if isinstance(frames.read_noise, str) else frames.read_noise
    if not isinstance(frames.counts_per_photon, str):
        return _read_noise(opened, noise, quiet, frames.counts_per_photon, said, refused)
    coarse = noise.whole and quiet.variance < _COARSE
    lost = f"their noise, {quiet.variance**0.5:.2g} counts, is lost in whole counts"
    if coarse and _least_slope(quiet) < _LEAST_OF_WHOLE:
        raise refused(lost)
    found = _gain(noise, quiet, read_noise)
    if isinstance(found, str):
        raise refused(found)
    line, slope, std, notes = found
    if coarse and slope < _LEAST_OF_WHOLE:
        raise refused(lost)
    constants = DetectorConstants(_rounded(slope), 0.0, _rounded(std), how=_how(noise), notes=(*said, *notes))
    dark = opened.correction.dark is not None
    if read_noise is not None:
        pedestal = None if line.slope_std > _KNOWN * line.slope else (read_noise**2 - line.intercept) / slope
        return replace(constants, read_noise=read_noise, pedestal=0.0 if dark else _rounded(pedestal))
    if line.intercept < -3 * line.intercept_std:
        raise refused(
            f"the noise of photons ends at {-line.intercept / slope:.3g} counts, so these stand on a pedestal of that "
            "or more, from which read noise cannot be told apart (give frames.dark or frames.read_noise)"
        )
    noise_of_pixel, noise_std = _root(line.intercept, line.intercept_std)
    constants = replace(constants, read_noise=noise_of_pixel, read_noise_std=noise_std, pedestal=0.0)
    return constants if dark else replace(constants, notes=(*constants.notes, _NO_PEDESTAL))


_NO_PEDESTAL = "no dark frame is subtracted: counts were taken to stand on no pedestal"


def _gain(noise: _Noise, quiet: Line, read_noise: float | None) -> tuple[Line, float, float, list[str]] | str:
    """The line, the counts of one photon and their standard error, and notes; or why they are not known.

    By the background's own range of levels; else, with the read noise given, by its level alone; else with the peaks,
    where they stand still.
    """
    alone = noise.at_a_time == 1
    if _known(quiet.slope, quiet.slope_std, _KNOWN_ALONE if alone else _KNOWN):
        return quiet, quiet.slope, quiet.slope_std, []
    if read_noise is not None and quiet.level > 0:
        slope = (quiet.variance - read_noise**2) / quiet.level
        # How far the level of whole frames and the read noise are right is not in it.
        std = float(np.hypot(quiet.variance_std, alone * _STRUCTURE * quiet.variance)) / quiet.level
        agrees = abs(quiet.intercept - read_noise**2) < _CERTAIN * quiet.intercept_std
        if _known(slope, std) and (agrees or not np.isfinite(quiet.slope)):
            return quiet, slope, std, [f"by the level alone, with a read noise of {read_noise:g} and no pedestal"]
    every = _line(noise, None)
    pairs = fitted_line(noise.first_differences) if noise.first_differences is not None else None
    if every is not None and pairs is not None and _known(every.slope, every.slope_std):
        if abs(pairs.slope / every.slope - 1) <= _STILL:
            return every, every.slope, every.slope_std, ["peaks gave most of the range of levels"]
        reason = "the peaks, which move between frames, alone have other levels"
    else:
        reason = f"the background's levels, {quiet.low:.3g} to {quiet.high:.3g} counts, are too close together"
    value = f"{quiet.slope:.2g} ± {quiet.slope_std:.2g}" if np.isfinite(quiet.slope) else "unknown"
    if read_noise is not None:
        return f"{reason}, and their noise is not that of photons and frames.read_noise: {read_noise:g} (slope {value})"
    return (
        f"{reason} to tell it from read noise, {value} (give frames.read_noise, 0 for a detector that counts photons)"
    )


def _read_noise(
    opened: OpenedSeries, noise: _Noise, line: Line, counts_per_photon: float, said: tuple[str, ...], refused: Any
) -> DetectorConstants:
    """The read noise, with the counts of one photon given."""
    rest = line.variance - counts_per_photon * line.level
    if rest < -3 * line.variance_std:
        raise refused(
            f"pixels of {line.level:.3g} counts have a variance of {line.variance:.3g}, less than their photons make "
            f"with frames.counts_per_photon: {counts_per_photon:g}; is there a pedestal (frames.dark)?"
        )
    read_noise, std = _root(rest, line.variance_std)
    dark = opened.correction.dark is not None
    notes = said if dark else (*said, _NO_PEDESTAL)
    return DetectorConstants(counts_per_photon, read_noise, None, std, 0.0, _how(noise), notes)


def _least_slope(line: Line) -> float:
    """Counts of a photon by the slope, where it is any good, or by the level, whichever is less."""
    slope = line.slope if line.slope_std < 0.1 * abs(line.slope) else np.inf
    return min(slope, line.variance / line.level) if line.level > 0 else slope


def _known(value: float, std: float, share: float = _KNOWN) -> bool:
    return bool(np.isfinite(value) and value > 0 and std <= share * value)


def _line(noise: _Noise, among: NDArray[np.bool_] | None) -> Line | None:
    """The line; without the levels whose noise reaches below 0, where that could not be stored."""
    line = fitted_line(noise.points, among)
    if line is None or not noise.cut_at_zero or not line.intercept > max(0.25, 3 * line.intercept_std):
        return line
    whole = noise.points.level[:, ::-1] > 3 * line.intercept**0.5
    return fitted_line(noise.points, whole if among is None else among & whole)


def _root(variance: float, std: float) -> tuple[float, float]:
    """Square root of a variance and its standard error; 0 where it is not above its own."""
    if variance <= std:
        return 0.0, _rounded(std**0.5)
    return _rounded(variance**0.5), _rounded(std / (2 * variance**0.5))


def _rounded(value: Any) -> Any:
    """A number with the digits that mean something, so that settings read well."""
    return None if value is None else float(f"{value:.5g}")


def _how(noise: _Noise) -> str:
    compared = {1: "pixels two apart of one frame", 2: "pairs of consecutive frames"}
    return f"{compared.get(noise.at_a_time, 'consecutive frames, three at a time')} ({noise.frames} read)"


def _notes(noise: _Noise, line: Line, correlation: float) -> tuple[str, ...]:
    notes = []
    if noise.at_a_time == 1:
        notes.append("one frame: charge that neighbouring pixels share lowers it, unequal response of pixels raises it")
    if correlation > _CORRELATED:
        notes.append(f"neighbouring pixels share noise (correlation {correlation:.2f}): of a whole peak there is more")
    return (*notes, *_shared(noise, line, correlation))


# ---- what is read ----


def _noise(opened: OpenedSeries, *, sets: int = _SETS, pixels: int | None = None) -> _Noise | str:
    """The points by as many consecutive frames as can be had, up to three; or why there are none.

    Of larger frames than `pixels`, bands of rows spread over them are taken.
    """
    n, reason = len(opened.numbers), "no frame can be read"
    for size in (3, 2, 1):
        if size > n:
            continue
        spread = np.linspace(0, n - size, min(sets, n // size)) if sets > 1 else np.array([(n - size) / 2])
        starts = np.unique(spread.round().astype(int)).tolist()
        read = [found for start in starts if (found := _read(opened, range(start, start + size))) is not None]
        if not read:
            continue
        noise = _points(opened, read, pixels)
        if noise is not None:
            return noise
        reason = "frames that follow each other are the same" if size > 1 else "every pixel is the same"
        if size > 1 and not any(raw.any() for raws in read for raw in raws):
            return "every pixel is 0"
    return reason


def _read(opened: OpenedSeries, positions: range) -> list[NDArray[Any]] | None:
    if any(position in opened.missing for position in positions):
        return None
    in_store = opened.positions[positions.start : positions.stop]
    try:
        return list(read_raw(opened.data, in_store))  # together: they mostly lie in one chunk
    except UNREADABLE:
        return None  # whoever processes the frame records it


def _points(opened: OpenedSeries, sets: Sequence[Sequence[NDArray[Any]]], pixels: int | None) -> _Noise | None:
    """The points of sets of frames; None where the frames of no set differ."""
    size = len(sets[0])
    found, pairs, side = [], [], 0
    raw = sets[0][0]
    threshold = source_threshold(raw, opened.correction.mask)
    for raws in sets:
        frames, valid = _corrected(opened, raws)
        if pixels is not None:
            rows = _bands(valid.shape, pixels)
            frames, valid = [frame[rows] for frame in frames], valid[rows]
        differs = (frames[0] != frames[1]) if size > 1 else (frames[0] != np.roll(frames[0], 2, axis=1))
        share = float(np.count_nonzero(differs & valid)) / max(1.0, float(np.count_nonzero(valid)))
        if share == 0 or min(valid.shape) < 8:
            continue
        side = side or block_side(share, (valid.shape[0], valid.shape[1]))
        if size == 1:
            found.append(points_of_frame(frames[0], valid, side))
            continue
        found.append(points_of_frames(frames, valid, side))
        if size > 2:
            pairs.append(points_of_frames(frames[:2], valid, side))
    if not found:
        return None
    return _Noise(
        joined_points(found),
        joined_points(pairs) if pairs else None,
        len(sets) * size,
        size,
        bool(raw.dtype.kind in "iu" and opened.correction.dark is None and opened.correction.flat is None),
        threshold,
        bool(opened.correction.dark is None and not (raw < 0).any()),
    )


def _bands(shape: tuple[int, ...], pixels: int) -> NDArray[np.int64]:
    """Rows of a frame in bands, spread over it, that hold about so many pixels."""
    height = max(BLOCKS)
    wanted = max(1, round(pixels / (height * shape[1])))
    if wanted * height >= shape[0]:
        return np.arange(shape[0])
    starts = np.linspace(0, shape[0] - height, wanted).round().astype(np.int64)
    return np.unique(starts[:, None] + np.arange(height))


def _corrected(
    opened: OpenedSeries, raws: Sequence[NDArray[Any]]
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Frames corrected but not binned, and the pixels that count in all of them and are not saturated."""
    correction = replace(opened.correction, bin=1)
    frames, valid = [], np.ones(raws[0].shape, bool)
    for raw in raws:
        frame = correct_frame(raw, correction)
        valid &= ~frame.mask
        if frame.saturated is not None:
            valid &= ~frame.saturated
        elif frame.saturation < np.inf:
            valid &= frame.counts < frame.saturation
        frames.append(np.where(frame.mask, np.float32(0), frame.counts).astype(np.float32))
    return frames, valid
