"""Train a network on simulated peaks and save it with its card."""

import io
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from braggflow import patches
from braggflow.errors import InputError
from braggflow.files import write_atomic
from braggflow.locate import BraggNN, Compact, Network, NetworkOutput, compute_device
from braggflow.train.cards import card_of, check_weights_path, evaluated, save_weights
from braggflow.train.examples import TrainingExamples, simulate_examples, turned
from braggflow.train.settings import Told, TrainConfig, TrainProgress, TrainResult, tell_stage
from braggflow.train.time_given import EndCosts, TimeGiven

#: Highest learning rates: BraggNN's narrow layers lose their way with more (docs/models.md).
_RATES = {"compact": 8e-3, "braggnn": 2e-3}
_REPORT_STEPS = 100
_STATE_SECONDS = 60.0
#: Examples prepared ahead of the step that needs them, per thread.
_EXAMPLES_AHEAD = 2
#: How much the parts of compact's loss count. That of the position is small once the network follows its teacher; the
#: others stay of order 1 however good they are.
_POSITION, _UNCERTAINTY, _DOMAIN = 3.0, 0.5, 1.0
#: Share of peaks of the training's kind that may be flagged as out of the domain.
_FALSE_ALARMS = 0.005
#: Patches that the last adjustment of uncertainty and domain, and the validation, look at; how the former goes.
_ADJUSTING, _VALIDATING = 300_000, 4_000
_EPOCHS, _AT_ONCE, _JUDGE_RATE = 40, 1_000, 3e-3
#: Patches of the adjustment, and peaks of each class for the card, however little time is left; and how many of them
#: are tried before, to see what they cost.
FEWEST_ADJUSTING, FEWEST_PEAKS = 1_000, 100
_PATCHES_TRIED, _PEAKS_TRIED = 500, 100
#: How much more often neighbours, missing and saturated pixels are among the patches of the adjustment.
_RARE_SHARE_FACTOR = 1.5
#: Share of normal errors within one standard error.
_ONE_SIGMA_SHARE = 0.6827
#: Numbers of these examples, which no training reaches.
_ADJUSTMENT, _VALIDATION = 2**62, 2**62 + 1


#: The examples of a number, from 0 on, decided by that alone; called by several threads.
ExampleSource = Callable[[int], TrainingExamples]


def train(
    config: TrainConfig, out: Path, *, resume: bool = False, progress: Told = None, began: float | None = None
) -> dict[str, Any]:
    """Train a network on simulated peaks, and write its weights and its card.

    Parameters
    ----------
    config : TrainConfig
        Which network, how long, and what patches are drawn from.
    out : pathlib.Path or str
        The weights file, .safetensors; the card is written beside it, .json. While training, the state is kept beside
        it too, with suffix .state.
    resume : bool, default False
        Go on with an interrupted training from its state, to the same result.
    progress : callable, optional
        Called with a `TrainProgress` now and then, and at the beginning of each stage.
    began : float, optional
        With `config.seconds`: from when on they count, in the clock of `time.perf_counter`. Default: this call.

    Returns
    -------
    dict
        The card: how the network was trained, and how good it is (where `config.evaluation` is above 0).

    Notes
    -----
    With `config.seconds`, the last adjustment and the card's figures are made of as many patches as there is time for;
    `evaluation` of the card says of how many peaks. The first training after an installation compiles, which may take
    longer than the time that is given: then it ends as soon as it can.

    Raises
    ------
    InputError
        Where `out`, the device or the state do not fit.

    Examples
    --------
    Two steps teach a network nothing; it is only shown how they are asked for:

    >>> from pathlib import Path
    >>> from braggflow.train import TrainConfig, train
    >>> config = TrainConfig(network="compact", size=9, steps=2, batch=16, evaluation=0, device="cpu")
    >>> card = train(config, Path("mine.safetensors"))
    >>> card["steps"]
    2
    >>> sorted(path.name for path in Path().iterdir())
    ['mine.json', 'mine.safetensors']
    """
    given = TimeGiven(config.seconds, began)
    with torch_threads(config, given):
        return _train(config, Path(out), resume, progress, given)


