"""A run's own answer to how good it was: honest, repeatable, and in nobody's way."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.config import CheckConfig
from braggflow.results import RunFolder, read_run_info
from braggflow.selfcheck import ADDED_DTYPE, Place, check_run, check_table, figures_of
from braggflow.selfcheck.figures import share_of, summary
from braggflow.selfcheck.verdict import verdict
from braggflow.simulate import simulate_series
from tests.stores import make_store, spots

QUICK = {"output": {"report": False}, "locate": {"network": "none"}}


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """No workers are started, however busy the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("braggflow.flow.running.MOST_SECONDS", np.inf)
        yield


ROWS = {"before": 100, "gained": 0, "lost": 0, "lost_beside": 1}
MUCH = CheckConfig(fraction=1.0, max_frames=1000)


def run_of(folder: Path, store: Path, **settings) -> RunFolder:
    (outcome,) = braggflow.run({**QUICK, **settings}, [store], out=folder / "runs")
    return RunFolder(outcome.folder)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A series of frames of 256 × 256 with peaks of many kinds, a gap, a beam stop and hot pixels."""
    store = tmp_path_factory.mktemp("series") / "scan.zarr"
    simulate_series(store, n_frames=24, shape=(256, 256), peaks=10, seed=4)
    return store


@pytest.fixture(scope="module")
def run(series, tmp_path_factory) -> RunFolder:
    return run_of(tmp_path_factory.mktemp("run"), series)


def checks_of(run: RunFolder, settings: CheckConfig, number: int = 8) -> list[dict]:
    """Checks of one run with other seeds. Each is another draw for each version of the sources as well, so that a
    bound must hold for all draws: those of a mean are four of its standard deviations away, or more."""
    return [check_run(run, settings.model_copy(update={"seed": seed})) for seed in range(number)]


def error_of_mean(figures: list[dict], std: str) -> np.ndarray:
    """The standard error of a mean of figures that each state theirs."""
    return np.linalg.norm([of[std] for of in figures], axis=0) / len(figures)


def without_time(found):
    return {key: value for key, value in found.items() if key != "seconds"}


def test_every_run_has_a_check_in_its_record(run):
    found = read_run_info(run)["check"]
    assert found["frames"] == 1
    assert found["copies"] == 4
    assert found["peaks"] % found["copies"] == 0
    # Drawn anew with each version of the sources: 48 to 64 in 350 draws, mean 54.1, standard deviation 4.5.
    assert 40 <= found["peaks"] <= 72
    assert "% found" in found["verdict"] or "too few peaks" in found["verdict"]


def test_the_same_run_gives_the_same_check(run):
    assert without_time(check_run(run)) == without_time(read_run_info(run)["check"])
    assert check_run(run, CheckConfig(seed=1))["by_snr"] != read_run_info(run)["check"]["by_snr"]


def test_on_simulated_frames_bright_peaks_are_found_faint_ones_are_not_and_sigma_is_honest(run):
    checks = checks_of(run, MUCH)
    limits = [found["limit"] for found in checks]
    assert {found["frames"] for found in checks} == {24}
    assert np.mean([limit["peaks"] for limit in limits]) > 100
    assert np.mean([limit["recall"]["share"] for limit in limits]) > 0.9
    bright = [[of["recall"]["low"] for of in found["by_snr"] if of["snr"][0] >= 20] for found in checks]
    assert np.mean(bright, axis=0) == pytest.approx([0.9, 0.9], abs=0.1)
    faint = [found["by_snr"][0] for found in checks]
    assert {tuple(of["snr"]) for of in faint} == {(0.0, 5.0)}
    assert np.mean([of["recall"]["share"] for of in faint]) < 0.6
    assert 3 < np.mean([found["half_found_snr"] for found in checks]) < 7
    assert abs(np.mean([limit["scatter"] for limit in limits]) - 1) < 0.05 + 3 * error_of_mean(limits, "scatter_std")
    bias = np.mean([limit["bias"] for limit in limits], axis=0)
    assert np.max(np.abs(bias) / error_of_mean(limits, "bias_std")) < 4
    within = [limit["within_1"] for limit in limits]
    assert abs(np.mean([of["share"] for of in within]) - 0.683) < 0.08
    # An interval is as wide as the scatter of the shares says.
    standard_error = np.mean([of["high"] - of["low"] for of in within]) / (2 * 1.96)
    assert np.std([of["share"] for of in within]) < 2.2 * standard_error
    for found in checks:
        assert {of["place"] for of in found["by_place"]} == {place.name for place in Place}
        assert found["rows"]["lost"] <= 0.02 * found["rows"]["before"]
    assert np.mean([found["rows"]["precision"]["share"] for found in checks]) > 0.95


def test_uncertainties_stated_half_as_large_are_found_out(series, tmp_path):
    run = run_of(tmp_path, series, locate={"network": "none", "scale_std": 0.5})
    checks = checks_of(run, MUCH)
    assert 1.7 < np.mean([found["limit"]["scatter"] for found in checks]) < 2.3
    assert all("too small" in found["verdict"] for found in checks)


def test_levels_that_are_too_high_are_found_out(series, tmp_path):
    run = run_of(tmp_path, series, detect={"minval": 150}, check={"fraction": 0.5})
    limit = read_run_info(run)["check"]["limit"]
    assert limit["recall"]["high"] < 0.8


@pytest.mark.parametrize(
    "settings",
    [
        {"frames": {"bin": 2}},
        {"fit": {"fraction": 0.3}},
        {"fit": {"fraction": 0.0}},
        {"detect": {"engine": "findpeaks", "false_peaks": None, "minval": 15, "minscore": 10}, "frames": {"stop": 1}},
        {"fit": {"model": "disk"}, "patches": {"size": 15}, "detect": {"minval": 30, "minscore": 15}},
        {"locate": {"network": "compact", "position": "network"}},
        {"frames": {"counts_per_photon": 3.0, "read_noise": 2.0}},
    ],
    ids=["binned", "some fitted", "none fitted", "findpeaks", "disks", "network", "gain"],
)
def test_whatever_is_set_the_check_works(settings, tmp_path):
    side = 64 if "engine" in settings.get("detect", {}) else 96
    store = make_store(tmp_path / "scan.zarr", np.stack([spots((side, side), 4, seed=k) for k in range(3)]))
    run = run_of(tmp_path, store, **settings)
    found = check_run(run, MUCH)
    assert "left_out" not in found, found
    assert found["peaks"] >= 2
    assert sum(of["found"] for of in [*found["by_snr"], *found["by_place"]]) > 0
    assert [len(row) for row in check_table(found)] == [10] * len(check_table(found))


def test_frames_without_a_peak_are_checked_with_peaks_as_simulated_ones(tmp_path):
    store = make_store(tmp_path / "scan.zarr", np.random.default_rng(0).poisson(5, (2, 128, 128)).astype(np.uint16))
    found = check_run(run_of(tmp_path, store), MUCH)
    assert found["rows"]["before"] == 0
    assert found["limit"]["recall"]["share"] > 0.9


def test_blank_frames_too(tmp_path):
    store = make_store(tmp_path / "scan.zarr", np.zeros((2, 96, 96), np.uint16))
    found = check_run(run_of(tmp_path, store), MUCH)
    assert found["peaks"] > 0
    assert found["rows"]["lost"] == 0


def test_what_keeps_a_check_from_being_made_is_one_sentence_and_the_run_is_complete(series, tmp_path):
    run = run_of(tmp_path, series, check={"fraction": 0}, frames={"stop": 1})
    info = read_run_info(run)
    assert info["status"] == "complete"
    assert info["check"] == {"left_out": "check.fraction is 0"}
    small = make_store(tmp_path / "gone.zarr", spots((64, 64), 2, seed=1)[None])
    slow = {"engine": "findpeaks", "false_peaks": None, "minval": 60, "minscore": 40}
    run = run_of(tmp_path / "slow", small, detect=slow)
    assert "findpeaks" in read_run_info(run)["check"]["left_out"]
    run = run_of(tmp_path / "gone", small)
    small.rename(tmp_path / "elsewhere.zarr")
    assert "does not exist" in check_run(run)["left_out"]


def test_an_error_of_the_check_itself_is_recorded_and_stops_nothing(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("by a test")

    monkeypatch.setattr("braggflow.selfcheck.checking.draw_peaks", broken)
    assert check_run(run) == {"left_out": "ZeroDivisionError: by a test"}


def test_the_check_is_no_part_of_the_identity_of_a_run(series, tmp_path):
    run = run_of(tmp_path, series, frames={"stop": 2})
    (again,) = braggflow.run({**QUICK, "frames": {"stop": 2}, "check": {"seed": 7}}, [series], out=tmp_path / "runs")
    assert (again.status, again.frames_processed) == ("complete", 0)
    assert read_run_info(run)["check"]["settings"]["seed"] == 0


def test_the_command_checks_more_and_the_report_shows_it(series, tmp_path):
    run = run_of(tmp_path, series, frames={"stop": 3})
    run.report.write_text("an old one")
    done = CliRunner().invoke(app, ["check", str(run.path), "--fraction", "1", "--json", str(tmp_path / "c.json")])
    assert done.exit_code == 0, done.output
    found = read_run_info(run)["check"]
    assert found["frames"] == 3
    assert json.loads((tmp_path / "c.json").read_text()) == found
    assert found["verdict"] in done.output
    page = run.report.read_text(encoding="utf-8")
    assert "How good is it on these frames?" in page
    assert "copies of 3 frames" in page
    assert all(f'<td class="number">{row[3]}</td>' in page for row in check_table(found))


def test_the_command_refuses_a_folder_without_a_run_and_says_why_there_is_no_check(tmp_path):
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert "holds no run" in str(done.exception)
    store = make_store(tmp_path / "scan.zarr", spots((64, 64), 2, seed=1)[None])
    run = run_of(tmp_path, store)
    store.rename(tmp_path / "elsewhere.zarr")
    done = CliRunner().invoke(app, ["check", str(run.path)])
    assert "does not exist" in str(done.exception)


def results(n=400, *, found=1.0, scatter=1.0, place=Place.free, seed=0):
    rng = np.random.default_rng(seed)
    added = np.zeros(n, ADDED_DTYPE)
    added["snr"], added["limit"], added["place"], added["std"] = 30, 40, place, 0.1
    added["found"] = np.arange(n) < found * n
    added["error"] = rng.normal(0, 0.1 * scatter, (n, 2))
    return added


def test_the_verdict_says_what_is_found_whether_sigma_is_honest_and_where_more_is_lost():
    good = np.concatenate([results(found=0.99), results(200, found=0.85, place=Place.gap)])
    said = verdict(summary(good, ROWS))
    assert said.startswith("peaks above 40 counts (SNR 10): 99.0 % found (97.5 to 99.6 %)")
    assert "sigma honest to" in said
    assert "near gaps 15.0 % lost" in said
    assert "edges" not in said
    bad = verdict(summary(results(scatter=1.5), ROWS | {"gained": 3, "lost": 2}))
    assert "stated sigma 3" in bad
    assert "% too small" in bad
    assert "3 false for 400 added; 2 of 100 other rows lost" in bad
    assert "too few peaks" in verdict(summary(results(10), ROWS))
    assert "no uncertainties are stated" in verdict(summary(unstated(), ROWS))


def unstated():
    added = results()
    added["std"] = np.nan
    return added


def test_intervals_hold_the_true_share_in_95_of_100_cases():
    rng = np.random.default_rng(5)
    for share, n in ((0.5, 40), (0.9, 60), (0.98, 300)):
        drawn = [share_of(int(k), n) for k in rng.binomial(n, share, 2000)]
        held = np.mean([of["low"] <= share <= of["high"] for of in drawn])
        assert 0.93 < held < 0.98
    assert share_of(0, 0) == {"share": None, "low": None, "high": None}
    assert share_of(7, 7)["high"] == 1.0


def test_figures_of_nothing_and_of_no_find_are_none():
    assert figures_of(results(0))["recall"]["share"] is None
    lost = figures_of(results(found=0.0))
    assert lost["recall"]["share"] == 0
    assert lost["bias"] is None
    assert lost["scatter"] is None
