import matplotlib
import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from PIL import Image

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import RunFolder, open_peaks, open_run_frames
from braggflow.show import write_movie
from braggflow.show.drawing import IGNORED, METHOD_COLOURS
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


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="ffmpeg is not installed")
def test_an_mp4_is_written_where_ffmpeg_is_at_hand(run, tmp_path):
    path = write_movie(run, tmp_path / "cell.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"


def test_without_an_encoder_mp4_is_refused_and_gif_recommended(run, tmp_path):
    with (
        matplotlib.rc_context({"animation.ffmpeg_path": "no-such-encoder"}),
        pytest.raises(InputError, match=r"needs the encoder no-such-encoder, which is not installed; \.gif works"),
    ):
        write_movie(run, tmp_path / "cell.mp4")
    assert list(tmp_path.iterdir()) == []


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
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(run, tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        write_movie(run, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []
