"""The report of a run whose peaks were followed: tracks, peaks against q, and what a log says."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.errors import InputError
from braggflow.show import Trails, plot_peaks_per_frame, plot_track, plot_waterfall, write_movie, write_report
from braggflow.show.colours import METHOD_COLOURS
from braggflow.show.movie import _Picture
from braggflow.show.report import pictures
from tests.geometry.places import PLAIN
from tests.show.run_folders import write_frames
from tests.stores import spots

QUICK = {"output": {"report": False}, "check": {"fraction": 0}, "locate": {"network": "none"}}
FRAMES = 8


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    frames = np.stack([np.roll(spots((64, 80), 5, seed=3), at // 2, axis=1) for at in range(FRAMES)])
    time = (np.arange(FRAMES) * 2.0, {"units": "s"})
    store = write_frames(folder / "scan.zarr", frames, coords={"time": time}, geometry=PLAIN)
    braggflow.run(QUICK, [store], out=folder / "runs")
    return folder / "runs" / "scan"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "cycler.csv"
    rows = "\n".join(f"{at},{3 + abs(at - 7) / 10},{300 + at * at}" for at in range(0, 15))
    path.write_text(f"time (s),voltage (V),temperature (K)\n{rows}\n")
    return path


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_the_report_tells_of_tracks_and_draws_them(run):
    text = write_report(run).read_text(encoding="utf-8")
    tracks = braggflow.open_tracks(run)
    section = text[text.index("<h2>Tracks</h2>") : text.index("<h2>What was filtered")]
    assert f"{tracks.sizes['track']:,} tracks hold {tracks.attrs['peaks_on_tracks']:,} of" in section
    assert "The longest tracks" in section
    assert "strain a frame" in section
    assert len(re.findall("<img ", section)) == 2  # all tracks, and the one that changes most
    assert "Intensity of the peaks in each step of q" in text


def test_a_run_that_was_not_followed_says_so(run, tmp_path):
    settings = QUICK | {"track": {"enabled": False}}
    braggflow.run(settings, [run.parents[1] / "scan.zarr"], out=tmp_path)
    text = write_report(tmp_path / "scan").read_text(encoding="utf-8")
    assert "Not followed: track.enabled is false." in text


def test_a_log_is_drawn_below_the_peaks_of_each_frame(run, log, tmp_path):
    joined = braggflow.join_log(braggflow.open_run(run), log, tolerance="1 s")
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        draw = pictures.plot_peaks_per_frame
        patch.setattr(pictures, "plot_peaks_per_frame", lambda shown: figures.append(draw(shown)) or figures[-1])
        write_report(run, peaks=joined)
        arguments = ["report", str(run), "--log", str(log), "--tolerance", "1 s"]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    for figure in figures:
        assert "voltage\n(V)" in words(figure)
        assert "temperature\n(K)" in words(figure)
    assert len(figures) == 2
    assert "voltage" not in words(plot_peaks_per_frame(run))
    with pytest.raises(InputError, match=r"--log: goes with one run folder"):
        CliRunner().invoke(app, ["report", str(run.parent), "--log", str(log)], catch_exceptions=False)
    with pytest.raises(InputError, match="peaks: are not the table of"):
        write_report(run, peaks=joined.isel(peak=slice(3)))


def test_a_waterfall_sums_what_the_table_has(run):
    peaks = braggflow.add_q(run)
    for of, total in (("peaks", peaks.sizes["peak"]), ("intensity", float(peaks["intensity"].sum()))):
        figure = plot_waterfall(run, of=of)
        (mesh,) = figure.axes[0].collections
        assert float(np.nansum(mesh.get_array())) == pytest.approx(total, rel=1e-6)
        assert figure.axes[0].get_ylabel() == "time (s)"
    with pytest.raises(InputError, match="of: 'counts' is not accepted; must be intensity or peaks"):
        plot_waterfall(run, of="counts")


def test_a_track_has_its_strain_drawn_where_the_geometry_is_known(run):
    figure = plot_track(run, 0)
    assert "strain against" in words(figure)
    assert braggflow.open_tracks(run)["d_reference"].values[0] == pytest.approx(
        float(braggflow.add_q(run)["d"].values[braggflow.open_peaks(run)["track_id"].values == 0][0])
    )


def test_trails_are_the_last_steps_of_each_track(run):
    peaks = braggflow.open_peaks(run)
    found = Trails(peaks).before(5, 3)
    number = peaks["track_id"].values
    for track in np.unique(found.track).tolist():
        own = peaks.isel(peak=np.flatnonzero((number == track) & np.isin(peaks["peak_frame"], (2, 3, 4, 5))))
        steps = found.places[found.track == track]
        np.testing.assert_array_equal(steps[:, 0, 0], own["y_smooth"].values[:-1])
        np.testing.assert_array_equal(steps[:, 1, 1], own["x_smooth"].values[1:])
        np.testing.assert_allclose(found.age[found.track == track], (5 - own["peak_frame"].values[1:]) / 3)
    assert len(found.track) == 3 * len(np.unique(number[number >= 0]))
    assert not len(Trails(peaks.drop_vars("track_id")).before(5, 3).track)


def test_a_movie_draws_trails_in_the_colours_of_tracks(run, tmp_path):
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        show = _Picture.show
        patch.setattr(_Picture, "show", lambda self, n: (show(self, n), drawn.append(self.paths.get_colors())))
        write_movie(run, tmp_path / "trails.gif", trails=2, frames=slice(3, 4))
    assert len(drawn) == 2
    n = braggflow.open_tracks(run).sizes["track"]
    assert len(drawn[0]) == 2 * n
    assert set(METHOD_COLOURS.values())  # whose colours the palette of a GIF holds
