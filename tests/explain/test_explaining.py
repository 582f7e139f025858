"""An explanation says what a run does: its rows are the run's, each dropped maximum names what dropped it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from numpy.typing import NDArray
from typer.testing import CliRunner

import braggflow
from braggflow import Explanation, InputError, peak_table
from braggflow.cli import app
from braggflow.patches import State
from braggflow.peak_table import Flag
from braggflow.simulate import simulate_series
from tests.stores import make_store

SHAPE = (96, 96)


def frame_with(*spots: tuple[float, float, float], sigma: float = 1.4, background: float = 4.0) -> NDArray[np.uint16]:
    """A noisy frame with spots of (y, x, height)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mean = np.full(SHAPE, background)
    for row, column, height in spots:
        mean += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
    return np.random.default_rng(0).poisson(mean).astype(np.uint16)


def at(frame: NDArray[Any], y: float, x: float, **sections: Mapping[str, Any]) -> Explanation:
    return braggflow.explain(xr.DataArray(frame[None], dims=("frame", "y", "x")), y, x, config=sections)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> braggflow.Run:
    """A run of frames with peaks of all kinds, binned: places are those of the detector all the same."""
    folder = tmp_path_factory.mktemp("run")
    simulate_series(folder / "scan.zarr", n_frames=3, shape=(128, 128), peaks=14, seed=5)
    config = {"output": {"report": False}, "check": {"fraction": 0}}
    braggflow.run(config, [folder / "scan.zarr"], out=folder / "runs")
    return braggflow.open_run(folder / "runs" / "scan")


def test_every_peak_of_a_run_is_explained_by_its_own_row(run: braggflow.Run) -> None:
    table = run.peaks.load()
    of_frame = table.sel(peak_frame=1)
    assert of_frame.sizes["peak"] > 8
    flags = 0
    for i in range(of_frame.sizes["peak"]):
        row = of_frame.isel(peak=i)
        why = braggflow.explain(run, float(row["y"]), float(row["x"]), frame=1)
        assert why.kind == "peak"
        assert why.peak is not None
        for name in set(peak_table.VARIABLES) - {"parent"}:  # which counts rows of the table that it is in
            np.testing.assert_array_equal(why.peak[name].values[0], row[name].values, err_msg=name)
        flags |= int(row["flags"])
        told = {word.split(":")[0] for word in why.words if word.startswith("Flag ")}
        assert told == {f"Flag {flag.name}" for flag in Flag if int(row["flags"]) & flag}
        (decision,) = [word.split(" is used")[0] for word in why.words if " is used" in word]
        by = {"The fit's position": "by a fit", "The network's position": "by the network"}
        assert by.get(decision, "by its") in why.words[0]
        intensity = f"{float(row['intensity']):.0f} ± {float(row['intensity_std']):.0f} counts; snr "
        assert f"Its intensity is {intensity}" in " ".join(why.words)
        if np.isfinite(float(row["y_fit"])):
            widths = (
                f"{float(row[name]):.2f} ± {float(row[f'{name}_std']):.2f}" for name in ("fwhm_major", "fwhm_minor")
            )
            assert f"FWHM {' × '.join(widths)} px" in " ".join(why.words)
    assert flags


def test_a_run_a_store_an_array_and_an_open_series_tell_the_same(run: braggflow.Run) -> None:
    from braggflow.explain import explain_place
    from braggflow.frames import open_frames, open_series, settled_constants

    store = run.info["dataset"]["path"]
    row = run.peaks.load().sel(peak_frame=2).isel(peak=3)
    place = float(row["y"]), float(row["x"])
    series = settled_constants(open_series(open_frames(store), run.config))[0]
    told = [
        braggflow.explain(run, *place, frame=2),
        braggflow.explain(run.path, *place, frame=2),
        braggflow.explain(store, *place, frame=2),
        braggflow.explain(open_frames(store), *place, frame=2),
        explain_place(series, 2, *place),
    ]
    assert [one.words for one in told] == [told[0].words] * 5
    for one in told[1:]:
        np.testing.assert_array_equal(one.patch, told[0].patch)
        np.testing.assert_array_equal(one.model, told[0].model)


def test_a_binned_frame_is_explained_in_pixels_of_the_detector() -> None:
    frame = frame_with((40.3, 50.8, 300), sigma=2.5)
    why = at(frame, 41, 51, frames={"bin": 2})
    found = braggflow.find_peaks(frame, bin=2)
    assert why.row["y"] == float(found["y"][0])
    left, right, bottom, top = why.extent
    assert (right - left, bottom - top) == (22, 22)
    assert why.maximum is not None
    y, x = (int(found[name][0]) for name in ("y_pixel", "x_pixel"))
    assert why.maximum.place == (y + 0.5, x + 0.5)
    window = frame[int(top + 0.5) : int(bottom + 0.5), int(left + 0.5) : int(right + 0.5)]
    np.testing.assert_array_equal(why.patch, window.reshape(11, 2, 11, 2).sum(axis=(1, 3)))


