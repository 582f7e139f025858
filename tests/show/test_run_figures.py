"""Each picture of a report by one call, and those of a study."""

import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from braggflow import open_peaks, open_run, show
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import RunFolder, open_run_frames
from braggflow.show import report, run_figures
from braggflow.show.report import pictures
from braggflow.show.shown_run import shown_run
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}
#: The calls that need a run alone.
#: Those that draw something else than a run: one reflection, a frame, two tables, q, tracks.
OTHERS = {"plot_series", "plot_frame", "plot_comparison", "plot_q", "plot_track", "plot_tracks", "plot_waterfall"}
PLOTS = sorted(name for name in show.__all__ if name.startswith("plot_") and name not in OTHERS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    coords = {"voltage": (np.array([3.0, 3.6, 4.1, 3.7, 3.2]), {"units": "V"}), "time": (np.arange(5) * 30.0, {})}
    source = write_frames(folder / "cell.zarr", simulate(5), coords=coords)
    return write_run(folder / "run", source, resolve_config(SETTINGS), failed=[3])


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run in which no peak was found."""
    folder = tmp_path_factory.mktemp("bare")
    source = write_frames(folder / "empty.zarr", np.full((3, 24, 32), 7, np.uint16))
    return write_run(folder / "run", source, resolve_config(SETTINGS))


@pytest.mark.parametrize("name", PLOTS)
def test_every_picture_is_drawn_of_a_run_or_its_folder_and_a_notebook_shows_it(run, name, tmp_path):
    figure = getattr(show, name)(open_run(run))
    assert figure._repr_png_()[:4] == b"\x89PNG"
    figure.savefig(tmp_path / "figure.png", dpi=20)
    assert len(figure.axes) == len(getattr(show, name)(str(run)).axes) > 0


def test_the_report_shows_what_these_calls_draw(run, monkeypatch):
    called = []
    for name in PLOTS:
        if hasattr(pictures, name):
            drawn = getattr(pictures, name)
            monkeypatch.setattr(pictures, name, lambda *of, drawn=drawn, name=name: called.append(name) or drawn(*of))
    monkeypatch.setattr(pictures, "DPI", 10)
    text = report.write_report(run).read_text("utf-8")
    assert {*called} == {*PLOTS} - {"plot_ranked"}
    assert text.count("<img ") == len(called)


def test_a_frame_is_the_one_that_is_asked_for_or_the_typical_one(run):
    table = open_peaks(run)
    counts = table["peak_count"].values
    typical = int(np.argsort(np.where(counts == 0, 1000, counts))[2])
    (circles,) = [of for of in show.plot_maxima(run).axes[0].collections if len(of.get_offsets())]
    assert len(circles.get_offsets()) == counts[typical]
    (circles,) = [of for of in show.plot_maxima(run, 4).axes[0].collections if len(of.get_offsets())]
    maxima = table.sel(peak_frame=4)
    np.testing.assert_array_equal(circles.get_offsets(), np.column_stack([maxima["x_pixel"], maxima["y_pixel"]]))
    for name in ("plot_searched", "plot_maxima", "plot_located"):
        with pytest.raises(InputError, match="frame 3: could not be processed"):
            getattr(show, name)(run, 3)


def test_ranked_examples_are_those_nearest_and_furthest(run):
    words = [text.get_text() for text in show.plot_ranked(run, n=3).axes[0].texts]
    told = [float(re.search(r"network to fit ([\d.]+) px", word)[1]) for word in words]
    distance = np.sort(open_peaks(run)["disagreement"].values)
    distance = distance[np.isfinite(distance)]
    np.testing.assert_allclose(told, [*distance[:3], *distance[:-4:-1]], atol=5.1e-4)
    with pytest.raises(InputError, match="n: 0 is not accepted"):
        show.plot_ranked(run, n=0)


def test_of_few_peaks_none_is_both_near_and_far(run, monkeypatch):
    monkeypatch.setattr(run_figures, "shown_run", lambda run: _first(run, 3))
    assert len(show.plot_ranked(run, n=4).axes[0].texts) == 3


def _first(run, n):
    shown = shown_run(run)
    shown.sample = shown.sample.isel(peak=slice(n))
    return shown


@pytest.mark.parametrize("name", ["plot_examples", "plot_ranked", "plot_disagreement", "plot_disagreement_of_frames"])
def test_where_there_is_nothing_to_draw_a_message_says_so(bare, name):
    with pytest.raises(InputError, match=r"(peaks|disagreement): .*(none|no peak)"):
        getattr(show, name)(bare)


@pytest.mark.parametrize("name", ["plot_peaks_per_frame", "plot_all_peaks", "plot_disagreement_of_frames"])
def test_the_axis_is_the_one_that_is_asked_for(run, name):
    def labels(figure):
        return {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}

    assert "voltage (V)" in labels(getattr(show, name)(run, axis="voltage"))
    assert "frame number" in labels(getattr(show, name)(run, axis="frame"))
    with pytest.raises(InputError, match="axis nothing: is no numeric coordinate"):
        getattr(show, name)(run, axis="nothing")


# What a table shows: `peaks.bragg`


@pytest.fixture(scope="module")
def reflection(tmp_path_factory):
    """A run over one reflection that wanders, with three frames without it."""
    folder = tmp_path_factory.mktemp("reflection")
    y, x = np.indices((64, 64))
    frames = np.full((9, 64, 64), 10.0)
    place = np.column_stack([np.linspace(30, 32, 9), np.linspace(25, 28, 9)])
    for i in (0, 1, 2, 5, 6, 8):
        frames[i] += 900 * np.exp(-((y - place[i, 0]) ** 2 + (x - place[i, 1]) ** 2) / 4)
        frames[i] += 900 * np.exp(-((y - 50) ** 2 + (x - 50) ** 2) / 4)
    images = np.random.default_rng(0).poisson(frames).astype(np.uint16)
    source = write_frames(folder / "cell.zarr", images, coords={"voltage": (np.linspace(3, 4, 9), {"units": "V"})})
    return write_run(folder / "run", source, resolve_config(SETTINGS)), place


def _points(axes):
    return np.concatenate([np.asarray(of.get_offsets()) for of in axes.collections if isinstance(of, PathCollection)])


def test_a_reflection_is_drawn_against_the_axis_with_its_uncertainties(reflection):
    run, place = reflection
    peaks = open_peaks(run)
    figure = peaks.bragg.plot_series(["x", "intensity"], near=(31, 26.5), radius=4)
    rows = peaks.bragg.near(31, 26.5, radius=4)
    assert rows["peak_frame"].values.tolist() == [0, 1, 2, 5, 6, 8]
    for axes, name in zip(figure.axes, ("x", "intensity"), strict=True):
        drawn = _points(axes)
        expected = np.column_stack([np.linspace(3, 4, 9)[rows["peak_frame"]], rows[name]])
        np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], expected)
    np.testing.assert_allclose(np.sort(_points(figure.axes[0])[:, 1]), place[[0, 1, 2, 5, 6, 8], 1], atol=0.1)
    (bars,) = [of for of in figure.axes[0].collections if not isinstance(of, PathCollection)]
    lengths = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]
    np.testing.assert_allclose(lengths, 2 * rows["x_std"].values, rtol=1e-5)
    assert figure.axes[1].get_xlabel() == "voltage (V)"
    assert [axes.get_ylabel() for axes in figure.axes] == ["x (pixel)", "intensity (count)"]
    assert figure.texts[0].get_text().startswith("6 peaks within 4 px of (y, x) = (31, 26.5), in 6 of 9 frames")
    against = peaks.bragg.plot_series("y", near=(31, 26.5), axis="frame").axes[0]
    assert sorted(_points(against)[:, 0]) == [0, 1, 2, 5, 6, 8]


def test_run_folder_and_table_give_the_same_curve(reflection):
    run, _ = reflection
    drawn = [show.plot_series(of, "y", near=(31, 26.5)) for of in (run, open_run(run), open_peaks(run))]
    for figure in drawn[1:]:
        np.testing.assert_array_equal(_points(figure.axes[0]), _points(drawn[0].axes[0]))


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ("x", {"near": (5, 5)}, r"near: no peak lies within 5 px of \(5, 5\)"),
        ("nothing", {"near": (31, 26)}, "columns: 'nothing' is none that can be drawn; the table has "),
        ("x", {"near": (31, 26), "axis": "omega"}, "axis omega: is no numeric coordinate"),
        ("x", {"near": (31, 26), "radius": 0}, "radius: 0 is not accepted"),
    ],
)
def test_a_curve_that_cannot_be_drawn_says_why(reflection, columns, options, said):
    with pytest.raises(InputError, match=said):
        open_peaks(reflection[0]).bragg.plot_series(columns, **options)
    with pytest.raises(InputError, match="peaks: has rows alone"):
        open_peaks(reflection[0]).bragg.rows().bragg.plot_series("x", near=(31, 26))


def _marks(figure):
    return sorted(tuple(at) for of in figure.axes[0].collections for at in np.asarray(of.get_offsets()))


def test_a_frame_is_shown_with_the_peaks_that_the_table_has_of_it(reflection, tmp_path, monkeypatch):
    run, _ = reflection
    monkeypatch.chdir(run.parent)
    peaks = open_peaks(run.name).load()  # a relative path, from a folder that is then left
    monkeypatch.chdir(tmp_path)
    rows = peaks.bragg.frame(2)
    expected = sorted(zip(rows["x"].values, rows["y"].values, strict=True))
    assert len(expected) == 2
    frames = open_run_frames(RunFolder(run)).data
    for shown in (
        peaks.bragg.show(2),
        peaks.isel(peak=slice(0, 20)).bragg.show(2),
        rows.bragg.show(2),
        peaks.bragg.show(2, frames=run),
        peaks.bragg.show(2, open_run(run)),
        peaks.bragg.show(2, frames),
        peaks.bragg.show(2, frames["frames"]),
        peaks.bragg.show(2, frames["frames"].values),
    ):
        assert _marks(shown) == expected
    some = peaks.isel(peak=np.flatnonzero(peaks["y"].values > 40))
    assert _marks(some.bragg.show(2)) == [at for at in expected if at[1] > 40]
    assert _marks(peaks.bragg.show(3)) == []


def test_a_frame_that_cannot_be_shown_says_why(reflection):
    run, _ = reflection
    peaks = open_peaks(run)
    with pytest.raises(InputError, match="frame: 40 is not in the table"):
        peaks.bragg.show(40)
    in_memory = peaks.drop_encoding()
    with pytest.raises(InputError, match="frames: the table was not opened from a run folder"):
        in_memory.bragg.show(2)
    with pytest.raises(InputError, match="frame: 8 is none of the 3 frames that are given"):
        peaks.bragg.show(8, np.zeros((3, 64, 64)))
