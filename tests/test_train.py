import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import localise, patches, peaks, synthetic, train
from braggflow.config import InputError, LocaliseConfig, PatchesConfig
from braggflow.frames import CorrectedFrame
from braggflow.train import TrainConfig

TINY = TrainConfig(steps=200, batch=32, warm_up=20, evaluation=200, device="cpu")


class StoppedError(Exception):
    pass


def test_training_brings_the_error_down_and_says_what_it_did(tmp_path: Path) -> None:
    seen = []
    card = train.train(TINY, tmp_path / "a.safetensors", progress=seen.append)
    assert [report.step for report in seen] == [100, 200]
    assert seen[-1].loss < seen[0].loss
    assert card["evaluation"]["sampled"]["median"] < 0.25  # guessing the centre of the patch: 0.54
    assert json.loads((tmp_path / "a.json").read_text()) == card
    assert (card["steps"], card["patches_seen"]) == (200, 6400)
    assert card["configuration"] == TINY.model_dump(mode="json")
    localiser = localise.load(LocaliseConfig(checkpoint=str(tmp_path / "a.safetensors"), device="cpu"), 11)
    assert localiser.sha256 == card["sha256"]
    assert train.evaluate(localiser, n=200) == card["evaluation"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


@pytest.mark.parametrize("network", ["braggnn", "compact"])
def test_the_same_seed_gives_the_same_file_and_a_resumed_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    config = TINY.model_copy(update={"network": network, "steps": 120, "batch": 8, "evaluation": 100})
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "again", "resumed", "other")]
    train.train(config, files[0])
    train.train(config, files[1])

    def stop(_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(train, "_STATE_SECONDS", 0.0)
    reports: list[train.Progress] = []
    monkeypatch.setattr(train, "_REPORT_STEPS", 40)
    with pytest.raises(StoppedError):
        train.train(config, files[2], progress=lambda report: reports.append(report) if report.step < 80 else stop(0))
    assert not files[2].exists()
    train.train(config, files[2], resume=True, progress=reports.append)
    assert [report.step for report in reports] == [40, 80, 120]  # the state was that of step 40
    monkeypatch.setattr(train, "_REPORT_STEPS", 100)
    train.train(config.model_copy(update={"seed": 1}), files[3])
    weights = [localise.load(LocaliseConfig(checkpoint=str(file)), 11).model.state_dict() for file in files]
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[2][key])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[3].read_bytes()


def test_a_training_of_other_settings_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_STATE_SECONDS", 0.0)

    def stop(report: train.Progress) -> None:
        if report.step == 200:
            raise StoppedError

    with pytest.raises(StoppedError):
        train.train(TINY, tmp_path / "a.safetensors", progress=stop)
    with pytest.raises(InputError, match=r"resume: .*a\.state is of a training with other settings"):
        train.train(TINY.model_copy(update={"seed": 5}), tmp_path / "a.safetensors", resume=True)


def test_a_training_can_be_given_a_time_instead_of_steps(tmp_path: Path) -> None:
    card = train.train(TINY.model_copy(update={"seconds": 0.3, "evaluation": 100}), tmp_path / "a.safetensors")
    assert card["seconds"] < 10
    assert card["steps"] >= 1


def test_a_training_that_could_not_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out: .*a\.pth must end in \.safetensors"):
        train.train(TINY, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"out: folder .*nowhere does not exist"):
        train.train(TINY, tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(InputError, match=r"device: cuda:99 is not there"):
        train.train(TINY.model_copy(update={"device": "cuda:99"}), tmp_path / "a.safetensors")


def test_the_threads_of_the_caller_are_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train.train(TINY.model_copy(update={"steps": 1, "threads": 2, "evaluation": 100}), tmp_path / "a.safetensors")
    assert torch.get_num_threads() == before


def test_a_step_decides_its_patches() -> None:
    counts, profiles = train.batch(TINY, 3)
    again, same = train.batch(TINY, 3)
    assert counts.tobytes() == again.tobytes()
    assert profiles.tobytes() == same.tobytes()
    assert counts.dtype == np.float32
    assert counts.tobytes() != train.batch(TINY, 4)[0].tobytes()


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_missing_pixels_are_filled_as_patches_are_cut(top: int, left: int, seed: int) -> None:
    frame = np.random.default_rng(seed).poisson(20, (30, 30)).astype(np.float32)
    frame[top, left] = 500
    table = peaks.empty(1)
    table["y_pixel"], table["x_pixel"] = top, left
    corrected = CorrectedFrame(frame, np.zeros(frame.shape, bool), None)
    cut, _ = patches.cut(corrected, table, PatchesConfig())
    missing = ~cut.usable
    counts = np.where(missing, -1, cut.counts).astype(np.float32)
    np.testing.assert_array_equal(train.fill(counts, missing), cut.counts)


@given(st.sampled_from((9, 11, 13, 15)), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_peaks_own_pixels_are_never_missing(size: int, seed: int) -> None:
    missing = train.missing_pixels(50, size, np.random.default_rng(seed))
    assert missing.shape == (50, size, size)
    assert not missing[:, size // 2, size // 2].any()


def test_a_cut_off_takes_low_pixels_only() -> None:
    rng = np.random.default_rng(0)
    counts, _ = synthetic.simulate_patches(300, rng=rng, kind="sampled")
    cut = train.cut_off(counts, rng)
    taken = cut != counts
    assert 0.1 < taken.mean() < 0.9
    assert (cut[taken] == 0).all()
    high, low = counts.max((1, 2), keepdims=True), counts.min((1, 2), keepdims=True)
    assert (counts < low + 0.3 * (high - low))[taken].all()


def test_a_localiser_at_the_limit_is_found_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated: a make-believe localiser that adds normal errors of the limit's size to the truth, and 0.02 to x."""
    truths = {}
    simulate = synthetic.simulate_patches

    def remember(n: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
        counts, profiles = simulate(n, **options)
        truths[counts.tobytes()] = profiles
        return counts, profiles

    def at_the_limit(_: object, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        profiles = truths[counts.tobytes()]
        limit = synthetic.cramer_rao(profiles)
        error = limit * np.random.default_rng(0).standard_normal(limit.shape) + [0, 0.02]
        return np.stack([profiles["y"], profiles["x"]], 1) + error, limit.astype(np.float32)

    monkeypatch.setattr(synthetic, "simulate_patches", remember)
    monkeypatch.setattr(localise, "locate", at_the_limit)
    model = train.Compact(11)
    figures = train.evaluate(localise.Localiser("compact", 11, "", "", "cpu", model), n=4000)
    assert set(figures) == set(synthetic.CLASSES)
    faint = figures["faint"]
    assert faint["rms_over_limit"] == pytest.approx(1, abs=0.05)
    assert faint["bias_y"] == pytest.approx(0, abs=0.006)
    assert faint["bias_x"] == pytest.approx(0.02, abs=0.006)
    assert 0.02 < faint["phase_bias"] < 0.06
    assert faint["within_1_std"] == pytest.approx(0.683, abs=0.03)
    assert faint["within_2_std"] == pytest.approx(0.954, abs=0.02)
