"""The map of a sweep says what searches with its settings find; sampling, persistence, refusals, files."""

import csv
import json
import re

import numpy as np
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.config import RunConfig, resolve_config
from braggflow.errors import InputError
from braggflow.sweeps.measuring import Distributions, persisting
from braggflow.sweeps.sweeping import in_pairs
from tests.stores import make_store, spots

MINVAL, MINSCORE, FALSE_PEAKS = [None, 30, 120], [None, 50], [0.001, 0.1, 10]


def images(n=6, shape=(80, 96)):
    """Frames (frame, y, x) of the same spots with other photons, and some that come and go."""
    rng = np.random.default_rng(4)
    still = spots(shape, 8, seed=1).astype(float)
    return np.stack([rng.poisson(still) + spots(shape, 3, seed=10 + i, background=1) for i in range(n)]).astype(
        np.uint16
    )


@pytest.fixture(scope="module")
def swept():
    return braggflow.sweep(images(), minval=MINVAL, minscore=MINSCORE, false_peaks=FALSE_PEAKS, frames="all")


@pytest.mark.parametrize(
    "config",
    [{}, {"frames": {"bin": 2}}, {"detect": {"min_snr": 8, "min_edge_distance": 4, "background": "none"}}],
    ids=str,
)
def test_each_number_is_that_of_find_peaks(config):
    found = braggflow.sweep(images(3), config, minval=MINVAL, false_peaks=[*FALSE_PEAKS, None], frames="all")
    for minval in MINVAL:
        for false_peaks in (*FALSE_PEAKS, None):
            detect = {**config.get("detect", {}), "minval": minval, "false_peaks": false_peaks}
            peaks = braggflow.find_peaks(images(3), config={**config, "detect": detect})
            place = found.place_of(minval=minval, false_peaks=false_peaks)
            np.testing.assert_array_equal(found.map["peak_count"].values[place], peaks["peak_count"].values)
            assert found.map["peaks_mean"].values[place] == peaks["peak_count"].values.mean()
            medians = [np.nanmedian(peaks["disagreement"].values[peaks["peak_frame"].values == k]) for k in range(3)]
            np.testing.assert_array_equal(found.map["distance_of_frame"].values[place], np.float32(medians))
            assert found.map["distance_median"].values[place] == pytest.approx(
                np.nanquantile(peaks["disagreement"].values, 0.5, method="inverted_cdf"), rel=0.01
            )


def test_of_a_run_the_configuration_and_the_frames_are_its_own(tmp_path, monkeypatch):
    store = make_store(tmp_path / "scan.zarr", images(), chunk=2)
    config = {"detect": {"false_peaks": 1}, "frames": {"start": 1}, "output": {"report": False}}
    braggflow.run(config, [store], out=tmp_path / "runs")
    found = braggflow.sweep(tmp_path / "runs" / "scan", frames="all")
    peaks = braggflow.open_peaks(tmp_path / "runs" / "scan")
    assert found.config.detect.false_peaks == 1
    np.testing.assert_array_equal(found.map["frame"], peaks["frame"])
    np.testing.assert_array_equal(found.map["peak_count"].values[found.place_of()], peaks["peak_count"])
    other = braggflow.sweep(tmp_path / "runs" / "scan", {}, false_peaks=[0.1], frames=2)
    assert other.config == RunConfig()
    assert other.map.sizes["frame"] == 2


def test_peaks_persist_where_the_next_frame_has_them_nearest_of_all():
    before = np.array([[10.0, 10.0], [20.0, 20.0], [40.0, 40.0], [41.0, 40.0]])
    after = np.array([[11.0, 10.0], [25.0, 20.0], [40.2, 40.0]])
    assert persisting(before, after, 3.0) == 2  # of two near one only the nearer, and none 5 pixels away
    assert persisting(before, after, 5.0) == 3
    assert persisting(before[:0], after, 3.0) == persisting(before, after[:0], 3.0) == 0