def test_the_model_fits_a_peak_and_its_neighbours() -> None:
    frame = frame_with((40.3, 40.8, 300), (43.2, 46.0, 200))
    why = at(frame, 40, 41)
    assert why.model is not None
    assert why.residual is not None
    assert why.state is not None
    assert (why.state == State.OTHER).any()
    assert np.nanstd(why.residual) == pytest.approx(1, abs=0.15)
    assert abs(np.nanmean(why.residual)) < 0.2
    assert why.neighbours is not None
    assert why.neighbours.sizes["peak"] == 1
    along, counts, model = why.cuts["y"]
    np.testing.assert_array_equal(counts, why.patch[:, 5])
    assert along[5] == 40
    assert model is not None


def test_persistence_names_the_saddle_and_the_higher_peak() -> None:
    frame = frame_with((40, 40, 400), (40, 46, 150), sigma=2.0)
    why = at(frame, 40, 46)
    maximum = why.maximum
    assert maximum is not None
    assert maximum.into is not None
    assert maximum.saddle is not None
    assert np.hypot(maximum.into[0] - 40, maximum.into[1] - 40) < 2
    assert 40 < maximum.saddle[1] < 46
    assert maximum.birth - maximum.death == maximum.score > 0
    higher = at(frame, 40, 40).maximum
    assert higher is not None
    assert higher.into is None
    assert higher.place == maximum.into


def test_the_frames_before_and_after_are_shown_where_there_are_any() -> None:
    frames = np.stack([frame_with((30 + i, 30, 300)) for i in range(3)])
    data = xr.DataArray(frames, dims=("frame", "y", "x"))
    first, middle = (braggflow.explain(data, 31, 30, frame=number) for number in (0, 1))
    assert first.before is None
    np.testing.assert_array_equal(first.after, frames[1, 25:36, 25:36])
    np.testing.assert_array_equal(middle.before, frames[0][tuple(_around(middle))])
    np.testing.assert_array_equal(middle.after, frames[2][tuple(_around(middle))])


def _around(why: Explanation) -> list[slice]:
    return [slice(int(first), int(first) + len(why.patch)) for first in why.corner]


# What drops a maximum: a frame, the place, the sections of the configuration, value and limit where they are known.
FAINT = frame_with((40, 40, 300), (20, 60, 9))
DROPPED = {
    "false_peaks": (FAINT, (20, 60), {"detect": {"false_peaks": 1e-9}}),
    "minval": (FAINT, (40, 40), {"detect": {"minval": 500}}),
    "minscore": (FAINT, (40, 40), {"detect": {"minscore": 500}}),
    "min_area": (FAINT, (40, 40), {"detect": {"min_area": 500}}),
    "max_area": (FAINT, (40, 40), {"detect": {"max_area": 3}}),
    "min_edge_distance": (frame_with((5, 40, 300)), (5, 40), {"detect": {"min_edge_distance": 8}}),
    "min_neighbour_distance": (
        frame_with((40, 40, 400), (40, 47, 150)),
        (40, 47),
        {"detect": {"min_neighbour_distance": 12}},
    ),
    "min_snr": (FAINT, (40, 40), {"detect": {"min_snr": 500}}),
}


@pytest.mark.parametrize("rule", DROPPED)
def test_a_dropped_maximum_names_the_rule_its_number_and_the_limit(rule: str) -> None:
    frame, place, sections = DROPPED[rule]
    y, x = place
    window = frame[y - 2 : y + 3, x - 2 : x + 3]
    dy, dx = np.unravel_index(np.argmax(window), window.shape)
    why = at(frame, y - 2 + int(dy), x - 2 + int(dx), **sections)
    assert why.kind == "maximum"
    assert why.maximum is not None
    assert why.maximum.dropped_by == rule
    assert any(f"detect.{rule}" in word for word in why.words)
    settings = sections["detect"]
    below = rule != "max_area"
    assert (why.maximum.value < why.maximum.limit) is below
    if rule != "false_peaks":
        assert why.maximum.limit == settings[rule]
    removed = braggflow.preview(xr.DataArray(frame[None], dims=("frame", "y", "x")), sections).removed
    assert rule == "minval" or removed[rule] >= 1


