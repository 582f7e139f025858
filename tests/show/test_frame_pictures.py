import re
from io import BytesIO

import matplotlib.text
import numpy as np
import pytest
import xarray as xr
from PIL import Image

import braggflow
from braggflow import peak_table
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.peak_table import Flag
from braggflow.results import SearchedFrame, open_run
from braggflow.show import frame_figure, plot_frame
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}


def _seen(shape=(60, 80)):
    searched = np.random.default_rng(0).poisson(5, shape).astype(np.float32)
    searched[-3:] = np.nan
    return SearchedFrame(searched, np.isnan(searched), searched, np.zeros((), np.float32), 1)


def _peaks(*positions, **values):
    table = peak_table.empty(len(positions))
    table["peak_frame"] = 0
    for name, column in zip(("y_pixel", "x_pixel"), np.array(positions).reshape(-1, 2).T, strict=True):
        table[name] = table[name[0]] = column
    table["snr"] = np.arange(1, len(positions) + 1)
    for name, value in values.items():
        table[name] = value
    return peak_table.to_dataset(table, xr.Dataset(coords={"frame": [0]}), [], {})


def _texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def _pixels(figure):
    content = BytesIO()
    figure.savefig(content, format="png")
    return np.asarray(Image.open(content).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    source = write_frames(folder / "scan.zarr", simulate(5))
    config = resolve_config(SETTINGS)
    return open_run(write_run(folder / "run", source, config, failed=[3]))


def test_markers_say_which_peaks_carry_a_flag():
    peaks = _peaks((5, 5), (20, 30), (40, 70), flags=[0, int(Flag.edge), 0])
    figure = frame_figure(_seen(), peaks, title="frame 0")
    assert {"frame 0", "2 without flags", "1 flagged (see the column flags)"} <= set(_texts(figure))
    marked = [collection.get_offsets().tolist() for collection in figure.axes[0].collections]
    assert marked == [[[5, 5], [70, 40]], [[30, 20]]]


def test_a_frame_larger_than_its_picture_has_its_strongest_peaks_enlarged():
    positions = [(100 * i + 50, 150 * i + 40) for i in range(6)]
    figure = frame_figure(_seen((1500, 1200)), _peaks(*positions))
    assert [text for text in _texts(figure) if "SNR" in text] == [
        f"{letter}: SNR {6 - i}" for i, letter in enumerate("abcd")
    ]
    assert {"a", "b", "c", "d"} <= set(_texts(figure))
    assert not [text for text in _texts(frame_figure(_seen(), _peaks((5, 5)))) if "SNR" in text]


def test_a_spot_of_one_pixel_of_a_large_frame_is_two_dots_wide_in_its_picture():
    seen = _seen((2048, 2048))
    for row, column in [(300, 301), (1000, 1003), (1502, 700)]:
        seen.searched[row, column] = 200
    pixels = _pixels(frame_figure(seen, _peaks()))
    black = (pixels < 60).all(axis=2)
    figure = frame_figure(seen, _peaks())
    left, bottom, right, top = figure.axes[0].bbox.extents.round().astype(int)
    height = len(pixels)
    for row, column in [(300, 301), (1000, 1003), (1502, 700)]:
        y, x = height - top + round(row / 2048 * (top - bottom)), left + round(column / 2048 * (right - left))
        assert np.count_nonzero(black[y - 4 : y + 5, x - 4 : x + 5]) >= 4


def test_ignored_pixels_are_blue_and_no_peak_is_no_error():
    pixels = _pixels(frame_figure(_seen(), _peaks()))
    blue = (np.abs(pixels - [0xBC, 0xDC, 0xF0]) < 4).all(axis=2)
    assert np.count_nonzero(blue) > 10_000


def test_plot_frame_draws_a_frame_of_a_run_by_its_number(run):
    n = int(run.peaks["peak_count"].sel(frame=2))
    for shown in (run, run.path, str(run.path)):
        assert f"frame 2, {n} peaks" in _texts(plot_frame(shown, 2))
    fullest = int(run.peaks["frame"][run.peaks["peak_count"].values.argmax()])
    assert any(text.startswith(f"frame {fullest}, ") for text in _texts(plot_frame(run)))


def test_plot_frame_draws_an_array_with_the_peaks_that_are_found_in_it(run):
    frames = braggflow.open_frames(run.info["dataset"]["path"])["frames"]
    image = frames.sel(frame=1)
    peaks = braggflow.find_peaks(image)
    assert f"{peaks.sizes['peak']} peaks" in _texts(plot_frame(image))
    assert _texts(plot_frame(image.values, peaks=peaks)) == _texts(plot_frame(image))
    assert f"{run.peaks.sel(peak_frame=1).sizes['peak']} peaks" in _texts(plot_frame(image, 1, peaks=run.peaks))


def test_a_notebook_shows_the_picture_without_pyplot(run):
    assert plot_frame(run, 1)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (5, "frame 5: is not in the run, whose 5 frames are 0 to 4"),
        (3, "frame 3: could not be processed by the run (run.json says why); choose another"),
    ],
)
def test_a_frame_that_cannot_be_shown_is_refused_with_those_that_can(run, number, said):
    with pytest.raises(InputError, match=re.escape(said)):
        plot_frame(run, number)


def test_what_is_no_frame_and_what_is_no_table_of_peaks_is_refused():
    with pytest.raises(
        InputError, match=re.escape("array: has shape (2, 3, 4) and dtype float64; must be numbers (y, x)")
    ):
        plot_frame(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="peaks: has no column 'snr'"):
        frame_figure(_seen(), _peaks((5, 5)).drop_vars("snr"))


def test_steps_between_frames_are_said(tmp_path):
    source = write_frames(tmp_path / "scan.zarr", simulate(5))
    config = resolve_config({"frames": {"step": 2}, **SETTINGS})
    run = write_run(tmp_path / "run", source, config)
    with pytest.raises(InputError, match="whose 3 frames are 0 to 4 in steps of 2"):
        plot_frame(run, 1)


def test_a_run_without_a_processed_frame_has_none_to_draw(tmp_path):
    source = write_frames(tmp_path / "scan.zarr", simulate(2))
    run = write_run(tmp_path / "run", source, resolve_config(SETTINGS), failed=[0, 1])
    with pytest.raises(InputError, match="no frame of the run could be processed"):
        plot_frame(run)