def _train(config: TrainConfig, out: Path, resume: bool, progress: Told, given: TimeGiven) -> dict[str, Any]:
    check_weights_path(out)
    compute_device(config.device, key="device")

    tell_stage(progress, "compiling, and simulating what is validated on")
    model = fresh(config)
    validation = simulated(config, _VALIDATION, _VALIDATING)
    model, result = fit_network(
        config,
        model,
        lambda number: simulated(config, number),
        validation=validation,
        state_file=out.with_suffix(".state"),
        resume=resume,
        progress=progress,
        given=given,
        costs=end_costs(config, model, validation, progress) if given.limited else None,
        adjusting=_ADJUSTING,
    )
    # No more than it has learned from: a short training, for a try, ends soon.
    n = given.patches_to_adjust(min(_ADJUSTING, result.steps * config.batch), FEWEST_ADJUSTING)
    tell_stage(progress, f"adjusting what is stated of positions, on {n:,} patches")
    adjust(model, simulated(judging(config), _ADJUSTMENT, n))
    card = save_weights(out, model, card_of(config, model, result, tell_peaks(config, given, progress)))
    out.with_suffix(".state").unlink(missing_ok=True)
    return card


@contextmanager
def torch_threads(config: TrainConfig, given: TimeGiven) -> Iterator[None]:
    """The threads of the configuration where the time counts: more of them on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads if given.limited else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tell_peaks(config: TrainConfig, given: TimeGiven, progress: Told) -> int:
    """Say that the card's figures are measured now, and return on how many peaks of each class."""
    n = given.peaks_to_measure(config.evaluation, min(FEWEST_PEAKS, config.evaluation))
    if n:
        tell_stage(progress, f"measuring how good it is, on {n:,} peaks of each class")
    return n


def end_costs(config: TrainConfig, model: Network, validation: TrainingExamples, progress: Told) -> EndCosts:
    """What the end of a training costs here: a little of it is tried, the second time without compiling."""
    tell_stage(progress, "compiling, and seeing how fast this machine is")
    copied = deepcopy(model)
    for _ in range(2):
        marks = [time.perf_counter()]
        _validate(copied, validation)
        marks.append(time.perf_counter())
        adjust(copied, simulated(judging(config), _ADJUSTMENT, _PATCHES_TRIED))
        marks.append(time.perf_counter())
        if config.evaluation:
            evaluated(copied, _PEAKS_TRIED)
        marks.append(time.perf_counter())
    validating, adjusting, measuring = np.diff(marks).tolist()
    return EndCosts(validating, adjusting / _PATCHES_TRIED, measuring / _PEAKS_TRIED)


def simulated(config: TrainConfig, number: int, n: int | None = None) -> TrainingExamples:
    """The examples of a number: `config.batch` patches, or `n`; `config.seed` and the number decide it."""
    rng = np.random.default_rng([config.seed, number])
    drawn = simulate_examples(n or config.batch, rng=rng, config=config.simulation, size=config.size)
    return prepared(config.network, drawn)


def prepared(network: str, examples: TrainingExamples) -> TrainingExamples:
    """The examples as a network takes it: BraggNN needs a full square."""
    return (
        examples
        if network == "compact"
        else examples._replace(photons=patches.filled(examples.photons, examples.state))
    )


