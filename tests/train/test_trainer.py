import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from braggflow import patches
from braggflow import train as train_wing
from braggflow.config import LocateConfig
from braggflow.errors import InputError
from braggflow.locate import IN_DOMAIN, BraggNN, Compact, Network, NetworkOutput, load_localiser, locate_patches
from braggflow.simulate import PatchSimulation
from braggflow.train import TrainConfig, TrainProgress, train
from braggflow.train import trainer as trainer_module
from braggflow.train.examples import TrainingExamples
from braggflow.train.trainer import (
    _FALSE_ALARMS,
    _RARE_SHARE_FACTOR,
    _prepared_ahead,
    adjust,
    fit_network,
    fresh,
    judging,
    loss_of,
    prepared,
    simulated,
)

TINY = TrainConfig(steps=200, batch=32, warm_up=20, validation_steps=100, evaluation=100, device="cpu")


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "_VALIDATING", 200)
    monkeypatch.setattr(trainer_module, "_ADJUSTING", 400)
    monkeypatch.setattr(trainer_module, "_AT_ONCE", 100)
    monkeypatch.setattr(trainer_module, "_EPOCHS", 3)


def stop_at(step: int) -> Callable[[TrainProgress], None]:
    def stop(report: TrainProgress) -> None:
        if report.step >= step:
            raise StoppedError

    return stop


# A training.


def test_training_brings_the_error_down_and_says_what_it_did(tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    out = tmp_path / "a.safetensors"
    told: list[str] = []
    card = train(TINY, out, progress=lambda report: told.append(report.stage) if report.stage else seen.append(report))
    assert told == [
        "compiling, and simulating what is validated on",
        "training, from step 0",
        "adjusting what is stated of positions, on 400 patches",
        "measuring how good it is, on 100 peaks of each class",
    ]
    assert [report.step for report in seen] == [100, 200]
    assert seen[1].loss < seen[0].loss
    assert seen[1].validation < seen[0].validation
    assert card["validation_loss"] == seen[1].validation
    assert (card["steps"], card["patches_seen"]) == (200, 6400)
    assert card["parameters"] == sum(parameter.numel() for parameter in fresh(TINY).parameters())
    assert card["configuration"] == TINY.model_dump(mode="json")
    assert json.loads((tmp_path / "a.json").read_text()) == card
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors"]

    localiser = load_localiser(LocateConfig(network=str(out), device="cpu"), 11)
    test = simulated(TINY.model_copy(update={"seed": 77, "batch": 500}), 0)
    located = locate_patches(localiser, test.photons, test.state)
    distance = np.linalg.norm(located.positions - 5 - test.truth, axis=1)
    assert np.median(distance[test.peak]) < 0.25  # guessing the centre of the patch: 0.7


def test_a_card_says_what_made_the_weights_again(tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"steps": 3, "simulation": PatchSimulation(sigma=(0.7, 1.1), outliers=("arc", "empty"))}
    )
    card = train(config, tmp_path / "a.safetensors")
    names = {
        "TrainConfig": TrainConfig,
        "braggflow": type("package", (), {"train": train_wing}),
        "out": tmp_path / "b.safetensors",
    }
    eval(card["made_by"], names)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("network", ["braggnn", "compact"])
def test_the_same_seed_gives_the_same_file_and_a_resumed_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    config = TINY.model_copy(update={"network": network, "steps": 24, "batch": 8, "validation_steps": 6})
    monkeypatch.setattr(trainer_module, "_REPORT_STEPS", 8)
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "again", "resumed", "other")]
    train(config, files[0])
    train(config, files[1])
    monkeypatch.setattr(trainer_module, "_STATE_SECONDS", 0.0)
    with pytest.raises(StoppedError):
        train(config, files[2], progress=stop_at(16))
    assert not files[2].exists()
    reports: list[TrainProgress] = []
    train(config, files[2], resume=True, progress=reports.append)
    assert [report.step for report in reports if not report.stage] == [16, 24]  # the state was that of step 8
    train(config.model_copy(update={"seed": 1}), files[3])
    first, again, resumed, other = (file.read_bytes() for file in files)
    assert first == again == resumed
    assert first != other


def test_a_training_of_other_settings_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "_STATE_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "_REPORT_STEPS", 2)
    with pytest.raises(StoppedError):
        train(TINY, tmp_path / "a.safetensors", progress=stop_at(4))
    with pytest.raises(InputError, match=r"resume: .*a\.state is of a training with other settings"):
        train(TINY.model_copy(update={"seed": 5}), tmp_path / "a.safetensors", resume=True)


