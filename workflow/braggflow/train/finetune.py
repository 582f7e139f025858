"""Teach a network a user's own peaks, and judge on frames held out whether it has become better at them."""

import time
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from braggflow.config import LocateConfig
from braggflow.errors import InputError
from braggflow.locate import Localiser, Network, compute_device, load_localiser, locate_patches
from braggflow.simulate import FWHM_PER_SIGMA
from braggflow.train.cards import card_of, check_weights_path, save_weights
from braggflow.train.examples import TrainingExamples, examples_from_fits, join_examples, simulate_examples
from braggflow.train.labels import Collected, Labels
from braggflow.train.settings import Told, TrainConfig, tell_stage
from braggflow.train.time_given import EndCosts, TimeGiven
from braggflow.train.trainer import (
    FEWEST_ADJUSTING,
    ExampleSource,
    adjust,
    end_costs,
    fit_network,
    judging,
    prepared,
    tell_peaks,
    torch_threads,
)

#: Of five blocks of frames one is held out for the verdict, of ten another one chooses the best weights. Always the
#: same ones: weights that were taught from a run before have not seen them either.
_OF_HELD_OUT, _OF_CHOOSING, _CHOOSING = 5, 10, 3
#: Simulated patches that join the user's where the best weights are chosen, and where stated errors and domain are
#: adjusted.
_VALIDATING, _ADJUSTING = 2_000, 100_000
#: Labels held out that are located before, to see how long all of them take.
_TRIED = 500
#: Last numbers of seeds. `train` draws from seeds without one.
_TEACHING, _VALIDATION, _ADJUSTMENT, _BOOTSTRAP = 1, 2, 3, 4

#: A larger distance counts as this one, px.
CLIP = 2.0
#: Peaks without which a class is not judged, and the least change of its RMS, as a share, that makes a difference.
MIN_JUDGED, LEAST_CHANGE = 30, 0.01
#: Share of the bootstrap's results within an interval, and how many there are.
INTERVAL, _RESAMPLES = 0.95, 2_000
#: Blocks of frames are drawn anew, or where there are fewer than so many, groups of a class's peaks.
_MIN_BLOCKS, _GROUPS = 5, 100
#: SNR below which a peak is faint; sigma and ratio that part the other classes, as in `simulate.CLASSES`.
_FAINT, _SHARP, _BROAD, _ELONGATED = 20.0, 0.9, 1.8, 1.8


class FineTuneConfig(TrainConfig):
    """How a network is taught a user's peaks: fewer and smaller steps than for one that knows nothing yet."""

    steps: int = Field(4_000, ge=1, description="batches seen")
    learning_rate: float = Field(1e-3, gt=0, description="at the end of the warm-up; falls to 0 as a cosine")
    validation_steps: int = Field(200, ge=1, description="steps between validations on patches never trained on")
    own_share: float = Field(0.5, gt=0, lt=1, description="of a batch: the user's peaks; the others are simulated")
    start: str = Field("", description="SHA-256 of the weights to start from; set by fine_tune")
    labels: str = Field("", description="SHA-256 of the labels; set by fine_tune")


class FineTuneOutcome(NamedTuple):
    """What came of a fine-tuning."""

    verdict: dict[str, Any]
    card: dict[str, Any] | None
    """None: the new weights are not better than those at their place, which were left there."""


def fine_tune(
    config: FineTuneConfig,
    collected: Collected,
    start: Localiser,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Told = None,
    began: float | None = None,
) -> FineTuneOutcome:
    """Teach a network a user's own peaks, and write it where it has become better at them.

    It learns from labels and from simulated patches, and is compared with the old weights on frames held out. The old
    weights are those at `out`, if there are any, and else `start`.

    Parameters
    ----------
    config : FineTuneConfig
        How it is taught; its network and size are those of `start` and of the labels.
    collected : Collected
        Labels, as `labels_from_run` or `labels_from_hdf5` return them.
    start : Localiser
        The network to begin with, as `locate.load_localiser` returns it.
    out : pathlib.Path or str
        The weights file, .safetensors; the card is written beside it, .json. Weights that are there are replaced by
        better ones only (see `finetune.verdict`).
    overwrite : bool, default False
        Replace the weights at `out` always; they are not looked at.
    resume : bool, default False
        Go on with an interrupted training from its state. The state is kept while training, as by `train`; also where
        the new weights were not written, so that the same call with `overwrite` hardly trains again.
    progress : callable, optional
        Called with a `TrainProgress` now and then, and at the beginning of each stage.
    began : float, optional
        With `config.seconds`: from when on they count, as for `train`.

    Returns
    -------
    FineTuneOutcome
        The `verdict`, by class of peak; and the `card`, None where the new weights are not better and the old ones were
        left.

    Raises
    ------
    InputError
        Where network, patch size, `out` or the state do not fit, and where too few peaks are held out or left to learn
        from.
    """
    given = TimeGiven(config.seconds, began)
    with torch_threads(config, given):
        return _fine_tune(config, collected, start, Path(out), overwrite, resume, progress, given)


