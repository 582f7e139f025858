import re
import shutil

import numpy as np
import pytest
import xarray as xr

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.peak_table import FLAG_MEANINGS, Flag
from braggflow.results import RunFolder, open_peaks, read_run_info
from braggflow.show import report as report_module
from braggflow.show import write_report
from braggflow.show.report import example_peaks
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    """Small pictures: the tests look at words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "DPI", 20)
        yield


def _pictures(text):
    return len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', text))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of which one frame failed, and the text of its report."""
    folder = tmp_path_factory.mktemp("written")
    source = write_frames(folder / "a<b>.zarr", simulate(5), saturation=1500)
    run = write_run(folder / "run", source, resolve_config(SETTINGS), failed=[3])
    return run, write_report(run).read_text(encoding="utf-8")


def test_report_is_one_file_that_loads_nothing_else(written):
    run, text = written
    assert not re.findall(r"<(script|link|iframe)|https?://|@import|url\(", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert not list(run.glob(".report*"))


def test_report_has_all_pictures_with_captions_that_name_their_frame(written):
    run, text = written
    assert _pictures(text) == 10
    counts = open_peaks(run)["peak_count"].values[[0, 1, 2, 4]]
    frames = np.array([0, 1, 2, 4])
    typical = frames[np.argsort(counts, kind="stable")[2]]
    fullest = frames[counts.argmax()]
    assert f"<figcaption>Frame {typical}: of the frames with peaks, the one with the median number of them" in text
    assert f"<figcaption>Frame {fullest}, the frame with the most peaks" in text
    assert "Crosses: frames that could not be processed" in text


def test_report_escapes_names_and_reasons(written):
    _, text = written
    assert "<h1>a&lt;b&gt;</h1>" in text
    assert "chunk &lt;1&gt; is missing" in text
    assert "<b>" not in text


def test_report_gives_counts_with_meanings_failures_settings_and_versions(written):
    run, text = written
    info = read_run_info(RunFolder(run))
    assert '<strong class="partial">partial</strong>' in text
    for flag in Flag:
        name, n = re.escape(str(flag.name)), info["counts"]["flags"][flag.name]
        assert re.search(rf"<td>{name}</td><td[^>]*>{n:,}</td><td[^>]*>[\d.]+%</td>", text)
        assert FLAG_MEANINGS[flag].replace("'", "&#x27;") in text
    assert f">{info['counts']['removed']['minscore']:,}</td><td>persistence not above detect.minscore" in text
    assert "1 frame could not be processed." in text
    assert "minval: 60.0" in text
    assert f"<td>zarr</td><td>{info['versions']['zarr']}</td>" in text
    assert "3.3 frames/s" in text  # 5 frames in 1.5 s


def test_the_code_that_the_report_shows_works(written):
    _, text = written
    code = re.findall(r"<pre>(import braggflow.*?)</pre>", text, re.DOTALL)[0].replace("&#x27;", "'")
    exec(code.replace("&quot;", '"'), {})


def test_many_failures_are_counted_and_the_first_are_listed(tmp_path):
    source = write_frames(tmp_path / "many.zarr", np.zeros((60, 16, 16), np.uint16))
    text = write_report(write_run(tmp_path / "run", source, resolve_config(SETTINGS), failed=range(60))).read_text(
        "utf-8"
    )
    assert "60 frames could not be processed. The first 50 are:" in text
    assert ">49</td><td>FileNotFoundError" in text
    assert ">50</td><td>FileNotFoundError" not in text
    assert "No frame could be processed, so there is none to show." in text


def test_a_run_without_a_peak_has_a_report(tmp_path):
    source = write_frames(tmp_path / "empty.zarr", np.full((3, 24, 32), 7, np.uint16))
    text = write_report(write_run(tmp_path / "run", source, resolve_config(SETTINGS))).read_text("utf-8")
    assert "Frame 1: the middle of the series, in which no frame has a peak." in text
    assert "No peak was found" in text
    assert _pictures(text) == 2


def test_one_frame_without_network_or_fits_has_a_report(tmp_path):
    source = write_frames(tmp_path / "one.zarr", simulate(1))
    config = resolve_config({**SETTINGS, "fit": {"fraction": 0.0}})
    text = write_report(write_run(tmp_path / "run", source, config, network=False)).read_text("utf-8")
    assert "No peak has both a network's and a fit's position" in text
    assert "<td>centroid</td>" in text
    assert "<figcaption>Example patches" in text


def test_a_binned_run_with_local_background_says_so(tmp_path):
    source = write_frames(tmp_path / "binned.zarr", simulate(2).astype(np.float32))
    config = resolve_config({"frames": {"bin": 2}, "detect": {"minval": 60.0, "minscore": 30.0, "background": "local"}})
    text = write_report(write_run(tmp_path / "run", source, config)).read_text("utf-8")
    assert "2 × 2 pixels are summed, its own local background is subtracted" in text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda source: shutil.rmtree(source), "does not exist"),
        (lambda source: shutil.rmtree(source / "frames" / "c"), "is missing"),
        (lambda source: write_frames(source, np.ones((4, 8, 8), np.uint16)), "is not the one that the run saw (shape"),
    ],
)
def test_where_frames_cannot_be_read_a_sentence_stands_for_their_pictures(tmp_path, damage, said):
    source = write_frames(tmp_path / "lost.zarr", simulate(3))
    run = write_run(tmp_path / "run", source, resolve_config(SETTINGS))
    damage(source)
    text = write_report(run).read_text("utf-8")
    assert "The pictures of frames are left out" in text
    assert said in text
    assert _pictures(text) == 5