def test_spots_that_stay_persist_and_noise_does_so_by_chance_only(swept):
    strict, loose = (swept.map["persistence"].values[swept.place_of(false_peaks=f)] for f in (0.001, 10))
    assert 0.6 < loose <= strict < 1
    noise = np.random.default_rng(0).poisson(20, (6, 200, 200)).astype(np.uint16)
    found = braggflow.sweep(noise, {"detect": {"minscore": 3}}, minval=[14], false_peaks=[None], frames="all")
    place = (0, 0, 0)
    assert found.map["peaks_median"].values[place] > 30
    assert found.map["persistence"].values[place] < 0.05 < np.nanmean(found.map["persistence_of_frame"].values[place])


def test_expected_false_peaks_are_those_of_the_pixels_that_are_searched(swept):
    of_map = swept.map["expected_false_peaks"].values[0, 0]
    np.testing.assert_allclose(of_map, np.array(FALSE_PEAKS) * 80 * 96 / 1e6)


@pytest.mark.parametrize(
    ("n", "frames", "expected"),
    [
        (10, "all", list(range(10))),
        (10, 4, [0, 1, 8, 9]),
        (10, 6, [0, 1, 4, 5, 8, 9]),
        (10, 1, [5]),
        (3, 20, [0, 1, 2]),
        (1, 20, [0]),
        (0, 20, []),
    ],
)
def test_frames_are_looked_at_in_pairs_spread_over_the_series(n, frames, expected):
    assert in_pairs(range(n), frames) == expected


def test_pairs_leave_out_frames_that_were_never_written():
    assert in_pairs([0, 2, 3, 6, 8, 9], 4) == [2, 3, 8, 9]
    assert in_pairs([0, 2, 4, 6, 8], 2) == [0, 8]  # no frame has a next one


def test_quantiles_of_many_values_are_known_to_one_per_cent():
    rng = np.random.default_rng(0)
    found, values = Distributions(3), rng.lognormal(-2, 1, 50_000).astype(np.float32)
    for part in np.array_split(values, 7):
        found.add(1, part)
    found.add(1, np.full(5, np.nan, np.float32))
    for share in (0.05, 0.5, 0.95):
        nothing, quantile, none = found.quantile(share)
        assert np.isnan([nothing, none]).all()
        assert quantile == pytest.approx(np.quantile(values, share), rel=0.01)


def test_where_no_level_is_given_those_around_the_configuration_are_chosen():
    found = braggflow.sweep(images(), {"detect": {"minscore": "5 sigma"}}, frames=2)
    assert found.levels.false_peaks == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert found.levels.minval[0] is None
    assert len(found.levels.minval) == 5
    assert [level.sigma for level in found.levels.minscore if level is not None and level.sigma == 5] == [5.0]
    assert found.place_of() is not None
    by_levels = braggflow.sweep(images(), {"detect": {"false_peaks": None}}, frames=2)
    assert by_levels.levels.false_peaks == (None,)
    assert [level.sigma for level in by_levels.levels.minval] == [4, 5, 6, 8, 11, 16]
    assert by_levels.levels.place_of(by_levels.config.detect) is not None


def test_a_series_of_one_frame_has_no_persistence():
    found = braggflow.sweep(images(1), false_peaks=[0.01, 0.1, 1])
    assert np.isnan(found.map["persistence"]).all()
    assert "persistence is not known" in found.reason
    assert found.figure is not None
    assert found.plot_settings() is not None


