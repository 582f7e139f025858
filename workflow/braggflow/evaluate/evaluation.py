"""How good each way of placing a peak is: by class of simulated patch, on outliers, on simulated frames; and how fast.

Errors are measured against the truth and against the Cramér–Rao limit of the same patches (`limit_of_patches`).
The patches are those of `simulate.CLASSES`, from random numbers that no training draws.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow import patches
from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.evaluate.estimators import Estimate, Estimator, network_estimator
from braggflow.evaluate.scoring import Score
from braggflow.locate import Localiser, locate_patches
from braggflow.patches import State
from braggflow.simulate import (
    CLASSES,
    OUTLIERS,
    PROFILE_DTYPE,
    SimulatedPatches,
    expected_patches,
    limit_of_patches,
    outlier_class,
    sample_profiles,
    simulate_patches,
)

#: A larger distance from the truth counts as this one, px, and so does a missing position. The limit is clipped alike.
CLIP = 2.0
#: Steps of the sub-pixel phase, a centre's place within its pixel.
PHASES = 10
#: A class more, `study`.
STUDY = "study"
#: Peaks of that class: photons, and photons a pixel of background; the intensity is 100 times its noise.
_STUDY_PHOTONS, _STUDY_BACKGROUND = 1e4, 1.0
_RESAMPLES, _BATCHES = 1000, 400
_TIMED, _REPEATS = 8192, 5
#: The series of frames: 512², about 14 peaks each.
_FRAMES = 240
#: What is in the model card.
_CARD = ("rms_over_limit", "median", "bias_y", "bias_x", "phase_bias", "within_1_std", "within_2_std", "flagged")


class ClassFigures(NamedTuple):
    """How far a method's positions lie from the truth, for the peaks of one class; lengths in pixels."""

    rms_over_limit: float
    """Root mean square of the clipped distance, over that of the limit."""
    low: float
    high: float
    """95 % interval of that ratio, from resampled peaks (bootstrap)."""
    rms: float
    mean: float
    median: float
    p75: float
    p95: float
    """Of the clipped distance: root mean square, mean, and what 50, 75 and 95 % of the peaks are within."""
    bias_y: float
    bias_x: float
    bias_std: float
    """Mean error along each axis, and the larger of their standard errors."""
    phase_bias: float
    """Largest mean error in a step of the sub-pixel phase, along either axis."""
    phase_noise: float
    """What it would be (median) for an unbiased method as precise as this one."""
    within_1_std: float
    within_2_std: float
    """Share of the errors along either axis within one and two stated standard errors; NaN where none are stated."""
    flagged: float
    """Share said to be out of the domain."""
    failed: float
    """Share with no position."""
    bias_by_phase: list[list[float]]
    """Mean error along y, then along x, in each of `PHASES` steps of the phase from -0.5 to 0.5."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found."""

    size: int
    """Pixels on a side of the patches."""
    peaks: int
    """Of each class, and patches of each kind of outlier."""
    seed: int
    limits: dict[str, float]
    """RMS of the limit, clipped at `CLIP`, by class (those of `simulate.CLASSES`, and `STUDY`); px."""
    figures: dict[str, dict[str, ClassFigures]]
    """By class, then by method."""
    outliers: dict[str, dict[str, float]]
    """Share flagged or without a position, by kind of outlier (`simulate.OUTLIERS`), then by method."""
    patches_per_second: dict[str, dict[str, float]]
    """By method, then by device; cpu: one core."""
    frames: dict[str, Score]
    """A simulated series by network (`none`: none was asked); empty where that was not wanted."""

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data for JSON; what is unknown is None."""
        plain = asdict(replace(self, figures={}, frames={}))
        plain["figures"] = {
            kind: {name: one._asdict() for name, one in by_method.items()} for kind, by_method in self.figures.items()
        }
        plain["frames"] = {name: score.as_dict() for name, score in self.frames.items()}
        result: dict[str, Any] = _without_nan(plain)
        return result


def study(n: int, *, rng: np.random.Generator, size: int = 11) -> SimulatedPatches:
    """Well sampled round peaks whose intensity is 100 times its noise, after a test that BraggNN is known by.

    On simulated patches of 11 × 11 pixels at a signal to noise of 100:1 its error is given as 0.062 px. Which noise and
    which mean that is, we had to choose: the peak table's `snr`, intensity over its noise, of 10,000 photons on a
    background of one a pixel; `Figures` has the mean distance and its RMS.
    """
    profiles = sample_profiles(n, rng=rng, config=CLASSES["sampled"], size=size)
    profiles["sigma_major"] = profiles["sigma_minor"]
    profiles["height"] = _STUDY_PHOTONS / (2 * np.pi * profiles["sigma_minor"] ** 2)
    profiles["background"] = _STUDY_BACKGROUND
    return SimulatedPatches(
        counts=rng.poisson(expected_patches(profiles, size)).astype(np.float32),
        state=np.full((n, size, size), State.OWN, np.uint8),
        maxima=np.full((n, patches.MAX_NEIGHBOURS, 2), np.nan, np.float32),
        position=np.stack([profiles["y"], profiles["x"]], axis=1),
        profiles=profiles,
        neighbours=np.zeros((n, 0), PROFILE_DTYPE),
        outlier=np.full(n, -1, np.int8),
        plain=np.ones(n, bool),
        read_noise=np.zeros(n),
        counts_per_photon=np.ones(n),
    )


def evaluate(
    methods: Sequence[Estimator],
    *,
    n: int = 20_000,
    seed: int = 1,
    size: int = 11,
    frames: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Evaluation:
    """Measure ways of placing a peak on simulated patches, all on the same ones, by class.

    Parameters
    ----------
    methods : sequence of Estimator
        What `select_estimators` returns: networks, fits, the centroid.
    n : int, default 20000
        Peaks of each class, and patches of each kind of outlier.
    seed : int, default 1
        Of the random numbers; no training draws the same ones.
    size : int, default 11
        Pixels on a side of the patches.
    frames : bool, default False
        Score the networks on a series of simulated frames too.
    progress : callable, optional
        Called with (what is next, the share done, 0 to 1).

    Returns
    -------
    Evaluation
        Errors by class and method with the information limit of the same patches, the share of outliers that each
        method flags, patches a second, and the scores of the frames.

    Raises
    ------
    InputError
        For a network of another size.

    Examples
    --------
    >>> from braggflow.config import LocateConfig
    >>> from braggflow.evaluate import evaluate, select_estimators
    >>> found = evaluate(select_estimators(["centroid"], [], LocateConfig(), size=11), n=100)
    >>> found.figures["sampled"]["centroid"].rms > found.limits["sampled"]
    True
    """
    for method in methods:
        if method.localiser is not None and method.localiser.size != size:
            raise InputError(f"--size {size}: {method.name} is for patches of size {method.localiser.size}")
    kinds = (*CLASSES, STUDY)
    tasks = iter(np.linspace(0, 1, len(kinds) + len(OUTLIERS) + 2, endpoint=False))

    def tell(what: str) -> None:
        share = float(next(tasks))
        if progress is not None:
            progress(what, share)

    limits, figures = {}, {}
    for kind in kinds:
        tell(kind)
        limits[kind], figures[kind] = on_class(kind, methods, n=n, seed=seed, size=size)
    outliers: dict[str, dict[str, float]] = {}
    for odd in OUTLIERS:
        tell(odd)
        outliers[odd] = on_outliers(odd, methods, n=n, seed=seed, size=size)
    tell("speed")
    speed = {method.name: throughput(method, size=size) for method in methods}
    tell("frames")
    localisers = {method.name: method.localiser for method in methods if method.localiser is not None}
    scores = on_frames(localisers, size=size, seed=seed) if frames else {}
    return Evaluation(size, n, seed, limits, figures, outliers, speed, scores)


def card_figures(localiser: Localiser, *, n: int = 20_000, seed: int = 1) -> dict[str, Any]:
    """What a model card says of a network's accuracy: `classes` (figures by class) and `outliers` (share flagged)."""
    methods = [network_estimator("network", localiser)]
    classes = {}
    for kind in CLASSES:
        bound, by_method = on_class(kind, methods, n=n, seed=seed, size=localiser.size)
        figures = by_method["network"]._asdict()
        classes[kind] = {"limit": bound} | {name: figures[name] for name in _CARD}
    outliers = {kind: on_outliers(kind, methods, n=n, seed=seed, size=localiser.size)["network"] for kind in OUTLIERS}
    card: dict[str, Any] = _without_nan({"peaks": n, "seed": seed, "classes": classes, "outliers": outliers})
    return card