def test_minval_and_minscore_alone_decide_where_no_false_peaks_are_asked_for() -> None:
    levels = {"false_peaks": None, "minval": 50, "minscore": 20}
    frame = frame_with((40, 40, 300), (20, 60, 25))
    assert at(frame, 40, 40, detect=levels).kind == "peak"
    low = at(frame, *_brightest(frame, 20, 60), detect=levels)
    assert low.maximum is not None
    assert low.maximum.dropped_by == "minval"
    assert np.isnan(low.maximum.least)
    high = at(frame, *_brightest(frame, 40, 40), detect={**levels, "minscore": 400})
    assert high.maximum is not None
    assert high.maximum.dropped_by == "minscore"


def _brightest(frame: NDArray[Any], y: int, x: int) -> tuple[int, int]:
    """The brightest pixel within 2 of a place."""
    window = frame[y - 2 : y + 3, x - 2 : x + 3]
    dy, dx = np.unravel_index(np.argmax(window), window.shape)
    return y - 2 + int(dy), x - 2 + int(dx)


def test_maxima_of_noise_are_below_the_cut_and_say_so() -> None:
    noise = frame_with()
    kinds: dict[str, int] = {}
    for y in range(10, 90, 8):
        for x in range(10, 90, 8):
            why = at(noise, y, x)
            kinds[why.kind] = kinds.get(why.kind, 0) + 1
            if why.maximum is not None:
                assert why.maximum.dropped_by in ("false_peaks", "floor")
                assert not why.maximum.significance >= why.maximum.least
                assert f"cut at {why.maximum.least:.2f}" in " ".join(why.words)
                assert max(abs(why.maximum.place[0] - y), abs(why.maximum.place[1] - x)) <= 3
            else:
                assert "nothing rises here" in why.words[-1]
    assert set(kinds) == {"maximum", "no maximum"}


def test_of_the_maxima_on_a_disk_one_is_its_row() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frame = np.random.default_rng(0).poisson(np.where(np.hypot(y - 48, x - 50) < 4, 400, 4)).astype(np.uint16)
    sections = {"fit": {"model": "disk"}, "patches": {"size": 15}, "locate": {"network": "none"}}
    why = at(frame, 48, 50, **sections)
    assert why.kind == "peak"
    assert why.row["method"] == "disk"
    assert why.model is not None
    dropped = [at(frame, row, column, **sections) for row in range(45, 52) for column in range(47, 54)]
    rules = {one.maximum.dropped_by for one in dropped if one.kind == "maximum" and one.maximum is not None}
    assert rules <= {"disk", "false_peaks"}
    assert "disk" in rules


def test_a_peak_without_a_maximum_of_its_own_says_where_it_comes_from() -> None:
    frame = frame_with((40, 40.0, 1500), (40, 43.2, 500), sigma=1.4)
    table = braggflow.find_peaks(frame)
    child = int(np.flatnonzero(table["parent"].values >= 0)[0])
    why = at(frame, float(table["y"][child]), float(table["x"][child]))
    assert why.row["parent"] >= 0
    assert any("no maximum of its own" in word for word in why.words)
    assert why.residual is not None
    assert np.nanstd(why.residual) < 1.3


MASKED = {
    "a mask in the series": ({}, "is in the series' mask"),
    "negative": ({"negative": "mark"}, "below 0 counts"),
    "NaN": ({}, "holds nan, which is no count"),
    "a file": ({"mask": "mask.tif"}, "is in the mask file mask.tif"),
    "dark": ({"dark": "dark.tif"}, "has no dark or flat value"),
}