def _fine_tune(
    config: FineTuneConfig,
    collected: Collected,
    start: Localiser,
    out: Path,
    overwrite: bool,
    resume: bool,
    progress: Told,
    given: TimeGiven,
) -> FineTuneOutcome:
    labels = collected.labels
    check_weights_path(out)
    compute_device(config.device, key="device")
    if (start.name, start.size, labels.size) != (config.network, config.size, config.size):
        raise InputError(
            f"size: wanted is a {config.network} network for patches of {config.size} px, but {start.file} is a "
            f"{start.name} network for {start.size} px, and the labels' patches have {labels.size} px"
        )
    old = _load(out, config) if out.exists() and not overwrite else start
    own, choosing, held_out = split(labels)
    if min(len(own), len(held_out)) < MIN_JUDGED:
        raise InputError(
            f"{collected.source}: {len(held_out)} labels are in frames held out and {len(own)} in frames to learn "
            f"from, at least {MIN_JUDGED} of each are needed (frames with labels: {len(np.unique(labels.frame))})"
        )
    config = config.model_copy(update={"start": start.sha256, "labels": labels.digest()})
    tell_stage(progress, "compiling, and simulating what is validated on")
    model = deepcopy(start.model).requires_grad_(True)
    validation = _mixed(config, choosing, _VALIDATING, _random(config, 0, _VALIDATION))
    model, result = fit_network(
        config,
        model,
        _sources(config, own),
        validation=validation,
        state_file=out.with_suffix(".state"),
        resume=resume,
        progress=progress,
        given=given,
        costs=_end_costs(config, model, validation, old, held_out, progress) if given.limited else None,
        adjusting=_ADJUSTING + len(choosing),
    )
    n = given.patches_to_adjust(_ADJUSTING, FEWEST_ADJUSTING)
    tell_stage(progress, f"adjusting what is stated of positions, on {n + len(choosing):,} patches")
    adjust(model, _mixed(judging(config), choosing, n, _random(config, 0, _ADJUSTMENT)))
    tell_stage(progress, f"comparing old and new weights on {len(held_out):,} peaks held out")
    new = Localiser(config.network, config.size, out.name, "", "cpu", deepcopy(model).eval().requires_grad_(False))
    judged = verdict(held_out, old, new, seed=config.seed)
    if out.exists() and not overwrite and not judged["better"]:
        return FineTuneOutcome(judged, card=None)
    card = card_of(config, model, result, tell_peaks(config, given, progress)) | {
        "made_by": f"braggflow.finetune.fine_tune, {start.file} taught by {collected.source}",
        "start": {"file": start.file, "sha256": start.sha256},
        "labels": {
            "source": collected.source,
            "frames": len(np.unique(labels.frame)),
            "learned_from": len(own),
            "held_out": len(held_out),
            "left_out": collected.dropped,
        },
        "verdict": judged,
    }
    card = save_weights(out, model, card)
    out.with_suffix(".state").unlink(missing_ok=True)
    return FineTuneOutcome(judged, card)


def _end_costs(
    config: FineTuneConfig,
    model: Network,
    validation: TrainingExamples,
    old: Localiser,
    held_out: Labels,
    progress: Told,
) -> EndCosts:
    """What the end costs here, the comparison of old and new weights included."""
    costs = end_costs(config, model, validation, progress)
    tried = held_out.select(np.arange(min(_TRIED, len(held_out))))
    for _ in range(2):  # the second time without compiling
        before = time.perf_counter()
        _excess(tried, old)
        seconds = time.perf_counter() - before
    return costs._replace(fixed=costs.fixed + 2 * seconds * len(held_out) / len(tried))


def _load(path: Path, config: TrainConfig) -> Localiser:
    settings = LocateConfig(network=str(path), device="cpu")
    return load_localiser(settings, config.size)


def split(labels: Labels) -> tuple[Labels, Labels, Labels]:
    """The labels to learn from, those that choose the best weights, and those held out: no block of frames in two."""
    held_out = labels.block % _OF_HELD_OUT == 0
    choosing = labels.block % _OF_CHOOSING == _CHOOSING
    return labels.select(~held_out & ~choosing), labels.select(choosing), labels.select(held_out)


def _random(config: TrainConfig, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, number, purpose])


