import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from braggflow.cli import main
from braggflow.cli.terminal import show_evaluation
from braggflow.config import LocateConfig
from braggflow.errors import InputError
from braggflow.evaluate import accuracy_table, card_figures, evaluate, plot_accuracy, select_estimators
from braggflow.evaluate.estimators import Estimate, network_estimator
from braggflow.evaluate.evaluation import (
    CLIP,
    PHASES,
    STUDY,
    ClassFigures,
    Evaluation,
    measure_positions,
    on_class,
    on_frames,
    on_outliers,
    study,
)
from braggflow.locate import BraggNN, Compact, Localiser
from braggflow.simulate import CLASSES, OUTLIERS

SETTINGS = LocateConfig(device="cpu")
STD = 0.1


def drawn(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """True centres, errors of standard deviation `STD` along each axis, and the limits that these are at."""
    rng = np.random.default_rng(seed)
    return rng.uniform(4.3, 5.7, (n, 2)), STD * rng.standard_normal((n, 2)), np.full(n, STD * np.sqrt(2))


def estimate(positions: NDArray[np.float64], std: float = STD) -> Estimate:
    return Estimate(positions, np.full(positions.shape, std), np.zeros(len(positions), bool))


def compact(seed: int = 0) -> Localiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Localiser("compact", 11, "", "", "cpu", Compact(11).eval())


@pytest.fixture(scope="module")
def small() -> Evaluation:
    """All kinds of method on few peaks; the network has never learned anything."""
    chosen = [network_estimator("fresh", compact()), *select_estimators(("fit", "centroid"), (), SETTINGS, size=11)]
    return evaluate(chosen, n=300)


# Figures.


def test_unbiased_errors_at_the_limit_give_the_figures_that_theory_gives() -> None:
    truth, error, bound = drawn(40_000)
    figures = measure_positions(estimate(truth + error), truth, bound)
    assert figures.low < 1 < figures.high
    assert figures.high - figures.low < 0.03
    assert figures.rms_over_limit == pytest.approx(1, abs=0.01)
    assert figures.mean == pytest.approx(STD * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh's distribution
    assert figures.median == pytest.approx(STD * np.sqrt(2 * np.log(2)), rel=0.02)
    assert figures.p95 == pytest.approx(STD * np.sqrt(2 * np.log(20)), rel=0.02)
    assert figures.within_1_std == pytest.approx(0.6827, abs=0.006)
    assert figures.within_2_std == pytest.approx(0.9545, abs=0.003)
    assert figures.bias_std == pytest.approx(STD / np.sqrt(40_000), rel=0.05)
    assert max(abs(figures.bias_y), abs(figures.bias_x)) < 4 * figures.bias_std
    assert 0.4 < figures.phase_bias / figures.phase_noise < 2.5


def test_stated_errors_twice_too_small_show_in_the_calibration() -> None:
    truth, error, bound = drawn(20_000)
    figures = measure_positions(estimate(truth + error, STD / 2), truth, bound)
    assert figures.within_2_std == pytest.approx(0.6827, abs=0.01)


def test_a_bias_that_depends_on_the_phase_is_found_though_it_averages_out() -> None:
    truth, error, bound = drawn(40_000)
    error[:, 1] += 0.03 * np.sin(2 * np.pi * truth[:, 1])
    figures = measure_positions(estimate(truth + error), truth, bound)
    assert abs(figures.bias_x) < 0.005
    assert figures.phase_bias == pytest.approx(0.03, abs=0.006)
    assert figures.phase_bias > 3 * figures.phase_noise
    centres = (np.arange(PHASES) + 0.5) / PHASES - 0.5
    np.testing.assert_allclose(figures.bias_by_phase[0], 0, atol=0.008)
    np.testing.assert_allclose(figures.bias_by_phase[1], 0.03 * np.sin(2 * np.pi * centres), atol=0.01)


def test_a_missing_position_and_one_far_out_count_as_the_clip() -> None:
    truth, _, bound = drawn(1000)
    positions = truth.copy()
    positions[:100] = np.nan
    positions[100:200, 0] += 50
    figures = measure_positions(estimate(positions), truth, bound)
    assert figures.failed == pytest.approx(0.1)
    assert figures.rms == pytest.approx(np.sqrt(0.2 * CLIP**2))
    assert figures.mean == pytest.approx(0.2 * CLIP)
    assert figures.p95 == CLIP
    assert figures.bias_y == pytest.approx(CLIP / 9)  # of those that have a position


def test_a_method_that_finds_nothing_is_measured_all_the_same() -> None:
    truth, _, bound = drawn(50)
    figures = measure_positions(estimate(np.full((50, 2), np.nan)), truth, bound)
    assert (figures.rms, figures.failed) == (CLIP, 1)
    assert np.isnan([figures.bias_y, figures.phase_bias, figures.within_1_std]).all()


def test_the_interval_holds_the_true_ratio_in_about_95_of_100_samples() -> None:
    held = 0
    for seed in range(300):
        truth, error, bound = drawn(800, seed)
        figures = measure_positions(estimate(truth + error), truth, bound)
        held += figures.low <= 1 <= figures.high
    assert 0.91 <= held / 300 <= 0.985


# Methods.


def test_a_class_has_the_same_peaks_whatever_else_is_measured(small: Evaluation) -> None:
    chosen = select_estimators(("fit",), (), SETTINGS, size=11)
    bound, figures = on_class("faint", chosen, n=300)
    assert figures["fit"] == small.figures["faint"]["fit"]
    assert bound == small.limits["faint"]
    assert on_class("faint", chosen, n=300, seed=2)[1] != figures


def test_the_fit_is_at_the_limit_where_its_model_is_right_and_says_how_sure_it_is(small: Evaluation) -> None:
    for kind in ("sampled", "pseudo_voigt"):
        figures = small.figures[kind]["fit"]
        assert 0.88 < figures.rms_over_limit < 1.15
        assert 0.6 < figures.within_1_std < 0.76


def test_the_joint_fit_is_better_beside_a_neighbour_than_leaving_its_pixels_out() -> None:
    chosen = select_estimators(("fit", "fit_excluding"), (), SETTINGS, size=11)
    _, figures = on_class("neighbour", chosen, n=500)
    assert figures["fit"].high < figures["fit_excluding"].low
    _, figures = on_class("sampled", chosen, n=100)
    assert figures["fit"] == figures["fit_excluding"]


def test_the_centroid_of_a_sharp_peak_depends_on_its_phase() -> None:
    _, figures = on_class("sharp", select_estimators(("fit", "centroid"), (), SETTINGS, size=11), n=8000)
    assert figures["centroid"].phase_bias > 2.5 * figures["centroid"].phase_noise
    assert figures["fit"].phase_bias < 2 * figures["fit"].phase_noise


def always(offset: float, domain: float) -> Localiser:
    """A network with one answer for every patch; BraggNN, which states no domain, where that is NaN."""
    name, model = ("braggnn", BraggNN()) if np.isnan(domain) else ("compact", Compact())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        if isinstance(model, Compact):
            model.output.bias.fill_(offset)
            model.judge[2].bias[2] = domain
        else:
            model.dense_layers[-1].bias.fill_((offset + 5) / 11)
    return Localiser(name, 11, "", "", "cpu", model)


@pytest.mark.parametrize(
    ("offset", "domain", "share"),
    [(1.0, 3.0, 0), (1.0, -3.0, 1), (1.0, np.nan, 0), (4.0, 3.0, 1)],
    ids=["in the domain", "out of it", "says nothing", "too far from the maximum"],
)
def test_a_network_flags_what_is_out_of_its_domain_or_too_far_away(offset: float, domain: float, share: float) -> None:
    one = network_estimator("always", always(offset, domain))
    assert on_outliers("empty", [one], n=100) == {"always": share}


def test_the_studys_peaks_have_a_signal_to_noise_of_100() -> None:
    peaks = study(500, rng=np.random.default_rng(3))
    signal = (peaks.counts - 1).sum(axis=(1, 2))
    assert signal.mean() == pytest.approx(1e4, rel=0.01)
    assert signal.mean() / signal.std() == pytest.approx(100, rel=0.1)


def test_the_fit_beats_the_error_that_the_study_gives(small: Evaluation) -> None:
    figures = small.figures[STUDY]["fit"]
    assert figures.mean < figures.rms < 0.062
    assert figures.p75 < 0.29


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (("resnet",), (), r"--method resnet: must be braggnn, compact, fit, fit_excluding, centroid"),
        (("fit", "fit"), (), r"fit is given twice"),
        (("fit",), ("nowhere/w.safetensors",), r"nowhere/w\.safetensors cannot be read"),
    ],
)
def test_methods_that_are_not_there_are_refused(names: tuple[str, ...], weights: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_estimators(names, weights, SETTINGS, size=11)


def test_a_network_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"--size 9: fresh is for patches of size 11"):
        evaluate([network_estimator("fresh", compact())], n=100, size=9)