def test_frames_that_fail_are_counted_and_left_out():
    data = images(4)
    found = braggflow.sweep(data, {"detect": {"max_peaks_per_frame": 10}}, minval=[None, 500], frames="all")
    failed = found.map["frame_failed"].values[:, 0, 0]
    np.testing.assert_array_equal(failed.sum(axis=1), found.map["frames_failed"].values[:, 0, 0])
    assert failed[0].any()
    assert not failed[1].any()
    assert (found.map["peak_count"].values[:, 0, 0][failed == 1] == 0).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"minval": [20, "5 sigma"]},
            "sweep: minval: mixes counts and multiples of the noise; must be all of one kind",
        ),
        ({"minval": []}, "sweep: minval: is an empty list; must have one level or more"),
        ({"minscore": 3}, "sweep: minscore: 3 is not accepted; must be a list of levels"),
        ({"minscore": "3 sigma"}, "sweep: minscore: '3 sigma' is not accepted; must be a list of levels"),
        ({"minval": [0]}, "minval: 0 is not accepted; must be above 0"),
        ({"false_peaks": ["many"]}, r"sweep: detect.false_peaks: .*many"),
        ({"frames": 0}, "frames: 0 is not accepted; must be 1 or more, or all"),
        ({"frames": "some"}, "frames: 'some' is not accepted"),
        ({"radius": 0}, "radius: 0 is not accepted; must be above 0"),
        ({"config": {"frames": {"start": 9}}}, "frames.start: 9 .* selects none of the 2 frames of array"),
        (
            {"config": {"detect": {"max_peaks_per_frame": 1}}},
            "array: no frame can be processed by any setting: .*peaks in",
        ),
    ],
)
def test_what_is_not_accepted_is_refused_with_what_is(given, said):
    with pytest.raises(InputError, match=said):
        braggflow.sweep(images(2), given.pop("config", None), **{"false_peaks": [0.1], **given})


def test_more_than_can_be_kept_is_refused(monkeypatch):
    monkeypatch.setattr("braggflow.sweeps.sweeping._MOST", 5)
    with pytest.raises(
        InputError, match="2 settings in 3 frames are more than 5 numbers; choose fewer levels or frames"
    ):
        braggflow.sweep(images(3), false_peaks=[0.1, 1])


def test_settings_that_are_not_in_the_map_are_refused(swept):
    with pytest.raises(
        InputError, match=r"setting {'minval': 31}: is not in the map, which has minval –, 30, 120; minscore"
    ):
        swept.plot_settings([{"minval": 31}])
    with pytest.raises(InputError, match="setting: minvale is not a level; accepted: minval, minscore, false_peaks"):
        swept.place_of(minvale=3)


def test_files_say_what_the_sweep_says(swept, tmp_path):
    written = swept.write(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == set(written)
    rows = list(csv.DictReader(written["sweep.csv"].read_text().splitlines()))
    assert len(rows) == 18
    assert [row["recommended"] for row in rows].count("1") == 1
    np.testing.assert_allclose(
        [float(row["peaks_median"]) for row in rows], swept.map["peaks_median"].values.ravel(), rtol=1e-5
    )
    page = written["sweep.html"].read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)  # nothing is fetched
    given = resolve_config(yaml.safe_load(written["recommended.yaml"].read_text()) or {})
    assert given.detect == swept.recommended_config.detect
    assert swept.reason in written["recommended.yaml"].read_text()


def test_what_is_recommended_holds_only_what_differs():
    data = images()
    for config in ({}, {"detect": {"minval": 300, "false_peaks": 1}}):
        found = braggflow.sweep(data, config, minval=[None, 300], false_peaks=[0.01, 0.1, 1], frames="all")
        merged = {**found.config.detect.model_dump(), **found.recommended.get("detect", {})}
        assert resolve_config({"detect": merged}).detect == found.recommended_config.detect
        assert all(merged[key] != getattr(found.config.detect, key) for key in found.recommended.get("detect", {}))
        assert found.recommended_config.detect.minval is None


def test_without_peaks_nothing_is_recommended_and_the_files_say_so(tmp_path):
    noise = np.random.default_rng(1).poisson(9, (2, 64, 64)).astype(np.uint16)
    found = braggflow.sweep(noise, false_peaks=[0.001, 0.01])
    assert found.place is None
    assert found.recommended == {}
    assert found.recommended_config == found.config
    written = found.write(tmp_path)
    assert written["recommended.yaml"].read_text() == "# no setting finds a peak\n"
    assert "no setting finds a peak" in written["sweep.html"].read_text()
    with pytest.raises(InputError, match=r"settings: none is given, and no setting is recommended|is not in the map"):
        braggflow.sweep(noise, {"detect": {"minval": 900}}, minval=[500], false_peaks=[0.01]).plot_settings()