@pytest.mark.parametrize("kind", MASKED)
def test_an_ignored_pixel_says_why(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames, said = MASKED[kind]
    counts = np.stack([frame_with((40, 40, 300))] * 3).astype(np.float32)
    data = xr.Dataset({"frames": (("frame", "y", "x"), counts)})
    bad = np.zeros(SHAPE, bool)
    bad[70, 71] = True
    if kind == "a mask in the series":
        data["mask"] = (("y", "x"), bad)
    elif kind == "negative":
        counts[1, 70, 71] = -3
    elif kind == "NaN":
        counts[1, 70, 71] = np.nan
    elif kind == "a file":
        tifffile.imwrite("mask.tif", bad.astype(np.uint8))
    else:
        tifffile.imwrite("dark.tif", np.where(bad, np.nan, 0).astype(np.float32))
    why = braggflow.explain(data, 70, 71, frame=1, config={"frames": frames})
    assert why.kind == "masked"
    assert said in " ".join(why.words)
    assert np.isnan(why.counts)
    assert braggflow.explain(data, 72, 75, frame=1, config={"frames": frames}).kind != "masked"


def test_a_bad_pixel_and_a_drawn_one_say_so(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(20, (16, 64, 64)).astype(np.uint16)
    counts[:, 10, 12] += 300
    store = make_store(tmp_path / "scan.zarr", counts)
    bad = braggflow.explain(store, 10, 12, config={"frames": {"find_bad_pixels": True}})
    assert "is a hot, noisy or dead pixel (frames.find_bad_pixels)" in bad.words[-1]
    drawn = braggflow.save_mask(braggflow.DrawnMask((64, 64)).ring((30, 30), 0, 4), store)
    told = braggflow.explain(store, 30, 30).words[-1]
    assert told == f"Pixel (30, 30) was drawn into the mask of the store by {drawn.drawn_by} at {drawn.drawn_at}."


def test_a_peak_beside_a_masked_pixel_is_meant_unless_that_pixel_is() -> None:
    frame = frame_with((40, 40, 300))
    data = xr.Dataset({"frames": (("frame", "y", "x"), frame[None])})
    data["mask"] = (("y", "x"), np.zeros(SHAPE, bool))
    data["mask"].values[:, 44:46] = True
    assert braggflow.explain(data, 40, 43).kind == "peak"
    assert braggflow.explain(data, 40, 44).kind == "masked"
    flagged = braggflow.explain(data, 40, 40).words[-1]
    assert flagged == "Flag masked: masked or NaN pixels in the patch (22 pixels)."


@pytest.mark.parametrize("place", [(40, 41), (70, 20), (60, 60)])
def test_every_kind_has_a_picture_and_a_page(place: tuple[int, int]) -> None:
    data = xr.Dataset({"frames": (("frame", "y", "x"), frame_with((40, 40, 300))[None])})
    data["mask"] = (("y", "x"), np.zeros(SHAPE, bool))
    data["mask"].values[60, 60] = True
    why = braggflow.explain(data, *place)
    hostile = Explanation(**{**why.__dict__, "source": "<script>", "words": ["<script>alert(1)</script>"]})
    assert "<script>" not in hostile._repr_html_()
    assert len(why.figure.axes) >= 5
    assert repr(why).splitlines()[1:] == why.words


def test_a_run_whose_mask_is_another_now_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "scan.zarr", np.stack([frame_with((40, 40, 300))] * 2))
    config = {"output": {"report": False}, "check": {"fraction": 0}}
    braggflow.run(config, [store], out=tmp_path / "runs")
    assert braggflow.explain(tmp_path / "runs" / "scan", 40, 40).kind == "peak"
    braggflow.save_mask(braggflow.DrawnMask(SHAPE).ring((40, 40), 0, 4), store)
    with pytest.raises(InputError, match=r"what corrects its frames has changed since \(mask\)"):
        braggflow.explain(tmp_path / "runs" / "scan", 40, 40)


def test_the_command_prints_what_there_is_to_say_and_draws_it(run: braggflow.Run, tmp_path: Path) -> None:
    row = run.peaks.load().sel(peak_frame=1).isel(peak=2)
    place = f"{float(row['y']):.3f},{float(row['x']):.3f}"
    picture = tmp_path / "why.png"
    words = ["explain", str(run.path), "--frame", "1", "--at", place]
    said = CliRunner().invoke(app, [*words, "--out", str(picture)])
    assert said.exit_code == 0, said.output
    y, x = (float(part) for part in place.split(","))
    told = braggflow.explain(run, y, x, frame=1).words
    assert said.stdout.splitlines() == [*told, f"picture: {picture}"]
    assert picture.stat().st_size > 10_000
    for wrong in ("3", "3,4,5", "a,b"):
        refused = CliRunner().invoke(app, [*words[:-1], wrong])
        assert isinstance(refused.exception, InputError)
        assert f"--at {wrong}: must be two numbers" in str(refused.exception)


def test_what_is_not_there_is_refused(run: braggflow.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--at 200,3: is not in the frame; must be y from -0.5 to 127.5"):
        braggflow.explain(run, 200, 3)
    with pytest.raises(InputError, match=r"--at nan,3: is not in the frame"):
        braggflow.explain(run, float("nan"), 3)
    with pytest.raises(InputError, match="--frame 9: there is no such frame; there are 3, 0 to 2"):
        braggflow.explain(run, 3, 3, frame=9)
    with pytest.raises(InputError, match="is a run, which is explained with the settings that it was made with"):
        braggflow.explain(run, 3, 3, config={})
    with pytest.raises(InputError, match="lies beyond the last whole bin"):
        braggflow.explain(frame_with()[:95], 94, 3, config={"frames": {"bin": 2}})
    with pytest.raises(InputError, match="selects none of the frames"):
        braggflow.explain(frame_with(), 3, 3, config={"frames": {"start": 4}})
    with pytest.raises(InputError, match=r"none\.zarr"):
        braggflow.explain(tmp_path / "none.zarr", 3, 3)