def _drawn(kind: str, n: int, seed: int, size: int) -> SimulatedPatches:
    number = (*CLASSES, STUDY, *OUTLIERS).index(kind)
    # Trainings draw from [seed, step]: a spawned sequence is none of these.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
    if kind == STUDY:
        return study(n, rng=rng, size=size)
    config = CLASSES[kind] if kind in CLASSES else outlier_class(kind)  # type: ignore[arg-type]
    return simulate_patches(n, rng=rng, config=config, size=size)


def on_class(
    kind: str, methods: Sequence[Estimator], *, n: int, seed: int = 1, size: int = 11
) -> tuple[float, dict[str, ClassFigures]]:
    """RMS of the limit (px) of `n` peaks of a class, and the figures of each method on them."""
    drawn = _drawn(kind, n, seed, size)
    bound = np.minimum(np.hypot(*limit_of_patches(drawn).T), CLIP)
    figures = {method.name: measure_positions(method.locate(drawn), drawn.position, bound) for method in methods}
    return _rms(bound), figures


def on_outliers(kind: str, methods: Sequence[Estimator], *, n: int, seed: int = 1, size: int = 11) -> dict[str, float]:
    """Share of `n` outliers of a kind that each method flags or finds no position for."""
    drawn = _drawn(kind, n, seed, size)
    estimates = {method.name: method.locate(drawn) for method in methods}
    return {name: float((e.flagged | np.isnan(e.positions).any(axis=1)).mean()) for name, e in estimates.items()}