def test_hostile_names_are_text_in_the_page(tmp_path):
    store = make_store(tmp_path / "<script>x.zarr", images(2), chunk=1)
    found = braggflow.sweep(store, false_peaks=[0.01, 0.1])
    assert "<script>x" not in (found.write(tmp_path / "out")["sweep.html"]).read_text()


def test_a_picture_has_a_panel_for_each_false_peaks_and_a_curve_a_setting(swept):
    titles = [axes.get_title() for part in swept.figure.subfigs for axes in part.axes]
    assert [title for title in titles if title] == ["false_peaks 0.001", "false_peaks 0.1", "false_peaks 10"]
    figure = swept.plot_settings([{"false_peaks": 0.001}, {"false_peaks": 10}, {"minval": 120}])
    counts, persist, distance = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3]
    np.testing.assert_array_equal(
        counts.lines[1].get_ydata(), swept.map["peak_count"].values[swept.place_of(false_peaks=10)]
    )
    assert distance.get_xlabel() == "frame number"
    assert persist.get_ylabel() == "persist, %"


def test_a_notebook_shows_reason_picture_and_table(swept):
    shown = swept._repr_html_()
    assert swept.reason.split(";")[0] in shown
    assert shown.count("<tr") == 1 + len(swept.along())
    assert repr(swept).startswith("<braggflow sweep of array: 18 settings in 6 of 6 frames; ")


def test_of_each_setting_and_frame_four_numbers_are_kept():
    measured = braggflow.sweep(np.concatenate([images()] * 2), false_peaks=[0.1], frames="all").map
    assert {str(name) for name, v in measured.data_vars.items() if "frame" in v.dims} == {
        *("peak_count", "persistence_of_frame", "distance_of_frame", "frame_failed"),
    }


def test_the_command_prints_a_table_and_writes_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "scan.zarr", images(), chunk=2)
    arguments = ["sweep", "scan.zarr", "--false-peaks", "0.01,0.1,1", "--minval", "none,120", "--frames", "4"]
    result = CliRunner().invoke(app, [*arguments, "--out", "out", "--json", "sweep.json", "--set", "detect.min_area=2"])
    assert result.exit_code == 0, result.output
    assert "scan.zarr: 6 settings in 4 of 6 frames" in result.output
    assert "recommended: " in result.output
    assert "out/recommended.yaml" in result.output
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["levels"] == {"minval": [None, 120.0], "minscore": [None], "false_peaks": [0.01, 0.1, 1.0]}
    assert np.shape(found["map"]["peaks_median"]) == (2, 1, 3)
    again = braggflow.sweep(
        "scan.zarr", {"detect": {"min_area": 2}}, minval=[None, 120], false_peaks=[0.01, 0.1, 1], frames=4
    )
    assert again.as_dict() == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--frames", "many"], "--frames many: must be a whole number of 1 or more, or all"),
        (["--json", "nowhere/sweep.json"], "folder nowhere does not exist"),
        (["--minval", "20,6 sigma"], "minval: mixes counts and multiples"),
        (["--minval", "20,x"], "detect.minval: .*'x'"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "scan.zarr", images(2), chunk=2)
    result = CliRunner().invoke(app, ["sweep", "scan.zarr", *options])
    assert isinstance(result.exception, InputError)
    assert re.search(said, str(result.exception))


def test_without_network_and_fit_there_is_no_distance():
    config = {"locate": {"network": "none"}, "fit": {"fraction": 0}}
    found = braggflow.sweep(images(2), config, false_peaks=[0.01, 0.1, 1])
    assert np.isnan(found.map["distance_median"]).all()
    assert np.isnan(found.map["repeatability"]).all()
    assert found.figure.get_suptitle().startswith("recommended: ")
    assert 'src="data:image/png' in found._repr_html_()


def test_frames_in_memory_of_any_kind_are_taken():
    array = xr.DataArray(images(4), dims=("frame", "y", "x"), coords={"frame": [3, 4, 5, 6]})
    found = braggflow.sweep(array, false_peaks=[0.1], frames="all")
    assert found.map["frame"].values.tolist() == [3, 4, 5, 6]