def test_upstreams_checkpoint_is_measured_beside_the_fit(real_data: Path) -> None:
    checkpoint = real_data / "braggnn_upstream" / "fc16_8_4_2-sz11.pth"
    chosen = select_estimators(("fit",), (str(checkpoint),), SETTINGS, size=11)
    _, figures = on_class("sharp", chosen, n=500)
    # Its median error is known: 0.18 px on its own simulated peaks, well above the limit of 0.03.
    assert 0.04 < figures["fc16_8_4_2-sz11"].median < 0.3
    assert figures["fc16_8_4_2-sz11"].low > figures["fit"].high


# What is shown.


def test_every_class_kind_and_method_is_in_the_text_and_in_the_json(small: Evaluation) -> None:
    text, plain = accuracy_table(small), json.loads(json.dumps(small.as_dict(), allow_nan=False))
    names = list(small.patches_per_second)
    assert names == ["fresh", "fit", "centroid"]
    assert list(plain["figures"]) == [*CLASSES, STUDY]
    assert list(plain["outliers"]) == list(OUTLIERS)
    for kind, by_method in plain["figures"].items():
        assert list(by_method) == names
        cells = rf"{kind} +{small.limits[kind]:.4f}"
        for one in by_method.values():
            cells += rf" +{one['rms_over_limit']:.3f} \[{one['low']:.3f}, {one['high']:.3f}\]"
        assert re.search(f"^{cells}$", text, re.MULTILINE), kind
        assert by_method["centroid"]["within_1_std"] is None
    assert min(rate for rates in small.patches_per_second.values() for rate in rates.values()) > 100
    assert len({len(line) for line in text.split("\n\n")[2].splitlines()[1:]}) == 1  # columns stand in line


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn_without_the_networks_too(small: Evaluation, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"accuracy.{suffix}"
    alone = {kind: {"centroid": by_method["centroid"]} for kind, by_method in small.figures.items()}
    for shown in (small, replace(small, figures=alone, patches_per_second={"centroid": {"cpu": 1e5, "cuda": 1e6}})):
        plot_accuracy(shown, path)
        assert path.stat().st_size > 20_000


def test_a_picture_of_another_kind_is_refused(small: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accuracy\.doc: must end in \.png, \.pdf or \.svg"):
        plot_accuracy(small, tmp_path / "accuracy.doc")


def test_a_card_has_the_figures_of_every_class_and_kind_of_outlier(small: Evaluation) -> None:
    card = card_figures(compact(), n=300)
    assert list(card["classes"]) == list(CLASSES)
    assert list(card["outliers"]) == list(OUTLIERS)
    for kind, values in card["classes"].items():
        figures = small.figures[kind]["fresh"]
        assert values == {"limit": small.limits[kind], **{k: getattr(figures, k) for k in values if k != "limit"}}
        assert set(values) - {"limit"} < set(ClassFigures._fields)
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_frames_are_searched_and_scored_for_every_network() -> None:
    scores = on_frames({"one": compact(1), "two": compact(2)}, n_frames=4)
    assert list(scores) == ["one", "two"]
    for score in scores.values():
        assert score.frames == 4
        assert score.recall["all"].share > 0.9
        assert score.errors["fit"]["sampled"].median < 0.1
    assert scores["one"].errors["network"] != scores["two"].errors["network"]
    assert scores["one"].errors["fit"] == scores["two"].errors["fit"]
    (alone,) = on_frames({}, n_frames=4).values()
    assert alone.errors["used"]["sampled"].median == scores["one"].errors["fit"]["sampled"].median


def test_frames_are_in_the_text_and_in_the_json(small: Evaluation) -> None:
    scored = replace(small, frames=on_frames({}, n_frames=4))
    recall = scored.frames["none"].recall["all"]
    text = accuracy_table(scored)
    assert "4 simulated frames" in text
    assert re.search(rf"^all +{recall.true} +{recall.share:.3f} ", text, re.MULTILINE)
    assert scored.as_dict()["frames"]["none"]["recall"]["all"]["true"] == recall.true


# The command.


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: object) -> object:
    """The exit status of `braggflow evaluate` in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["braggflow", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_the_command_prints_the_table_and_writes_json_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "fit", "--method", "centroid", "--peaks", 100, "--size", 9]
    assert command(monkeypatch, tmp_path, *words, "--json", "a.json", "--plot", "a.png") == 0
    plain = json.loads((tmp_path / "a.json").read_text())
    assert (plain["size"], plain["peaks"], plain["frames"]) == (9, 100, {})
    assert f"{plain['figures']['sharp']['fit']['rms_over_limit']:.3f} [" in capsys.readouterr().out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "resnet"], r"--method resnet: must be braggnn, compact"),
        (["--plot", "a.doc"], r"--plot a\.doc: must end in \.png"),
        (["--json", "no/a.json"], r"--json no/a\.json: folder no does not exist"),
        (["--method", "fit", "--size", "10"], r"--size 10: .*9, 11, 13 or 15"),
        (["--method", "fit", "--device", "gpu"], r"--device gpu: "),
        (["--weights", "w.bin", "--method", "fit"], r"w\.bin is of no known kind"),
    ],
)
def test_the_command_refuses_bad_input_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert command(monkeypatch, tmp_path, *words) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_card_is_shown_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"limit": 0.04, "rms_over_limit": 1.06, "within_1_std": None}
    show_evaluation({"peaks": 10, "seed": 1, "classes": {"sharp": values}, "outliers": {"arc": 0.987}})
    shown = capsys.readouterr().out
    assert re.search(r"sharp\W+0\.0400\W+1\.0600\W+–", shown)
    assert "arc 0.987" in shown
