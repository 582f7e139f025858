"""What a page is told of a frame is what `run` finds in it, by whatever settings."""

from pathlib import Path

import numpy as np
import pytest

import braggflow
from braggflow import peak_table
from braggflow.errors import InputError
from braggflow.view.marks import gone_and_new, marks_of
from braggflow.view.tuning import changes, count_sample, sample_positions, save_changes
from braggflow.view.viewed import Columns, Viewed, open_viewed
from braggflow.view.windows import Extent
from tests.stores import make_store, spots

#: Changes of the settings, as a visitor makes them.
TRIED = [
    {},
    {"detect": {"false_peaks": 10.0}},
    {"detect": {"false_peaks": 1e-3}},
    {"detect": {"minval": 30.0}},
    {"detect": {"minval": {"sigma": 8.0}, "minscore": {"sigma": 5.0}}},
    {"detect": {"false_peaks": None}},
    {"detect": {"false_peaks": None, "minval": 25.0, "minscore": 10.0, "background": "none"}},
    {"detect": {"background": "none"}},
    {"detect": {"background_cell": 16, "min_area": 4}},
    {"detect": {"max_area": 30, "min_edge_distance": 5}},
    {"detect": {"min_neighbour_distance": 12.0, "min_snr": 9.0}},
    {"frames": {"bin": 2}},
    {"frames": {"bin": 3}, "detect": {"min_snr": 7.0}},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = np.zeros((90, 120), bool)
    mask[40:43] = True
    images = np.stack([spots((90, 120), 14, seed=seed) for seed in range(5)])
    return make_store(tmp_path_factory.mktemp("view") / "scan.zarr", images, mask=mask)


@pytest.fixture(scope="module")
def run(store: Path) -> braggflow.Run:
    settings = {"output": {"report": False}, "check": {"fraction": 0}}
    (outcome,) = braggflow.run(settings, [store], out=store.parent / "runs")
    return braggflow.open_run(outcome.folder)


def rows_of(peaks: object, number: int) -> Columns:
    rows = peaks.sel(peak_frame=number)  # type: ignore[attr-defined]
    return {name: rows[name].values for name in peak_table.VARIABLES}


def assert_same_rows(ours: Columns, theirs: Columns) -> None:
    for name in peak_table.VARIABLES:
        if name not in ("peak_frame", "parent"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("tried", TRIED, ids=str)
def test_what_is_shown_is_what_a_run_with_the_saved_settings_finds(tried: dict, store: Path, tmp_path: Path) -> None:
    viewed = open_viewed(store).with_settings(tried)
    saved = save_changes(viewed.asked, "tuned", tmp_path, source=viewed.name)
    (outcome,) = braggflow.run(
        braggflow.load_config(saved, ["output.report=false", "check.fraction=0"]), [store], out=tmp_path / "runs"
    )
    peaks = braggflow.open_peaks(outcome.folder)
    for position, number in enumerate(viewed.numbers):
        assert_same_rows(viewed.search(position), rows_of(peaks, number))


def test_a_configuration_that_is_saved_holds_what_differs_from_the_defaults(store: Path, tmp_path: Path) -> None:
    viewed = open_viewed(store)
    assert changes(viewed.asked) == {}
    tuned = viewed.with_settings({"detect": {"minval": {"sigma": 8.0}, "min_area": 1}, "frames": {"bin": 2}})
    assert changes(tuned.asked) == {"detect": {"minval": {"sigma": 8.0}}, "frames": {"bin": 2}}
    path = save_changes(tuned.asked, "tuned.yaml", tmp_path, source="a\nb: {")
    assert path == tmp_path / "tuned.yaml"
    assert braggflow.load_config(path).result_settings() == tuned.asked.result_settings()
    with pytest.raises(InputError, match=r"tuned\.yaml: is there already"):
        save_changes(tuned.asked, "tuned", tmp_path, source="")
    for name in ("", "../up", "/etc/x", ".hidden", "a\0b", "a/b"):
        with pytest.raises(InputError, match="is not accepted"):
            save_changes(tuned.asked, name, tmp_path, source="")
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_run_shows_the_rows_of_its_table_and_a_search_finds_the_same(run: braggflow.Run) -> None:
    viewed = open_viewed(run.path)
    assert viewed.run is not None
    for position, number in enumerate(viewed.numbers):
        stored = viewed.peaks_of_run(position)
        assert stored is not None
        assert_same_rows(stored, rows_of(run.peaks, number))
        assert_same_rows(viewed.search(position), stored)
    assert viewed.source == str(run.info["dataset"]["path"])
    assert viewed.store == Path(run.info["dataset"]["path"])


def test_settings_of_a_run_are_its_own(run: braggflow.Run) -> None:
    with pytest.raises(InputError, match="brings its own configuration"):
        open_viewed(run.path, {"detect": {"minval": 3}})
    with pytest.raises(InputError, match=r"detect\.min_area: -1"):
        open_viewed(run).with_settings({"detect": {"min_area": -1}})


def test_constants_that_were_found_once_are_not_found_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = 3 * rng.poisson(np.linspace(10, 50, 256) * np.ones((6, 256, 1)))
    store = make_store(tmp_path / "a.zarr", images.astype(np.uint16))
    viewed = open_viewed(store, {"frames": {"counts_per_photon": "auto", "read_noise": "auto"}})
    tuned = viewed.with_settings({"detect": {"minval": 3.0}})
    assert tuned.opened.config.frames == viewed.opened.config.frames
    assert tuned.opened.config.frames.counts_per_photon == pytest.approx(3, rel=0.05)
    assert changes(tuned.asked)["frames"] == {"counts_per_photon": "auto", "read_noise": "auto"}


def test_constants_that_the_frames_contradict_are_told_unless_they_were_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = (4 * rng.poisson(np.linspace(20, 60, 256) * np.ones((6, 256, 1)))).astype(np.float32)
    given = open_viewed(frames, {"detect": {"background": "none"}})
    (said,) = given.contradictions()
    assert "frames.counts_per_photon: 1 and frames.read_noise: 0" in said
    assert given.notes == ()  # what is shown first waits for no frame but its own
    assert open_viewed(frames, {"frames": {"counts_per_photon": 4}}).contradictions() == ()
    found = open_viewed(frames, {"frames": {"counts_per_photon": "auto"}})
    assert found.contradictions() == ()
    assert found.with_settings({"detect": {"background": "none"}}).contradictions() == ()


def test_a_shown_frame_has_the_peaks_of_a_search_of_it_alone_whatever_was_tried_before(store: Path) -> None:
    viewed = open_viewed(store)
    for sections in (
        {},
        {"detect": {"false_peaks": 0.001}},
        {"detect": {"minval": 30.0, "minscore": 20.0}},
        {"frames": {"bin": 2}},
        {"frames": {"bin": 2}, "detect": {"minval": {"sigma": 5.0}}},
        {"detect": {"background": "none", "min_area": 3}},
        {},
    ):
        viewed = viewed.with_settings(sections)
        shown, alone = viewed.located(viewed.detected(viewed.frame(1)).patches()), viewed.search(1)
        assert len(alone["y"])
        assert_same_rows({**shown, "area": alone["area"]}, alone)


def test_maxima_lie_where_their_peaks_are_located_until_these_are_there(store: Path) -> None:
    for scale in (1, 2, 3):
        viewed = open_viewed(store, {"frames": {"bin": scale}})
        found = viewed.detected(viewed.frame(1))
        maxima, peaks = found.at_maxima(), viewed.located(found.patches())
        own = peaks["parent"] < 0
        assert found.all_count
        assert len(maxima["y"]) == own.sum() > 2
        for axis in "yx":
            assert np.abs(maxima[axis] - peaks[axis][own]).max() <= 1.5 * scale
        marked = marks_of(maxima, Extent(0, 90, 0, 120), "flags", first="score")
        np.testing.assert_array_equal(marked["score"], maxima["score"])
    assert not open_viewed(store, {"detect": {"min_snr": 3}}).detected(viewed.frame(1)).all_count


def test_files_arrays_and_stores_can_be_looked_at(store: Path) -> None:
    data = braggflow.open_frames(store)
    for source in (data, data["frames"], data["frames"].values, data["frames"].values[0]):
        viewed = open_viewed(source)
        assert viewed.source is None
        assert viewed.store is None
        assert len(viewed.search(0)["y"])
    assert open_viewed(store).coordinates(3) == [("time", "1.5 s")]


def test_frames_are_named_by_number_and_by_the_nearest_value_of_a_coordinate(store: Path) -> None:
    viewed = open_viewed(store, {"frames": {"start": 1}})
    assert [viewed.position_of(text) for text in ("1", " 3 ", "time 1.4", "time 99", "0")] == [0, 2, 2, 3, 0]
    for text, said in (("omega 3", "there are: time"), ("three", "is not accepted"), ("", "is not accepted")):
        with pytest.raises(InputError, match=said):
            viewed.position_of(text)


def test_the_pixel_below_the_cursor_is_told_as_it_is(store: Path) -> None:
    frame = open_viewed(store).frame(1)
    raw = frame.seen.raw
    assert frame.words_at(10.4, 20.4).startswith(f"y 10, x 20: {raw[10, 20]} counts, ")
    assert frame.words_at(41, 20) == f"y 41, x 20: {raw[41, 20]} counts, ignored"
    assert frame.words_at(-0.6, 3) == frame.words_at(3, 120) == ""
    binned = open_viewed(store, {"frames": {"bin": 2}}).frame(1)
    assert f"{raw[20:22, 30:32].sum()} corrected" in binned.words_at(21, 31)


def test_gone_and_new_maxima_are_those_of_one_search_alone(store: Path) -> None:
    viewed = open_viewed(store)
    loose, strict = (viewed.with_settings({"detect": {"minscore": level}}).search(0) for level in (5.0, 200.0))
    gone, new = gone_and_new(loose, strict)
    assert len(gone) > 0 == len(new)
    assert len(gone) == np.count_nonzero(loose["parent"] < 0) - np.count_nonzero(strict["parent"] < 0)
    again, found = gone_and_new(strict, loose)
    assert len(again) == 0
    np.testing.assert_array_equal(found, gone)


def test_frames_of_the_whole_series_are_sampled_and_a_count_can_be_given_up(store: Path, run: braggflow.Run) -> None:
    viewed = open_viewed(store)
    assert sample_positions(viewed) == [0, 1, 2, 3, 4]
    counts = count_sample(viewed)
    assert counts is not None
    assert dict(counts.peaks) == dict(zip(viewed.numbers, run.peaks["peak_count"].values.tolist(), strict=True))
    assert f"{run.peaks.sizes['peak']:,} peaks in 5 frames of the series" in counts.words()
    assert count_sample(viewed, lambda: False) is None


def test_a_frame_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", np.stack([spots((40, 50), 3, seed=seed) for seed in range(3)]))
    viewed: Viewed = open_viewed(store)
    for chunk in (store / "frames" / "c").glob("*/0/0"):
        chunk.write_bytes(b"damaged")
    for look in (viewed.frame, viewed.search):
        with pytest.raises(InputError, match=r"frame 1: .*damaged"):
            look(1)
    counts = count_sample(viewed)
    assert counts is not None
    assert counts.words() == "none of 3 sampled frames could be searched"


def test_markers_are_the_peaks_in_the_window(store: Path) -> None:
    columns = open_viewed(store).search(0)
    whole = Extent(-0.5, 89.5, -0.5, 119.5)
    for by in ("flags", "method", "snr", "significance", "disagreement"):
        assert marks_of(columns, whole, by)["row"].tolist() == list(range(len(columns["y"])))
    part = Extent(0, 45, 0, 60)
    inside = (columns["y"] <= 45) & (columns["y"] >= 0) & (columns["x"] <= 60) & (columns["x"] >= 0)
    assert marks_of(columns, part, "snr")["row"].tolist() == np.flatnonzero(inside).tolist()