def _sources(config: FineTuneConfig, own: Labels) -> ExampleSource:
    """What is learned from: patches of the user, drawn with replacement, and simulated ones."""
    n_own = max(1, round(config.own_share * config.batch))

    def source(number: int) -> TrainingExamples:
        rng = _random(config, number, _TEACHING)
        rows = rng.integers(len(own), size=n_own)
        return _mixed(config, own.select(rows), config.batch - n_own, rng)

    return source


def _mixed(config: TrainConfig, labels: Labels, n_simulated: int, rng: np.random.Generator) -> TrainingExamples:
    taught = examples_from_fits(labels.photons, labels.state, labels.offset, labels.std, rng=rng)
    simulated = simulate_examples(n_simulated, rng=rng, config=config.simulation, size=config.size)
    return prepared(config.network, join_examples(taught, simulated))


def verdict(labels: Labels, old: Localiser, new: Localiser, *, seed: int = 0) -> dict[str, Any]:
    """Compare two networks on labels that neither has learned from, by class.

    What counts is a peak's distance from its label (clipped at `CLIP` px) beyond the label's own uncertainty: with s²
    the sum of the squared standard errors of y and x, sqrt(max(distance² - s², 0)), as RMS over the peaks. A network
    within the uncertainty of the fits cannot be told from a better one by them. Intervals are of a bootstrap over the
    blocks of frames (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 8).

    Returns `classes`, by name: `peaks`, the RMS `old` and `new`, px, `difference` (new - old) with its interval `low`
    to `high`, and `judged`: better or worse, where the interval lies on that side of 0 and the difference is at least
    `LEAST_CHANGE` of the old RMS, or same. Classes of fewer than `MIN_JUDGED` peaks are left out. `better` is whether
    all peaks together are, and no class is worse; `old` is the file compared with.
    """
    excess = np.stack([_excess(labels, old), _excess(labels, new)])
    rng = np.random.default_rng([seed, 0, _BOOTSTRAP])
    figures = {
        name: _compare(excess[:, where], labels.block[where], rng)
        for name, where in classes(labels).items()
        if np.count_nonzero(where) >= MIN_JUDGED
    }
    judged = {name: values["judged"] for name, values in figures.items()}
    return {
        "classes": figures,
        "better": judged.get("all") == "better" and "worse" not in judged.values(),
        "old": {"file": old.file, "sha256": old.sha256},
    }


def classes(labels: Labels) -> dict[str, NDArray[np.bool_]]:
    """Which labels are of a class, (n,) by name. A peak may be of several: faint and overlap go with any shape."""
    minor, major = labels.fwhm.T / FWHM_PER_SIGMA
    elongated = major >= _ELONGATED * minor
    return {
        "all": np.ones(len(labels), bool),
        "sharp": ~elongated & (minor < _SHARP),
        "sampled": ~elongated & (minor >= _SHARP) & (minor < _BROAD),
        "broad": ~elongated & (minor >= _BROAD),
        "elongated": elongated,
        "faint": labels.snr < _FAINT,
        "overlap": labels.overlap,
    }


def _excess(labels: Labels, localiser: Localiser) -> NDArray[np.float64]:
    """Squares of the distances from the labels beyond their uncertainty, (n,)."""
    positions = locate_patches(localiser, labels.photons, labels.state).positions
    distance = np.linalg.norm(positions - (labels.size - 1) / 2 - labels.offset, axis=1)
    return np.asarray(np.maximum(np.minimum(distance, CLIP) ** 2 - (labels.std**2).sum(axis=1), 0))


def _compare(excess: NDArray[np.float64], block: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
    """Figures of one class: `excess` (2, n) squares of old and new, `block` (n,)."""
    n = len(block)
    group = np.unique(block, return_inverse=True)[1]
    if group.max() + 1 < _MIN_BLOCKS:
        group = np.arange(n) % _GROUPS
    sums = np.stack([np.bincount(group), *(np.bincount(group, squares) for squares in excess)])  # (3, groups)
    groups = sums.shape[1]
    times = rng.multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES)  # that each group is drawn
    number, old, new = sums @ times.T  # (resamples,) each
    differences = np.sqrt(new / number) - np.sqrt(old / number)
    low, high = np.quantile(differences, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    rms_old, rms_new = np.sqrt(excess.mean(axis=1)).tolist()
    difference = rms_new - rms_old
    judged = "same"
    if abs(difference) >= LEAST_CHANGE * rms_old and low * high > 0:
        judged = "better" if difference < 0 else "worse"
    return {
        "peaks": n,
        "old": rms_old,
        "new": rms_new,
        "difference": difference,
        "low": float(low),
        "high": float(high),
        "judged": judged,
    }
