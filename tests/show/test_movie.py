import gc
import re
import warnings

import imageio_ffmpeg
import matplotlib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from braggflow.cli import app
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import RunFolder, open_peaks, open_run_frames
from braggflow.show import write_movie
from braggflow.show.colours import IGNORED, METHOD_COLOURS
from braggflow.show.drawing import contrast_norm
from braggflow.show.movie import FRAME_PIXELS, _Picture
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movie")
    voltage = ("voltage", np.linspace(3, 4.2, 6), {"units": "V"})
    source = write_frames(folder / "cell.zarr", simulate(6), coords={voltage[0]: voltage[1:]})
    return write_run(folder / "run", source, resolve_config(SETTINGS), failed=[4])


def _titles(monkeypatch):
    titles = []
    show = _Picture.show

    def recorded(self, number):
        show(self, number)
        titles.append(self.title.get_text())

    monkeypatch.setattr(_Picture, "show", recorded)
    return titles


def test_a_gif_holds_every_frame_for_the_asked_time_and_repeats(run):
    path = write_movie(run, fps=5)
    assert path == run / "movie.gif"
    with Image.open(path) as image:
        assert image.n_frames == 6
        assert image.info["duration"] == 200
        assert image.info["loop"] == 0
        assert max(image.size) <= FRAME_PIXELS + 200
    assert [p.name for p in run.glob(".movie*")] == []


def test_titles_give_number_coordinate_and_peaks_and_tell_of_failures(run, monkeypatch):
    titles = _titles(monkeypatch)
    write_movie(run)
    counts = open_peaks(run)["peak_count"].values
    assert titles[0] == f"frame 0, voltage 3 V, {counts[0]} peaks"
    assert titles[4] == "frame 4, voltage 3.96 V: could not be processed, 0 peaks"


def test_long_series_are_thinned_and_the_title_says_so(run, tmp_path, monkeypatch):
    titles = _titles(monkeypatch)
    write_movie(run, tmp_path / "short.gif", max_frames=2)
    assert [title.split(",")[0] for title in titles] == ["frame 0 (every 3rd)", "frame 3 (every 3rd)"]
    titles.clear()
    write_movie(run, tmp_path / "part.gif", frames=slice(1, 5, 2))
    assert [title.split(",")[0] for title in titles] == [f"frame {n} (every 2nd)" for n in (1, 3, 5)]


def test_peaks_are_drawn_at_their_positions_and_grey_means_the_same_in_all_frames(run):
    table = open_peaks(run)
    picture = _Picture(open_run_frames(RunFolder(run)), table, [0, 1, 2], skipped=1)
    scales = []
    for number in (0, 1, 2):
        picture.show(number)
        drawn = np.concatenate([np.asarray(ring.get_offsets()) for ring in picture.rings.values()])
        expected = table.sel(peak_frame=slice(number, number)).load()
        assert sorted(map(tuple, drawn)) == sorted(zip(expected["x"].values, expected["y"].values, strict=True))
        scales.append((picture.image.norm.vmin, picture.image.norm.vmax))
    assert len(set(scales)) == 1


def test_greys_and_marker_colours_survive_the_palette(run, tmp_path):
    path = write_movie(run, tmp_path / "colours.gif", frames=slice(0, 0))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 255).all(axis=1).mean() > 0.05  # white margins stay white
    for colour in (METHOD_COLOURS[1], IGNORED):
        wanted = np.array(matplotlib.colors.to_rgb(colour)) * 255
        assert np.abs(pixels - wanted).max(axis=1).min() < 12, colour