def fresh(config: TrainConfig) -> Network:
    """A network with the first weights that `seed` decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: Network = BraggNN(config.size) if config.network == "braggnn" else Compact(config.size)
        if isinstance(model, BraggNN):
            # Its last layers are 4, 2 and 2 units wide: one that starts on the flat side of its activation loses a
            # coordinate for thousands of steps. Begin with all of them on the linear side, half-way across the patch.
            for layer in model.dense_layers:
                if isinstance(layer, torch.nn.Linear):
                    torch.nn.init.orthogonal_(layer.weight)
                    torch.nn.init.constant_(layer.bias, 0.5)
    return model


def fit_network(
    config: TrainConfig,
    model: Network,
    source: ExampleSource,
    *,
    validation: TrainingExamples,
    state_file: Path,
    resume: bool = False,
    progress: Told = None,
    given: TimeGiven | None = None,
    costs: EndCosts | None = None,
    adjusting: int = 0,
) -> tuple[Network, TrainResult]:
    """Train `model` on the examples of `source`; return it with the weights that were best on `validation`, on the CPU.

    Stops after `config.steps`, or earlier for want of `patience`; where `given` is limited (default: by
    `config.seconds`), after that time less the `costs` of an end that adjusts on so many patches.
    """
    given = given or TimeGiven(config.seconds)
    device = compute_device(config.device, key="device")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        result = _loop(
            config,
            model,
            device,
            source,
            validation,
            state_file,
            resume,
            progress,
            partial(_fraction, config, given),
            partial(given.begin_learning, costs=costs, adjusting=adjusting, peaks=config.evaluation),
        )
    finally:
        torch.set_num_threads(threads)
    return model.cpu(), result


def _loop(
    config: TrainConfig,
    model: Network,
    device: str,
    source: ExampleSource,
    validation: TrainingExamples,
    state_file: Path,
    resume: bool,
    progress: Told,
    fraction_at: Callable[[int], float],
    begin: Callable[[float], None],
) -> TrainResult:
    highest = _RATES[config.network] if config.learning_rate is None else config.learning_rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=highest, weight_decay=0)
    step, spent, lowest, waited = 0, 0.0, math.inf, 0
    best = _copy(model)
    if resume and state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["config"] != config.model_dump(mode="json"):
            raise InputError(f"resume: {state_file} is of a training with other settings; remove it to start afresh")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        best, step, spent = state["best"], state["step"], state["seconds"]
        lowest, waited = state["lowest"], state["waited"]
    begin(spent)
    tell_stage(progress, f"training, from step {step}")
    start = time.perf_counter() - spent
    saved = reported = time.perf_counter()
    losses: list[Tensor] = []
    checked = lowest if step else math.nan
    with _prepared_ahead(source, config, step) as examples:
        while waited < config.patience and (fraction := fraction_at(step)) < 1:
            warm = min(1.0, (step + 1) / (config.warm_up + 1))
            for group in optimiser.param_groups:
                group["lr"] = highest * warm * 0.5 * (1 + math.cos(math.pi * fraction))
            with _precision(config, device):
                value = loss_of(model, next(examples))
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimiser.step()
            losses.append(value.detach())
            step += 1
            if step % config.validation_steps == 0:
                checked = _validate(model, validation)
                waited = 0 if checked < lowest else waited + 1
                if checked < lowest:
                    lowest, best = checked, _copy(model)
            now = time.perf_counter()
            if step % _REPORT_STEPS == 0:
                if progress is not None:
                    loss = float(torch.stack(losses).mean())
                    speed = len(losses) * config.batch / (now - reported)
                    progress(TrainProgress(step, fraction, loss, checked, speed))
                losses, reported = [], now
            if now - saved > _STATE_SECONDS and step % _REPORT_STEPS == 0:
                state = {
                    "config": config.model_dump(mode="json"),
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "best": best,
                    "step": step,
                    "seconds": now - start,
                    "lowest": lowest,
                    "waited": waited,
                }
                _save_state(state_file, state)
                saved = now
    if (last := _validate(model, validation)) < lowest:
        lowest, best = last, _copy(model)
    model.load_state_dict(best)
    return TrainResult(step, time.perf_counter() - start, lowest)


def _fraction(config: TrainConfig, given: TimeGiven, step: int) -> float:
    if not given.limited:
        return step / config.steps
    return given.share_learned() if step else 0.0  # a step is made however little time is left


@contextmanager
def _prepared_ahead(source: ExampleSource, config: TrainConfig, first: int) -> Iterator[Iterator[TrainingExamples]]:
    """What the steps from `first` on learn from, made by threads while the network learns.

    `config.views` steps in a row see the same patches, each turned or mirrored another way: drawing and fitting patches
    costs more than learning from them.
    """
    first_number, first_view = divmod(first, config.views)
    with ThreadPoolExecutor(config.threads) as pool:
        waiting = deque(pool.submit(source, first_number + k) for k in range(_EXAMPLES_AHEAD * config.threads))

        def examples() -> Iterator[TrainingExamples]:
            start = first_view
            for number in itertools.count(first_number):
                drawn = waiting.popleft().result()
                waiting.append(pool.submit(source, number + _EXAMPLES_AHEAD * config.threads))
                for view in range(start, config.views):
                    yield turned(drawn, (number + 3 * view) % 8)
                start = 0

        try:
            yield examples()
        finally:
            for future in waiting:
                future.cancel()


def _precision(config: TrainConfig, device: str) -> torch.autocast:
    kind = device.partition(":")[0]
    wanted = config.precision if config.precision != "auto" else "bfloat16" if kind == "cuda" else "float32"
    return torch.autocast(kind, torch.bfloat16, enabled=wanted == "bfloat16")


def loss_of(model: Network, examples: TrainingExamples) -> Tensor:
    """The loss on examples.

    Positions: the distance from what the fit of the true kind of profile says, in units of what the photons allow,
    squared where it is below 1. `Compact` also: the negative log likelihood of a normal error with the stated standard
    error (linear beyond 3 of them: a few hopeless patches shall not rule the others), which teaches the uncertainty
    alone; and the cross entropy of peak and outlier.
    """
    device = next(model.parameters()).device
    photons, state, truth, target, unit, peak, telling = (torch.from_numpy(part).to(device) for part in examples)
    answer = model.locate(photons, state)
    share = peak.float()[:, None] / peak.sum().clamp(min=1) / 2
    distance = (answer.offsets - target) / unit
    position = (share * functional.smooth_l1_loss(distance, torch.zeros_like(distance), reduction="none")).sum()
    if isinstance(model, BraggNN):
        return position
    stated = _stated(answer._replace(offsets=answer.offsets.detach()), truth, unit, peak, telling)
    return _POSITION * position + stated


def _stated(answer: NetworkOutput, truth: Tensor, unit: Tensor, peak: Tensor, telling: Tensor) -> Tensor:
    """The loss of what is stated of positions: how sure they are, and whether they are peaks."""
    share = peak.float()[:, None] / peak.sum().clamp(min=1) / 2
    error = (answer.offsets - truth) / answer.errors
    huber = functional.huber_loss(error, torch.zeros_like(error), delta=3.0, reduction="none")
    uncertainty = (share * (huber + (answer.errors / unit).log())).sum()
    domain = functional.binary_cross_entropy_with_logits(answer.domain, peak.float(), telling.float())
    return _UNCERTAINTY * uncertainty + _DOMAIN * domain


@torch.inference_mode()
def _validate(model: Network, validation: TrainingExamples) -> float:
    return float(loss_of(model, validation))


def judging(config: TrainConfig) -> TrainConfig:
    """The configuration with more of the patches that are rare in training, for `adjust`: positions stay as they are,
    and the uncertainty of a cut or crowded peak is learned from enough of them.
    """
    shares = ("neighbour_share", "missing_share", "saturated_share")
    more = {name: min(1.0, _RARE_SHARE_FACTOR * getattr(config.simulation, name)) for name in shares}
    return config.model_copy(update={"simulation": config.simulation.model_copy(update=more)})


def adjust(model: Network, examples: TrainingExamples) -> None:
    """Train the judging head of a `Compact` on examples it has not learned from; its positions stay.

    While positions improve, what is learned of their uncertainty lags behind. At last the stated errors are scaled so
    that 68.3% of the true ones lie within them, and the domain's logit is shifted so that `_FALSE_ALARMS` of the peaks
    fall out of the domain.
    """
    if not isinstance(model, Compact):
        return
    photons, state, truth, _, unit, peak, telling = (torch.from_numpy(part) for part in examples)
    with torch.no_grad():
        parts = zip(photons.split(_AT_ONCE), state.split(_AT_ONCE), strict=True)  # type: ignore[no-untyped-call]
        features = torch.cat([model.features(*part) for part in parts])
        offsets = model.output(functional.silu(model.hidden(features)))

    optimiser = torch.optim.AdamW(model.judge.parameters(), lr=_JUDGE_RATE, weight_decay=0)
    n_steps = _EPOCHS * math.ceil(len(features) / _AT_ONCE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(features), generator=shuffle).split(_AT_ONCE):  # type: ignore[no-untyped-call]
            answer = NetworkOutput(offsets[rows], *model.judged(features[rows]))
            loss = _stated(answer, truth[rows], unit[rows], peak[rows], telling[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()

    with torch.no_grad():
        good = peak & telling
        errors, domain = model.judged(features)
        ratio = ((offsets - truth).abs() / errors)[good]
        last = model.judge.get_parameter("2.bias")
        last[:2] += math.log(np.quantile(ratio, _ONE_SIGMA_SHARE))
        last[2] -= float(np.quantile(domain[good], _FALSE_ALARMS))


def _copy(model: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())