def measure_positions(estimate: Estimate, truth: NDArray[np.float64], bound: NDArray[np.float64]) -> ClassFigures:
    """Compare n positions with the truth (n, 2) and the clipped limits (n,) of their distance from it."""
    error = estimate.positions - truth
    there = np.isfinite(error).all(axis=1)
    distance = np.where(there, np.minimum(np.hypot(*error.T), CLIP), CLIP)
    low, high = _interval(distance**2, bound**2)
    # One position that is far out shall not be the bias of a class.
    found = error[there].clip(-CLIP, CLIP)
    (bias_y, y_std), (bias_x, x_std) = _mean(found[:, 0]), _mean(found[:, 1])
    by_phase, phase_bias, phase_noise = _phase_bias(found, truth[there])
    within = np.abs(error / estimate.std)[there & np.isfinite(estimate.std).all(axis=1)]
    median, p75, p95 = np.percentile(distance, (50, 75, 95)).tolist()
    within_1_std, within_2_std = (float((within <= k).mean()) if within.size else np.nan for k in (1, 2))
    return ClassFigures(
        rms_over_limit=_rms(distance) / _rms(bound),
        low=low,
        high=high,
        rms=_rms(distance),
        mean=float(distance.mean()),
        median=median,
        p75=p75,
        p95=p95,
        bias_y=bias_y,
        bias_x=bias_x,
        bias_std=max(y_std, x_std),
        phase_bias=phase_bias,
        phase_noise=phase_noise,
        within_1_std=within_1_std,
        within_2_std=within_2_std,
        flagged=float(estimate.flagged.mean()),
        failed=float(1 - there.mean()),
        bias_by_phase=by_phase,
    )


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error; NaN of too few."""
    n = len(values)
    return (float(values.mean()) if n else np.nan), (float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan)


def _interval(square: NDArray[np.float64], bound_square: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the ratio of two RMS over the same n peaks.

    Resampled are batches of peaks: these are as independent as the peaks, and hundreds of times fewer.
    """
    k = min(_BATCHES, len(square))
    batch = np.arange(len(square)) % k
    sums = np.stack([np.bincount(batch, square, k), np.bincount(batch, bound_square, k)], axis=1)
    drawn = _resamples(k) @ sums
    low, high = np.percentile(np.sqrt(drawn[:, 0] / drawn[:, 1]), (2.5, 97.5)).tolist()
    return low, high