def test_a_large_table_is_sampled_and_the_report_says_so(tmp_path, monkeypatch):
    source = write_frames(tmp_path / "large.zarr", simulate(4))
    run = write_run(tmp_path / "run", source, resolve_config(SETTINGS))
    n = open_peaks(run).sizes["peak"]
    monkeypatch.setattr(report_module, "SAMPLE_PEAKS", 10)
    text = write_report(run).read_text("utf-8")
    assert f"From {len(range(0, n, -(-n // 10)))} peaks spread evenly over the table." in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)


def test_a_run_that_did_not_finish_has_no_report(tmp_path):
    source = write_frames(tmp_path / "cut.zarr", np.zeros((1, 16, 16), np.uint16))
    run = write_run(tmp_path / "run", source, resolve_config(SETTINGS))
    shutil.rmtree(run / "peaks.zarr")
    with pytest.raises(InputError, match="holds no peak table"):
        write_report(run)


def test_example_peaks_are_what_their_names_say():
    n = 101
    width = np.linspace(1, 5, n).astype(np.float32)
    ratio = np.random.default_rng(0).permutation(np.linspace(1, 3, n)).astype(np.float32)
    disagreement = np.full(n, np.nan, np.float32)
    disagreement[[7, 30]] = 0.5, 4.0
    flags = np.zeros(n, np.uint16)
    flags[30] = Flag.overlap
    sample = xr.Dataset(
        {
            "fwhm_major": ("peak", width * np.sqrt(ratio)),
            "fwhm_minor": ("peak", width / np.sqrt(ratio)),
            "snr": ("peak", np.arange(n)[::-1].astype(np.float32)),
            "flags": ("peak", flags),
            "disagreement": ("peak", disagreement),
        }
    )
    chosen = example_peaks(sample)
    assert (chosen["sharp"], chosen["broad"]) == (5, 95)
    assert ratio[chosen["elongated"]] == pytest.approx(2.9, abs=0.05)
    assert chosen["overlap"] == chosen["worst disagreement"] == 30
    assert chosen["faint"] == 94
    assert not {"edge", "saturated"} & set(chosen)