def _frames_of(path):
    """What is said of a video, and its frames (frame, y, x, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the reader leaves its pipes to the collector
        reading = imageio_ffmpeg.read_frames(path)
        about, *frames = reading
        del reading
        gc.collect()
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])


def test_an_mp4_read_back_has_every_frame_and_shows_what_the_gif_shows(run, tmp_path):
    about, frames = _frames_of(write_movie(run, tmp_path / "cell.mp4", fps=5))
    assert (about["fps"], about["codec"], len(frames)) == (5.0, "h264", 6)
    with Image.open(write_movie(run, tmp_path / "cell.gif", fps=5)) as image:
        for number, frame in enumerate(frames):
            image.seek(number)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert shown.shape == frame.shape
            assert np.abs(shown - frame).mean() < 4  # of 255: what video encoding loses


def test_without_an_encoder_mp4_is_refused_and_gif_recommended(run, tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(InputError, match=r"needs the encoder ffmpeg \(No ffmpeg exe could be found\); \.gif works"):
        write_movie(run, tmp_path / "cell.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_trail_shows_where_the_peaks_of_the_frames_before_were_the_paler_the_older(run):
    table = open_peaks(run)
    picture = _Picture(open_run_frames(RunFolder(run)), table, [3], trails=2)
    picture.show(3)
    before = [table.sel(peak_frame=number).load() for number in (1, 2)]
    expected = np.concatenate([np.column_stack([of["x"], of["y"]]) for of in before])
    np.testing.assert_array_equal(picture.dots.get_offsets(), expected)
    alpha = picture.dots.get_facecolors()[:, 3]
    older, newer = np.split(alpha, [before[0].sizes["peak"]])
    assert len({*older}) == len({*newer}) == 1
    assert 0 < older[0] < newer[0] < 1
    picture.show(0)
    assert len(picture.dots.get_offsets()) == 0


def test_a_crop_shows_its_pixels_at_their_places(run):
    series, table = open_run_frames(RunFolder(run)), open_peaks(run)
    whole = _Picture(series, table, [0, 1])
    part = _Picture(series, table, [0, 1], crop=(slice(20, 60), slice(None, 90)))
    for picture in (whole, part):
        picture.show(1)
    assert part.image.get_extent() == (-0.5, 89.5, 59.5, 19.5)
    assert (part.axes.get_xlim(), part.axes.get_ylim()) == ((-0.5, 89.5), (59.5, 19.5))
    np.testing.assert_array_equal(part.image.get_array(), whole.image.get_array()[20:60, :90])
    assert (part.image.norm.vmin, part.image.norm.vmax) == (whole.image.norm.vmin, whole.image.norm.vmax)


def test_a_crop_of_binned_frames_is_in_pixels_of_the_detector(tmp_path):
    source = write_frames(tmp_path / "binned.zarr", simulate(1).astype(np.float32))
    run = write_run(tmp_path / "run", source, resolve_config({"frames": {"bin": 2}, **SETTINGS}))
    picture = _Picture(open_run_frames(RunFolder(run)), open_peaks(run), [0], crop=(slice(21, 41), slice(10, 30)))
    assert picture.image.get_extent() == (9.5, 29.5, 41.5, 19.5)  # whole pixels of the search


def test_captions_have_the_coordinates_of_the_frame_the_axis_first(tmp_path):
    coords = {
        "angle_of_stage": (np.array([1.0, 5.0, 2.0]), {}),
        "begun": (np.array(["2026-01-02T03:04:05", "2026-01-02T03:05:05", "2026-01-02T03:06:05"], "M8[ns]"), {}),
        "exposure": (np.ones(3), {}),
        "omega": (np.array([0.0, 0.25, 0.5]), {"units": "deg"}),
    }
    source = write_frames(tmp_path / "scan.zarr", simulate(3), coords=coords)
    run = write_run(tmp_path / "run", source, resolve_config(SETTINGS))
    picture = _Picture(open_run_frames(RunFolder(run)), open_peaks(run), [0, 1])
    picture.show(1)
    first, second = picture.title.get_text().split("\n")
    assert first == f"frame 1, {open_peaks(run)['peak_count'].values[1]} peaks"
    assert second == "omega 0.25 deg, begun 2026-01-02 03:05:05, angle_of_stage 5"


@pytest.mark.parametrize("contrast", ["auto", "linear", "log", "10:200"])
def test_each_contrast_goes_from_white_to_black_and_brighter_is_darker(contrast):
    counts = np.random.default_rng(0).poisson(20, (64, 64)).astype(np.float32)
    counts[30:34, 30:34] = np.linspace(100, 5000, 16).reshape(4, 4)
    norm = contrast_norm(contrast, counts)
    grey = np.asarray(norm(np.sort(counts, axis=None)))
    assert (np.diff(grey) >= 0).all()
    assert (grey[0], grey[-1]) == (pytest.approx(0, abs=0.02), pytest.approx(1))
    assert np.asarray(norm.inverse(norm(150.0))) == pytest.approx(150)
    if contrast == "10:200":
        assert (norm.vmin, norm.vmax, float(norm(105.0))) == (10, 200, 0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cell.avi", {}, r"must end in \.gif or \.mp4"),
        ("nowhere/cell.gif", {}, "there is no folder"),
        ("cell.gif", {"fps": 0}, "fps: 0 is not accepted"),
        ("cell.gif", {"max_frames": 0}, "max_frames: 0 is not accepted"),
        ("cell.gif", {"frames": slice(None, None, -1)}, "a step of -1 is not accepted"),
        ("cell.gif", {"frames": slice(50, 60)}, "selects none of frames 0 to 5"),
        ("cell.gif", {"frames": slice(4, 4)}, "none of those selected could be processed"),
        ("cell.gif", {"trails": -1}, "trails: -1 is not accepted"),
        (
            "cell.gif",
            {"crop": (slice(90, 200), slice(None))},
            "crop: rows 90:200 are not accepted; must be a part of 0:96",
        ),
        ("cell.gif", {"crop": (slice(None), slice(7, 7))}, "crop: columns 7:7 are not accepted"),
        (
            "cell.gif",
            {"contrast": "bright"},
            "contrast: bright is not accepted; must be auto, linear, log, or LOW:HIGH",
        ),
        ("cell.gif", {"contrast": "9:1"}, "contrast: 9:1 is not accepted"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(run, tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        write_movie(run, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_crop_contrast_and_trails(run, tmp_path):
    options = ["--crop", "20:60,:90", "--contrast", "0:500", "--trails", "2", "--stop", "1"]
    said = CliRunner().invoke(app, ["movie", str(run), "--out", str(tmp_path / "part.gif"), *options])
    assert said.exit_code == 0, said.output
    with Image.open(tmp_path / "part.gif") as image:
        assert image.n_frames == 2
        assert image.width > image.height
    for wrong in ("20:60", "1:2,3", "a:b,c:d", "1:2:3,4:5"):
        refused = CliRunner().invoke(app, ["movie", str(run), "--crop", wrong])
        assert re.match(f"--crop {wrong}: must be y0:y1,x0:x1", str(refused.exception))