@lru_cache(maxsize=1)
def _resamples(k: int) -> NDArray[np.int64]:
    """How often each of `k` batches is drawn, (`_RESAMPLES`, k)."""
    return np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), _RESAMPLES)


def _phase_bias(error: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[list[list[float]], float, float]:
    """Mean errors by axis and step of the phase, the largest of them, and what noise alone would make the largest."""
    phase = truth - np.floor(truth + 0.5)
    step = np.minimum((phase + 0.5) * PHASES, PHASES - 1).astype(int)
    cells = [[_mean(error[step[:, axis] == k, axis]) for k in range(PHASES)] for axis in (0, 1)]
    bias, noise = np.moveaxis(np.array(cells), 2, 0)
    if not np.isfinite(noise).any():
        return bias.tolist(), np.nan, np.nan
    alone = np.abs(noise * np.random.default_rng(0).standard_normal((_RESAMPLES, *noise.shape)))
    return bias.tolist(), float(np.nanmax(np.abs(bias))), float(np.median(np.nanmax(alone, axis=(1, 2))))


def throughput(method: Estimator, *, size: int = 11) -> dict[str, float]:
    """Well sampled peaks placed per second, best of a few times: by one core, `cpu`, and on a network's own device.

    A core's seconds are those it worked for this, so that other work on the machine counts little.
    """
    import torch

    drawn = _drawn("sampled", _TIMED, 0, size)
    rates = {}
    locate = method.locate
    if method.localiser is not None and method.localiser.device != "cpu":
        rates[method.localiser.device] = _TIMED / _seconds(locate, drawn, perf_counter)
        on_core = replace(method.localiser, device="cpu", network=deepcopy(method.localiser.model).cpu())
        locate = network_estimator(method.name, on_core).locate
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"cpu": _TIMED / _seconds(locate, drawn, process_time)} | rates
    finally:
        torch.set_num_threads(threads)


def _seconds(
    call: Callable[[SimulatedPatches], Estimate], drawn: SimulatedPatches, clock: Callable[[], float]
) -> float:
    """Shortest time of a few calls."""
    times = []
    for _ in range(_REPEATS):
        start = clock()
        call(drawn)
        times.append(clock() - start)
    return min(times)


def on_frames(
    localisers: Mapping[str, Localiser], *, size: int = 11, seed: int = 1, n_frames: int = _FRAMES
) -> dict[str, Score]:
    """Scores of a simulated series, found, cut, placed and fitted as a run does it, by network.

    `locate.position` is auto. Without networks, the one score is called `none`.
    """
    import xarray as xr

    from braggflow.evaluate.scoring import load_truth, score
    from braggflow.frames import open_frames, open_series
    from braggflow.pipeline import NetworkResult, complete_peaks, search_chunk
    from braggflow.simulate import simulate_series

    settings = RunConfig.model_validate(
        {
            "patches": {"size": size},
            "detect": {"min_area": 2},  # a lone hot pixel is no peak
        }
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "series.zarr"
        truth = load_truth(simulate_series(path, n_frames=n_frames, seed=seed))
        opened = open_series(open_frames(path), settings)
        found = [search_chunk(opened, i, i + 1) for i in range(len(opened.numbers))]
    cut = patches.concatenate([one.patches for one in found])
    scores = {}
    asked: Mapping[str, Localiser | None] = localisers or {"none": None}
    for name, localiser in asked.items():
        located = None
        if localiser is not None:
            located = locate_patches(localiser, cut.counts, cut.state)
        table, _ = complete_peaks(settings, found, NetworkResult(located))
        columns = {column: ("peak", table[column]) for column in table.dtype.names or ()}
        scores[name] = score(xr.Dataset(columns, coords={"frame": opened.numbers}), truth)
    return scores


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
