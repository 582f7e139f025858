"""Positions of the two halves of a patch scatter by what their stated uncertainties say."""

import json

import numpy as np
import pytest

import braggflow
from braggflow import InputError, RunConfig
from braggflow.results import RunFolder, open_peaks, read_run_info
from braggflow.show import repeatability, write_report
from braggflow.show.report.halves import LEAST_PEAKS, scatter
from braggflow.simulate import CLASSES, sample_profiles
from braggflow.simulate.profiles import render
from tests.show.run_folders import write_frames, write_run


def isolated(name, *, n_frames=4, side=330, background=8, seed=0):
    """Frames of peaks of one class, 22 px apart, with Poisson noise."""
    rng = np.random.default_rng(seed)
    at = np.arange(14, side - 14, 22)
    places = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    frames = []
    for _ in range(n_frames):
        peaks = sample_profiles(len(places), rng=rng, config=CLASSES[name])
        peaks["y"], peaks["x"] = (places + rng.uniform(-1.5, 1.5, places.shape)).T
        frames.append(rng.poisson(render((side, side), peaks, background=background)))
    return np.array(frames, np.uint16)


def run_of(folder, images, **sections):
    config = RunConfig.model_validate({"detect": {"minval": 30, "minscore": 25}, **sections})
    return write_run(folder / "run", write_frames(folder / "scan.zarr", images), config, network=False)


def found(run):
    with open_peaks(run) as table:
        return repeatability(RunFolder(run), table)


@pytest.mark.parametrize("name", ["sharp", "sampled", "broad", "elongated", "pseudo_voigt", "faint"])
def test_on_simulated_peaks_of_every_class_uncertainties_are_honest(tmp_path, name):
    model = "pseudo_voigt" if name == "pseudo_voigt" else "gaussian"
    seen = found(run_of(tmp_path, isolated(name), fit={"model": model}))
    assert seen["peaks"] > 300
    assert abs(seen["ratio"] - 1) < 0.05 + 2 * seen["ratio_std"]
    assert sum(of["peaks"] for of in seen["bins"]) <= seen["peaks"]
    assert all(of["peaks"] >= LEAST_PEAKS for of in seen["bins"])


def test_noise_that_neighbours_share_shows_as_a_scatter_too_small(tmp_path):
    from scipy import ndimage

    images = isolated("broad", background=200)
    smooth = np.rint(ndimage.uniform_filter(images.astype(np.float32), (0, 2, 2))).astype(np.uint16)
    seen = found(run_of(tmp_path, smooth, detect={"minval": 250, "minscore": 25}))
    assert seen["ratio"] < 0.8


def test_binned_frames_are_judged_too(tmp_path):
    seen = found(run_of(tmp_path, isolated("broad"), frames={"bin": 2}, detect={"minval": 90, "minscore": 60}))
    assert abs(seen["ratio"] - 1) < 0.05 + 3 * seen["ratio_std"]


def test_the_report_and_run_json_say_it(tmp_path):
    run = run_of(tmp_path, isolated("sampled", n_frames=1))
    page = write_report(run).read_text(encoding="utf-8")
    seen = json.loads((run / "run.json").read_text())["repeatability"]
    assert seen["frames"] == 1
    assert f"{seen['ratio']:.2f} ± {seen['ratio_std']:.2f} times what their" in page
    assert all(f'<td class="number">{of["ratio"]:.2f} ± {of["ratio_std"]:.2f}</td>' in page for of in seen["bins"])


def test_a_report_made_again_measures_the_same(tmp_path):
    run = run_of(tmp_path, isolated("sampled", n_frames=2))
    write_report(run)
    first = read_run_info(RunFolder(run))
    write_report(run)
    assert read_run_info(RunFolder(run)) == first


def test_where_frames_are_gone_the_report_says_so_and_goes_on(tmp_path):
    run = run_of(tmp_path, isolated("sampled", n_frames=1))
    (tmp_path / "scan.zarr").rename(tmp_path / "moved.zarr")
    with pytest.raises(InputError, match="does not exist"):
        found(run)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Not known: " in page
    assert "does not exist" in read_run_info(RunFolder(run))["repeatability"]["reason"]


def test_too_few_peaks_say_nothing(tmp_path):
    seen = found(run_of(tmp_path, isolated("sampled", n_frames=1, side=64)))
    assert seen["ratio"] is None
    assert seen["bins"] == []
    assert "Not known: only" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_scatter_is_the_standard_deviation_of_normal_deviates_whatever_a_few_do():
    deviations = 1.7 * np.random.default_rng(0).standard_normal((5000, 2))
    deviations[:100] = 1e3
    ratio, std = scatter(deviations)
    assert abs(ratio - 1.7) < 0.05 + 3 * std
    assert scatter(deviations[: LEAST_PEAKS - 1]) is None


def test_scale_std_multiplies_the_uncertainty_of_the_position_to_use_alone():
    frame = isolated("sampled", n_frames=1, side=100)
    kept = {"network": "none", "minval": 30, "minscore": 25}
    plain = braggflow.find_peaks(frame, **kept)
    scaled = braggflow.find_peaks(frame, **kept, config={"locate": {"scale_std": 1.5}})
    for axis in "yx":
        np.testing.assert_allclose(scaled[f"{axis}_std"], 1.5 * plain[f"{axis}_std"], rtol=1e-6)
        np.testing.assert_array_equal(scaled[f"{axis}_fit_std"], plain[f"{axis}_fit_std"])
        np.testing.assert_array_equal(scaled[axis], plain[axis])
    assert scaled.attrs["scale_std"] == 1.5
    with pytest.raises(InputError, match=r"locate\.scale_std: 0 is not accepted"):
        braggflow.find_peaks(frame, config={"locate": {"scale_std": 0}})
