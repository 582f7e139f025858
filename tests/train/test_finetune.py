import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from braggflow.cli import app
from braggflow.config import LocateConfig
from braggflow.errors import InputError
from braggflow.locate import Compact, Localiser, Located, load_localiser
from braggflow.peak_table import Method
from braggflow.simulate import FWHM_PER_SIGMA, PatchSimulation
from braggflow.train import (
    FineTuneConfig,
    TrainConfig,
    TrainProgress,
    fine_tune,
    labels_from_run,
    simulation_like,
    train,
)
from braggflow.train import finetune as finetune_module
from braggflow.train import trainer as trainer_module
from braggflow.train.cards import save_weights
from braggflow.train.examples import TrainingExamples, examples_from_fits
from braggflow.train.finetune import _sources, classes, split, verdict
from braggflow.train.labels import Collected, Labels
from tests.train.labelled_runs import draw_frames, labelled_run

N_FRAMES = 30
SHORT = FineTuneConfig(steps=80, batch=32, warm_up=5, validation_steps=20, evaluation=100, device="cpu")


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def shorten(patch: pytest.MonkeyPatch) -> None:
    for module in (trainer_module, finetune_module):
        patch.setattr(module, "_VALIDATING", 150)
        patch.setattr(module, "_ADJUSTING", 400)
    patch.setattr(trainer_module, "_AT_ONCE", 100)
    patch.setattr(trainer_module, "_EPOCHS", 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_run(tmp_path_factory.mktemp("run"), N_FRAMES)


@pytest.fixture(scope="module")
def collected(run: Path) -> Collected:
    return labels_from_run(run)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned a little from simulated patches."""
    out = tmp_path_factory.mktemp("weights") / "good.safetensors"
    config = TrainConfig(steps=200, batch=64, warm_up=20, validation_steps=100, evaluation=0, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        train(config, out)
    return out


def load(path: Path) -> Localiser:
    return load_localiser(LocateConfig(network=str(path), device="cpu"), 11)


def spoil(path: Path, out: Path, shift: float) -> Path:
    """The network with all its answers moved along y."""
    model = load(path).model
    assert isinstance(model, Compact)
    with torch.no_grad():
        model.output.bias[0] += shift
    save_weights(out, model, {})
    return out


# A fine-tuning.


def test_a_spoiled_network_becomes_better_on_frames_held_out(tmp_path: Path, good: Path, collected: Collected) -> None:
    bad = spoil(good, tmp_path / "bad.safetensors", 0.2)
    out = tmp_path / "new.safetensors"
    outcome = fine_tune(SHORT, collected, load(bad), out)
    found = outcome.verdict
    assert outcome.card is not None
    assert found["better"]
    assert {figures["judged"] for figures in found["classes"].values()} == {"better"}
    assert found["old"] == {"file": "bad.safetensors", "sha256": load(bad).sha256}
    figures = found["classes"]["all"]
    assert figures["old"] == pytest.approx(0.2, abs=0.03)
    assert figures["new"] < 0.6 * figures["old"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("bad.json", "bad.safetensors"),
        *("new.json", "new.safetensors"),
    }
    card = json.loads(out.with_suffix(".json").read_text())
    assert card == outcome.card | {"sha256": load(out).sha256}
    assert card["verdict"] == found
    assert card["start"]["sha256"] == card["configuration"]["start"] == load(bad).sha256
    assert card["configuration"]["labels"] == collected.labels.digest()
    assert (card["labels"]["source"], card["labels"]["frames"]) == (collected.source, N_FRAMES)
    # What was judged is what was saved.
    _, _, held_out = split(collected.labels)
    assert verdict(held_out, load(bad), load(out)) == found


def test_a_good_network_is_not_replaced_by_a_worse_one(tmp_path: Path, good: Path, collected: Collected) -> None:
    out = tmp_path / "mine.safetensors"
    save_weights(out, load(good).model, {"mine": True})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    bad = load(spoil(good, tmp_path.parent / f"{tmp_path.name}.safetensors", 0.4))
    few = SHORT.model_copy(update={"steps": 2, "learning_rate": 1e-6})
    outcome = fine_tune(few, collected, bad, out)
    assert outcome.card is None
    assert outcome.verdict["old"]["file"] == "mine.safetensors"
    assert not outcome.verdict["better"]
    assert outcome.verdict["classes"]["all"]["judged"] == "worse"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    # Unless it is wanted: then it is compared with what it started from.
    replaced = fine_tune(few, collected, bad, out, overwrite=True)
    assert replaced.card is not None
    assert replaced.verdict["old"]["file"] == bad.file
    assert load(out).sha256 != load(good).sha256


def test_a_worse_network_is_replaced_also_where_it_is_the_start(
    tmp_path: Path, good: Path, collected: Collected
) -> None:
    out = spoil(good, tmp_path / "mine.safetensors", 0.3)
    before = load(out).sha256
    outcome = fine_tune(SHORT, collected, load(out), out)
    assert outcome.card is not None
    assert load(out).sha256 != before
    assert outcome.card["start"]["sha256"] == outcome.verdict["old"]["sha256"] == before


def test_where_nothing_stands_the_weights_are_written_whatever_the_verdict(
    tmp_path: Path, good: Path, collected: Collected
) -> None:
    few = SHORT.model_copy(update={"steps": 1, "learning_rate": 1e-9})
    start = load(good)
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    outcome = fine_tune(few, collected, start, tmp_path / "new.safetensors")
    assert outcome.card is not None
    assert not outcome.verdict["better"]
    assert json.loads((tmp_path / "new.json").read_text())["verdict"]["better"] is False
    # A copy was taught.
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.model.state_dict().items())


def test_a_stopped_fine_tuning_goes_on_to_the_same_weights(
    tmp_path: Path, good: Path, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "_REPORT_STEPS", 5)
    config = SHORT.model_copy(update={"steps": 20, "validation_steps": 10, "batch": 8})
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    fine_tune(config, collected, load(good), first)

    def stop(report: TrainProgress) -> None:
        if report.step == 15:
            raise StoppedError

    monkeypatch.setattr(trainer_module, "_STATE_SECONDS", 0.0)
    with pytest.raises(StoppedError):
        fine_tune(config, collected, load(good), second, progress=stop)
    half = replace(collected, labels=collected.labels.select(np.arange(0, len(collected.labels), 2)))
    with pytest.raises(InputError, match=r"second\.state is of a training with other settings"):
        fine_tune(config, half, load(good), second, resume=True)
    seen: list[int] = []
    fine_tune(config, collected, load(good), second, resume=True, progress=lambda r: seen.append(r.step))
    assert [step for step in seen if step] == [15, 20]
    assert load_localiser(LocateConfig(network=str(second)), 11).sha256 == load(first).sha256


def test_what_does_not_fit_is_refused(tmp_path: Path, good: Path, collected: Collected) -> None:
    start = load(good)
    with pytest.raises(InputError, match=r"size: wanted is a compact network for patches of 13 px, but good"):
        fine_tune(SHORT.model_copy(update={"size": 13}), collected, start, tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=r"wanted is a braggnn network for patches of 11 px, but good\.\w+ is a compact"
    ):
        fine_tune(SHORT.model_copy(update={"network": "braggnn"}), collected, start, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"out: .*a\.pth must end in \.safetensors"):
        fine_tune(SHORT, collected, start, tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_text("weights of another kind")
    with pytest.raises(InputError, match=r"a\.safetensors is no safetensors file"):
        fine_tune(SHORT, collected, start, tmp_path / "a.safetensors")
    one = replace(collected, labels=collected.labels.select(collected.labels.block == 3))
    with pytest.raises(InputError, match=r"0 labels are in frames held out and 0 in frames to learn from.*labels: 1\)"):
        fine_tune(SHORT, one, start, tmp_path / "b.safetensors")


# What is learned from, and what is not.


def test_no_block_of_frames_is_in_two_parts(collected: Collected) -> None:
    parts = split(collected.labels)
    assert sum(map(len, parts)) == len(collected.labels)
    frames = [set(part.frame.tolist()) for part in parts]
    blocks = [set(part.block.tolist()) for part in parts]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not frames[one] & frames[other]
        assert not blocks[one] & blocks[other]
    assert [len(part) for part in frames] == [21, 3, 6]


def test_only_the_first_part_is_learned_from(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[NDArray[np.float32]] = []
    teach = examples_from_fits

    def remember(photons: NDArray[np.float32], *others: Any, **options: Any) -> TrainingExamples:
        shown.append(photons)
        return teach(photons, *others, **options)

    monkeypatch.setattr(finetune_module, "examples_from_fits", remember)
    own, choosing, held_out = split(collected.labels)
    source = _sources(SHORT, own)
    for step in range(60):
        source(step)
    learned = {patch.tobytes() for patch in np.concatenate(shown)}
    assert len(learned) > 0.6 * len(own)
    assert learned <= {patch.tobytes() for patch in own.photons}
    assert not {patch.tobytes() for part in (choosing, held_out) for patch in part.photons} & learned


def test_a_lesson_is_part_fits_part_simulation_and_decided_by_its_number(collected: Collected) -> None:
    config = SHORT.model_copy(update={"own_share": 0.25, "simulation": PatchSimulation(outlier_share=1.0)})
    own = split(collected.labels)[0]
    one, again = _sources(config, own)(5), _sources(config, own)(5)
    for part, same in zip(one, again, strict=True):
        assert part.tobytes() == same.tobytes()
    assert one.peak.tolist() == [True] * 8 + [False] * 24


def test_the_target_is_the_fit_and_the_truth_as_far_from_it_as_its_error_says() -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    offset, std = rng.uniform(-1, 1, (n, 2)), np.exp(rng.uniform(np.log(0.001), np.log(2), (n, 2)))
    photons, state = np.zeros((n, 11, 11), np.float32), np.zeros((n, 11, 11), np.uint8)
    examples = examples_from_fits(photons, state, offset, std, rng=rng)
    np.testing.assert_allclose(examples.target, offset, atol=1e-6)
    assert ((examples.truth - offset) / std).std() == pytest.approx(1, abs=0.02)
    assert examples.unit.min() >= 0.015
    assert examples.unit.max() == 1
    middle = (std > 0.1) & (std < 0.9)
    np.testing.assert_allclose(examples.unit[middle], std[middle], rtol=0.02)
    assert examples.peak.all()
    np.testing.assert_array_equal(examples.telling, examples.unit.max(axis=1) < 0.5)


# On the command line.


def command(*words: object) -> str:
    """What it prints; raises what it raises."""
    result = CliRunner().invoke(app, [*map(str, words), "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


QUICK = ("--steps", 2, "--batch", 4, "--evaluation", 0)


def test_train_like_a_run_keeps_the_ranges_in_the_card(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert command("train", "--out", out, "--like", run, *QUICK).splitlines() == [
        f"weights: {out}",
        f"card: {tmp_path / 'a.json'}",
    ]
    card = json.loads((tmp_path / "a.json").read_text())
    assert PatchSimulation(**card["configuration"]["simulation"]) == simulation_like(run)


def test_train_with_a_runs_labels_prints_the_verdict(tmp_path: Path, run: Path, good: Path) -> None:
    out = tmp_path / "a.safetensors"
    printed = command("finetune", run, "--out", out, "--from", good, *QUICK)
    card = json.loads((tmp_path / "a.json").read_text())
    figures = card["verdict"]["classes"]["all"]
    assert f"│ all     │   {figures['peaks']} │  {figures['old']:.4f} │  {figures['new']:.4f} │" in printed
    assert "The new weights are not better than good.safetensors." in printed
    assert printed.endswith(f"weights: {out}\ncard: {tmp_path / 'a.json'}\n")
    assert (card["network"], card["labels"]["source"]) == ("compact", str(run))
    assert PatchSimulation(**card["configuration"]["simulation"]) == simulation_like(run)
    # What is there now is not worse than what such a training makes of a spoiled network.
    before = out.read_bytes()
    bad = spoil(good, tmp_path / "bad.safetensors", 0.3)
    with pytest.raises(
        InputError, match=r"--out .*a\.safetensors: holds weights that are not worse, and stays as it is"
    ):
        command("finetune", run, "--out", out, "--from", bad, *QUICK)
    assert out.read_bytes() == before
    command("finetune", run, "--out", out, "--from", bad, "--overwrite", *QUICK)
    assert out.read_bytes() != before


def test_train_with_the_files_of_braggnn(tmp_path: Path, good: Path) -> None:
    images, profiles = draw_frames(N_FRAMES, seed=4)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["frames"] = images * np.float32(2)
    with h5py.File(tmp_path / "peaks.h5", "w") as file:
        file["peak_fidx"] = np.repeat(np.arange(N_FRAMES), profiles.shape[1])
        file["peak_row"], file["peak_col"] = profiles["y"].ravel(), profiles["x"].ravel()
        file["npeaks"], file["deviations"] = np.ones(profiles.size, int), np.zeros(profiles.size)
    files = (tmp_path / "frames.h5", tmp_path / "peaks.h5")
    command(
        "finetune",
        "--out",
        tmp_path / "a.safetensors",
        "--hdf5",
        *files,
        "--counts-per-photon",
        2,
        "--from",
        good,
        *QUICK,
    )
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["labels"]["source"] == f"{files[0]}, {files[1]}"
    assert card["labels"]["frames"] == N_FRAMES
    assert card["configuration"]["simulation"] == PatchSimulation().model_dump(mode="json")


def test_options_that_say_nothing_together_are_refused(tmp_path: Path, run: Path, good: Path) -> None:
    out = ("--out", tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"finetune: give either a run folder or --hdf5 FRAMES PEAKS"):
        command("finetune", *out, "--from", good)
    with pytest.raises(InputError, match=r"finetune: give either a run folder or --hdf5 FRAMES PEAKS"):
        command("finetune", run, *out, "--hdf5", "f.h5", "p.h5")
    with pytest.raises(InputError, match=r"--counts-per-photon 2\.0: is for --hdf5, which is not given"):
        command("finetune", run, *out, "--counts-per-photon", 2)
    with pytest.raises(InputError, match=r"--out .*good\.safetensors: exists"):
        command("train", "--out", good)
    with pytest.raises(InputError, match=r"--network braggnn: --from .*good\.safetensors holds a compact network"):
        command("finetune", run, *out, "--from", good, "--network", "braggnn")
    with pytest.raises(InputError, match=r"good\.safetensors is for patches of size 11, patches\.size is 9"):
        command("finetune", run, *out, "--from", good, "--size", 9)


# The verdict, of networks whose errors are known.


def made(n: int, *, blocks: int = 20, **changed: Any) -> Labels:
    """Labels of sampled peaks, with a label of 0 and no error."""
    given = {
        "photons": np.zeros((n, 11, 11), np.float32),
        "state": np.zeros((n, 11, 11), np.uint8),
        "offset": np.zeros((n, 2)),
        "std": np.zeros((n, 2)),
        "fwhm": np.full((n, 2), 1.2 * FWHM_PER_SIGMA),
        "snr": np.full(n, 100.0),
        "overlap": np.zeros(n, bool),
        "frame": np.arange(n) * blocks // n,
        "block": np.arange(n) * blocks // n,
    }
    return Labels(**{**given, **changed})


def judge(monkeypatch: pytest.MonkeyPatch, labels: Labels, old: NDArray[Any], new: NDArray[Any]) -> dict[str, Any]:
    """The verdict on networks whose answers are off by `old` and `new` (n, 2)."""
    off = {"old": old, "new": new}

    def locate(localiser: Localiser, *_: object) -> Located:
        nothing = np.empty(0, np.float32)
        return Located(Method.compact, labels.offset + 5 + off[localiser.file], nothing, nothing)

    monkeypatch.setattr(finetune_module, "locate_patches", locate)
    networks = (Localiser("compact", 11, name, "", "cpu", Compact()) for name in off)
    return verdict(labels, *networks)


def test_figures_are_those_of_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(0, 0.1, (4000, 2)), rng.normal(0, 0.09, (4000, 2))
    found = judge(monkeypatch, made(4000), old, new)
    figures = found["classes"]["all"]
    assert figures["old"] == pytest.approx(np.sqrt((old**2).sum(axis=1).mean()))
    assert figures["new"] == pytest.approx(np.sqrt((new**2).sum(axis=1).mean()))
    assert figures["difference"] == figures["new"] - figures["old"]
    # The standard error of the RMS r of n distances is r / (2 √n), where the errors along the two axes are normal.
    half = 1.96 * np.sqrt(0.1**2 * 2 + 0.09**2 * 2) / np.sqrt(4000) / 2
    assert figures["high"] - figures["low"] == pytest.approx(2 * half, rel=0.4)
    assert figures["low"] < figures["difference"] < figures["high"] < 0
    assert found["better"]
    assert found == judge(monkeypatch, made(4000), old, new)


def test_errors_within_the_labels_own_do_not_count_and_large_ones_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = made(100, std=np.full((100, 2), 0.3))
    old, new = np.full((100, 2), 0.25), np.full((100, 2), 0.05)
    figures = judge(monkeypatch, labels, old, new)
    assert (figures["classes"]["all"]["old"], figures["classes"]["all"]["new"], figures["better"]) == (0, 0, False)
    figures = judge(monkeypatch, labels, np.full((100, 2), 50.0), np.full((100, 2), 0.5))["classes"]["all"]
    assert figures["old"] == pytest.approx(np.sqrt(2**2 - 2 * 0.3**2))
    assert figures["new"] == pytest.approx(np.sqrt(2 * 0.5**2 - 2 * 0.3**2))


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_is_as_good_is_not_better(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    old, new = np.random.default_rng(seed).normal(0, 0.1, (2, 1000, 2))
    found = judge(monkeypatch, made(1000), old, new)
    assert not found["better"]
    assert not judge(monkeypatch, made(1000), old, old)["better"]


def test_a_network_that_is_better_at_most_but_worse_at_a_class_is_not_better(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    faint = np.arange(2000) % 10 == 0
    old = rng.normal(0, 0.1, (2000, 2))
    new = old * np.where(faint, 2, 0.5)[:, None]
    found = judge(monkeypatch, made(2000, snr=np.where(faint, 8.0, 100.0)), old, new)
    assert found["classes"]["all"]["high"] < 0
    judged = {name: values["judged"] for name, values in found["classes"].items()}
    assert judged == {"all": "better", "sampled": "better", "faint": "worse"}
    assert not found["better"]


def test_a_change_that_nobody_would_notice_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    old = np.random.default_rng(4).normal(0, 0.1, (2000, 2))
    for factor, judged in ((0.995, "same"), (0.98, "better"), (1.005, "same"), (1.02, "worse")):
        found = judge(monkeypatch, made(2000), old, factor * old)
        assert found["classes"]["all"]["judged"] == judged
        assert found["better"] == (judged == "better")


def test_frames_of_a_block_are_no_independent_witnesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """All peaks of a block err alike: the interval is that of so many blocks."""
    rng = np.random.default_rng(3)
    blocks = np.arange(2000) * 20 // 2000
    old, new = rng.normal(0, 0.1, (2, 20, 2))[:, blocks]
    together = judge(monkeypatch, made(2000), old, new)["classes"]["all"]
    apart = judge(monkeypatch, made(2000, blocks=3), old, new)["classes"]["all"]  # too few blocks: by peaks
    assert together["high"] - together["low"] > 4 * (apart["high"] - apart["low"])


def test_classes_are_by_the_fitted_shape_and_small_ones_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    sigma = np.repeat([[0.8, 0.8], [0.8, 1.6], [0.9, 0.9], [1.79, 2.0], [1.8, 2.0], [1.5, 2.7]], 20, axis=0)
    labels = made(120, fwhm=sigma * FWHM_PER_SIGMA, snr=np.repeat([20, 19.9], 60), overlap=np.arange(120) < 40)
    counts = {name: int(where.sum()) for name, where in classes(labels).items()}
    assert counts == {"all": 120, "sharp": 20, "sampled": 40, "broad": 20, "elongated": 40, "faint": 60, "overlap": 40}
    off = np.full((120, 2), 0.1)
    judged = judge(monkeypatch, labels, off, off)["classes"]
    assert set(judged) == {"all", "sampled", "elongated", "faint", "overlap"}
    assert judged["faint"]["peaks"] == 60