def test_a_training_can_be_given_a_time_instead_of_steps(tmp_path: Path) -> None:
    told: list[str] = []
    wanted = TINY.model_copy(update={"seconds": 0.3, "evaluation": 20_000})
    card = train(wanted, tmp_path / "a.safetensors", progress=lambda report: told.append(report.stage))
    assert card["steps"] >= 1
    # Loading alone has taken longer: the end is as small as it gets, and the card says so.
    assert card["evaluation"]["peaks"] == 100
    assert "compiling, and seeing how fast this machine is" in told
    assert told[-1] == "measuring how good it is, on 100 peaks of each class"
    assert told.count("training, from step 0") == 1


def test_a_training_that_gets_no_better_ends_and_keeps_its_best_weights(tmp_path: Path) -> None:
    # No step is small enough to be one: the second validation is not below the first.
    config = TINY.model_copy(update={"learning_rate": 1e-30, "validation_steps": 2, "patience": 3, "warm_up": 0})
    model = fresh(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = simulated(config, 0)
    state = tmp_path / "state"
    model, result = fit_network(config, model, lambda _: examples, validation=examples, state_file=state)
    assert result.steps == 2 * (1 + config.patience)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # Steps so large that all is lost after the first two of them.
    config = config.model_copy(update={"learning_rate": 3.0, "patience": 2})
    model, result = fit_network(config, fresh(config), lambda _: examples, validation=examples, state_file=state)
    assert result.validation == pytest.approx(loss(model, examples), rel=1e-5)


def test_a_training_that_could_not_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out: .*a\.pth must end in \.safetensors"):
        train(TINY, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"out: folder .*nowhere does not exist"):
        train(TINY, tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(InputError, match=r"device: cuda:99 is not there"):
        train(TINY.model_copy(update={"device": "cuda:99"}), tmp_path / "a.safetensors")


def test_the_threads_of_the_caller_are_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train(TINY.model_copy(update={"steps": 1, "threads": before + 1}), tmp_path / "a.safetensors")
    assert torch.get_num_threads() == before


# What a step learns from.


def test_a_number_decides_its_patches() -> None:
    one = simulated(TINY, 3)
    for part, again in zip(one, simulated(TINY, 3), strict=True):
        assert part.tobytes() == again.tobytes()
    assert one.photons.shape == (32, 11, 11)
    assert one.photons.tobytes() != simulated(TINY, 4).photons.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("first", [0, 5])
def test_steps_in_a_row_see_the_same_patches_from_other_sides(threads: int, first: int) -> None:
    config = TINY.model_copy(update={"threads": threads})
    with _prepared_ahead(lambda number: simulated(config, number), config, first) as examples:
        seen = [next(examples) for _ in range(2 * config.views)]
    with _prepared_ahead(lambda number: simulated(config, number), config, 0) as examples:
        from_0 = [next(examples) for _ in range(first + 1)]
    assert seen[0].photons.tobytes() == from_0[first].photons.tobytes()
    assert len({one.photons.tobytes() for one in seen}) == len(seen)
    numbers = [(first + step) // config.views for step in range(len(seen))]
    for number, one in zip(numbers, seen, strict=True):
        drawn = simulated(config, number)
        for part, whole in ((one.photons, drawn.photons), (np.abs(one.truth), np.abs(drawn.truth))):
            np.testing.assert_array_equal(*(np.sort(a.reshape(32, -1), axis=1) for a in (part, whole)))


def test_the_adjustment_sees_more_of_what_is_rare() -> None:
    more = judging(TINY).simulation
    for name in ("missing_share", "neighbour_share", "saturated_share"):
        assert getattr(more, name) == pytest.approx(_RARE_SHARE_FACTOR * getattr(TINY.simulation, name))
    crowded = TINY.model_copy(update={"simulation": PatchSimulation(neighbour_share=0.9)})
    assert judging(crowded).simulation.neighbour_share == 1


def test_braggnn_is_shown_full_squares_and_compact_the_holes() -> None:
    examples = simulated(TINY.model_copy(update={"batch": 200}), 0)
    holes = examples.state == patches.State.MISSING
    assert (examples.photons[holes] == 0).all()
    filled = prepared("braggnn", examples)
    np.testing.assert_array_equal(filled.photons, patches.filled(examples.photons, examples.state))
    assert (filled.photons[holes] != 0).any()
    assert prepared("compact", examples) is examples


# The loss, of answers that are given.


class Scripted(Compact):
    """Answers what it is told, whatever the patches."""

    def __init__(self, answer: NetworkOutput) -> None:
        super().__init__()
        self.answer = answer

    def locate(self, photons: Tensor, state: Tensor) -> NetworkOutput:  # noqa: ARG002
        return self.answer


def loss(model: Network, examples: TrainingExamples) -> float:
    return float(loss_of(model, examples).detach())


def answer(examples: TrainingExamples, **changed: Any) -> NetworkOutput:
    """The target as position, the unit as error, and a sure verdict on the domain; or something else."""
    given = {
        "offsets": examples.target,
        "errors": examples.unit,
        "domain": np.where(examples.peak, 40, -40).astype(np.float32),
    }
    return NetworkOutput(
        **{name: torch.from_numpy(np.copy(part)).requires_grad_() for name, part in (given | changed).items()}
    )


@pytest.fixture
def examples() -> TrainingExamples:
    """Its peaks have the fit's position for a truth, its outliers (0 to 7) nonsense for an answer."""
    examples = simulated(TINY, 0)._replace(peak=np.arange(32) >= 8, telling=np.ones(32, bool))
    target = np.where(examples.peak[:, None], examples.target, 99).astype(np.float32)
    return examples._replace(target=target, truth=target)


def test_the_best_answer_has_the_least_loss(examples: TrainingExamples) -> None:
    least = loss(Scripted(answer(examples, errors=examples.unit * 1e-3)), examples)
    assert least == pytest.approx(0.5 * np.log(1e-3), rel=1e-4)  # of the errors alone
    off = np.where(examples.peak[:, None], examples.target + 0.5 * examples.unit, 0).astype(np.float32)
    assert loss(Scripted(answer(examples, errors=examples.unit * 1e-3, offsets=off)), examples) > least + 1
    wrong = -answer(examples).domain.detach().numpy()
    assert loss(Scripted(answer(examples, domain=wrong)), examples) > 30


def test_outliers_teach_no_position_and_the_error_no_position_either(examples: TrainingExamples) -> None:
    given = answer(examples, offsets=examples.target + 0.1)
    loss_of(Scripted(given), examples).backward()
    assert given.offsets.grad is not None
    assert given.errors.grad is not None
    for gradient in (given.offsets.grad, given.errors.grad):
        assert (gradient[:8] == 0).all()
        assert (gradient[8:] != 0).all()
    with_larger_errors = answer(examples, offsets=examples.target + 0.1, errors=examples.unit * 5)
    loss_of(Scripted(with_larger_errors), examples).backward()
    torch.testing.assert_close(with_larger_errors.offsets.grad, given.offsets.grad)


def test_the_loss_of_the_errors_is_least_where_they_are_the_true_ones(examples: TrainingExamples) -> None:
    off = np.random.default_rng(0).normal(size=(32, 2))
    size = np.sqrt((off[8:] ** 2).mean())
    given = answer(examples, offsets=(examples.target + off * examples.unit).astype(np.float32))

    def of_errors(factor: float) -> float:
        return loss(Scripted(given._replace(errors=torch.from_numpy(examples.unit * np.float32(factor)))), examples)

    assert of_errors(size) < min(of_errors(0.8 * size), of_errors(1.25 * size))


def test_peaks_that_tell_nothing_of_the_domain_teach_it_nothing(examples: TrainingExamples) -> None:
    examples = examples._replace(telling=np.arange(32) % 2 == 0)
    given = answer(examples, domain=np.zeros(32, np.float32))
    loss_of(Scripted(given), examples).backward()
    assert given.domain.grad is not None
    assert (given.domain.grad[1::2] == 0).all()
    assert (given.domain.grad[0:8:2] > 0).all()  # an outlier: lower
    assert (given.domain.grad[8::2] < 0).all()


def test_braggnn_learns_positions_only() -> None:
    config = TINY.model_copy(update={"network": "braggnn"})
    examples = simulated(config, 0)
    model = fresh(config)
    found = model.locate(torch.from_numpy(examples.photons), torch.from_numpy(examples.state))
    distance = (found.offsets.detach().numpy() - examples.target)[examples.peak] / examples.unit[examples.peak]
    huber = np.where(abs(distance) < 1, distance**2 / 2, abs(distance) - 0.5).mean()
    assert loss(model, examples) == pytest.approx(huber, rel=1e-4)


def test_what_compact_states_is_adjusted_to_what_holds() -> None:
    config = TINY.model_copy(update={"batch": 2000})
    examples = simulated(config, 0)
    model = fresh(config)
    adjust(model, examples)
    with torch.inference_mode():
        found = model.locate(torch.from_numpy(examples.photons), torch.from_numpy(examples.state))
    good = examples.peak & examples.telling
    within = (np.abs(found.offsets.numpy() - examples.truth) < found.errors.numpy())[good]
    assert within.mean() == pytest.approx(0.6827, abs=0.002)
    assert (found.domain.sigmoid().numpy()[good] < IN_DOMAIN).mean() == pytest.approx(_FALSE_ALARMS, abs=0.001)


def test_first_weights_are_the_seeds() -> None:
    for network in ("compact", "braggnn"):
        config = TINY.model_copy(update={"network": network})
        one, same = (torch.nn.utils.parameters_to_vector(fresh(config).parameters()) for _ in range(2))
        other = fresh(config.model_copy(update={"seed": 1}))
        assert torch.equal(one, same)
        assert not torch.equal(one, torch.nn.utils.parameters_to_vector(other.parameters()))
        assert isinstance(other, BraggNN if network == "braggnn" else Compact)
