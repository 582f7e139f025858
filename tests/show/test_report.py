import base64
import hashlib
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from importlib import resources
from io import BytesIO

import numpy as np
import pytest
import xarray as xr
import yaml
from jinja2 import UndefinedError, meta
from matplotlib.colors import to_rgb
from PIL import Image

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.peak_table import FLAG_MEANINGS, Flag, Method
from braggflow.pipeline import find_peaks
from braggflow.results import (
    RunFolder,
    SearchedFrame,
    open_peaks,
    open_run_frames,
    read_run_frame,
    read_run_info,
    write_run_info,
)
from braggflow.show import run_figures, shown_run, write_report
from braggflow.show.colours import IGNORED
from braggflow.show.report import pictures, zoom
from braggflow.show.report.page import SCRIPT, TEMPLATE, page_contents, page_environment
from braggflow.show.run_figures import example_peaks
from braggflow.simulate import simulate_series
from tests.patience import PATIENCE
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}
#: What markup, an attribute or the template engine would take for its own.
HOSTILE = "<script>alert(1)</script> \"quoted' {{ 7*7 }} {% include 'report.css' %} {# &lt; #}"


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    """Small pictures: the tests look at words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "DPI", 20)
        yield


def _pictures(text):
    return len(re.findall(r'<img width="\d+" alt="[^"]+" src="data:image/png;base64,', text))


def _code(text):
    return unescape(re.findall(r"<pre>(import braggflow.*?)</pre>", text, re.DOTALL)[0])


class _Page(HTMLParser):
    """What a browser makes of a page: the elements with the names of their attributes, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.texts += [value for _, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, words):
        return sum(words in text for text in self.texts)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of which one frame failed, and the text of its report."""
    folder = tmp_path_factory.mktemp("written")
    source = write_frames(folder / "a<b>.zarr", simulate(5), saturation=1500)
    run = write_run(folder / "run", source, resolve_config(SETTINGS), failed=[3])
    return run, write_report(run).read_text(encoding="utf-8")


def test_report_is_one_file_that_loads_nothing_else(written):
    run, text = written
    assert not re.findall(r"<(link|iframe)|https?://|@import|url\(", text)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert not list(run.glob(".report*"))


def test_only_the_script_of_the_report_itself_may_run(written):
    _, text = written
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == resources.files("braggflow.show.report").joinpath("templates", SCRIPT).read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in unescape(policy)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in unescape(policy)


def _zoomed(text):
    """The frames that can be zoomed: their pictures, and what each of their marks says."""
    for svg in re.findall(r'<svg width="\d+" viewBox="-0.5[^>]*>.*?</svg>', text, re.DOTALL):
        (png,) = re.findall(r'href="data:image/png;base64,([^"]*)"', svg)
        circle = r'<circle class="(\w+)( flagged)?" cx="([^"]*)" cy="([^"]*)"[^>]*><title>(.*?)</title>'
        yield Image.open(BytesIO(base64.b64decode(png))), re.findall(circle, svg, re.DOTALL)


def test_a_frame_can_be_zoomed_to_its_pixels_and_each_of_its_peaks_says_what_it_is(written):
    run, text = written
    typical, fullest = _zoomed(text)
    table = open_peaks(run)
    number = int(re.search(r"<figcaption>Frame (\d+) with its [\d,]+ peaks, to zoom into", text)[1])
    peaks = table.sel(peak_frame=number).load()
    image, marks = typical
    assert image.size == (128, 96)
    assert len(marks) == peaks.sizes["peak"] < len(fullest[1])
    for i, (method, flagged, x, y, told) in enumerate(marks):
        peak = peaks.isel(peak=i)
        assert (float(y), float(x)) == (round(float(peak["y"]), 2), round(float(peak["x"]), 2))
        assert method == Method(int(peak["method"])).name
        assert bool(flagged) == bool(peak["flags"] != 0)
        assert f"y {float(peak['y']):.2f} ± {float(peak['y_std']):.2f}, x" in unescape(told)
        assert f"SNR {float(peak['snr']):.3g}, " in told
        assert told.endswith(", ".join(str(flag.name) for flag in Flag if peak["flags"] & flag) or method)


def test_greys_of_a_zoomed_frame_rise_with_its_counts_and_ignored_pixels_are_blue(written):
    run, text = written
    number = int(re.search(r"<figcaption>Frame (\d+) with its [\d,]+ peaks, to zoom into", text)[1])
    seen = read_run_frame(open_run_frames(RunFolder(run)), number)
    image, _ = next(_zoomed(text))
    colours, ignored = np.asarray(image.convert("RGB")).astype(int), ~np.isfinite(seen.searched)
    assert ignored[-2:].all()
    assert (colours[ignored] == np.round(np.array(to_rgb(IGNORED)) * 255)).all()
    greys = colours[..., 0][~ignored]
    assert (np.diff(greys[np.argsort(seen.searched[~ignored], kind="stable")]) <= 0).all()
    assert greys.max() - greys.min() > 200


@pytest.mark.parametrize("noise", [3.0, 3000.0])
def test_a_large_frame_of_noise_stays_small_and_its_caption_says_what_was_left_out(noise, monkeypatch):
    monkeypatch.setattr(zoom, "MOST_BYTES", 20_000)
    counts = np.random.default_rng(0).poisson(noise, (512, 512)).astype(np.float32)
    counts[100:103, 200:203] += 50 * noise
    seen = SearchedFrame(counts, np.zeros(counts.shape, bool), counts, np.zeros((), np.float32), 1)
    peaks = find_peaks(counts, network="none")
    shown = zoom.zoomed_frame(seen, peaks, "Frame 7")
    assert len(shown.png) < 1.5 * 20_000
    assert "of the background's are drawn as one" in shown.caption
    pixels = np.asarray(Image.open(BytesIO(shown.png)))
    assert pixels[101, 201] > pixels[:90].max()


def test_of_very_many_peaks_the_best_have_marks_and_the_caption_says_so(written, monkeypatch):
    monkeypatch.setattr(zoom, "MOST_PEAKS", 3)
    run, _ = written
    peaks = open_peaks(run).sel(peak_frame=4).load()
    shown = zoom.zoomed_frame(read_run_frame(open_run_frames(RunFolder(run)), 4), peaks, "Frame 4")
    assert f"Frame 4 with the 3 of its {peaks.sizes['peak']} peaks of the highest SNR" in shown.caption
    best = peaks.isel(peak=np.argsort(-peaks["snr"].values)[:3])
    assert sorted(mark.y for mark in shown.marks) == sorted(best["y"].values)


def test_report_has_all_pictures_with_captions_that_name_their_frame(written):
    run, text = written
    assert _pictures(text) == 12
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


def _run_of(folder, word):
    """A run with `word` in its data set's name, its paths, its failure's reason, its versions and its status."""
    source = write_frames(folder / word / "frames.zarr", simulate(3))
    background = folder / word / "background.npy"
    np.save(background, np.zeros((96, 128), np.float32))
    run = RunFolder(write_run(folder / word / "run", source, resolve_config(SETTINGS), failed=[1]))
    settings = yaml.safe_load(run.settings.read_text())
    settings["detect"]["background"] = str(background)
    run.settings.write_text(yaml.safe_dump(settings, width=1000))
    info = read_run_info(run)
    info["status"] = info["written"] = info["dataset"]["name"] = info["failures"][0]["reason"] = word
    info["versions"] |= {"braggflow": word, word: "1.0"}
    write_run_info(run, info)
    return run.path


@pytest.mark.parametrize("readable", [True, False])
def test_hostile_words_are_shown_as_text_never_markup_and_never_evaluated(tmp_path, readable):
    texts = {}
    for word in (HOSTILE, "plain"):
        run = _run_of(tmp_path, word)
        if not readable:
            shutil.rmtree(tmp_path / word / "frames.zarr")
        texts[word] = write_report(run).read_text("utf-8")
    seen, expected = _Page(texts[HOSTILE]), _Page(texts["plain"])
    assert seen.elements == expected.elements
    assert [element for element in seen.elements if element[0] == "script"] == [("script",)]
    for words in (
        "{}",  # heading, status and its class, date, reason, version
        "{}: Bragg peaks",  # title
        "Bragg peaks by braggflow {}; the run is ",
        f"{tmp_path}/{{}}/frames.zarr",
    ):
        assert seen.texts.count(words.format(HOSTILE)) == expected.texts.count(words.format("plain")) > 0
    assert seen.count("are left out, for these cannot be read now") == (not readable)
    assert seen.count(f"{tmp_path / HOSTILE}/background.npy is subtracted") == 2 * readable  # alt and caption
    exec(_code(texts[HOSTILE]), {})


def test_the_template_uses_what_python_gives_no_more_and_no_less(written):
    run = RunFolder(written[0])
    environment = page_environment()
    contents = page_contents(shown_run.shown_run(run.path), read_run_info(run), frames=[])
    used = set()
    for part in (TEMPLATE, "report.css", SCRIPT):
        source, _, _ = environment.loader.get_source(environment, part)
        used |= meta.find_undeclared_variables(environment.parse(source))
    assert used == set(contents)
    template = environment.get_template(TEMPLATE)
    for name in contents:
        with pytest.raises(UndefinedError, match=name):
            template.render({key: value for key, value in contents.items() if key != name})


def test_report_gives_counts_with_meanings_failures_settings_and_versions(written):
    run, text = written
    info = read_run_info(RunFolder(run))
    assert '<strong class="partial">partial</strong>' in text
    for flag in Flag:
        name, n = re.escape(str(flag.name)), info["counts"]["flags"][flag.name]
        assert re.search(rf"<td>{name}</td><td[^>]*>{n:,}</td><td[^>]*>[\d.]+%</td>", text)
        assert FLAG_MEANINGS[flag] in unescape(text)
    assert f">{info['counts']['removed']['minscore']:,}</td><td>persistence not above detect.minscore" in text
    assert "1 frame could not be processed." in text
    assert "minval: 60.0" in text
    assert f"<td>zarr</td><td>{info['versions']['zarr']}</td>" in text
    assert "3.3 frames/s" in text  # 5 frames in 1.5 s


def test_the_code_that_the_report_shows_works(written):
    _, text = written
    exec(_code(text), {})


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
    assert _pictures(text) == 3


def test_one_frame_without_network_or_fits_has_a_report(tmp_path):
    source = write_frames(tmp_path / "one.zarr", simulate(1))
    config = resolve_config({**SETTINGS, "fit": {"fraction": 0.0}})
    text = write_report(write_run(tmp_path / "run", source, config, network=False)).read_text("utf-8")
    assert "No peak has both a network's and a fit's position" in text
    assert "<td>centroid</td>" in text
    assert "<figcaption>Examples of each kind of peak" in text


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
    monkeypatch.setattr(shown_run, "SAMPLE_PEAKS", 10)
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
    assert chosen["near another peak"] == chosen["network and fit furthest apart"] == 30
    assert chosen["faint"] == 94
    assert not {"at the frame's edge", "saturated"} & set(chosen)


def _cut(text, start, stop):
    return text[text.index(start) : text.index(stop, text.index(start))]


@pytest.fixture(scope="module")
def operando(tmp_path_factory):
    """A run over a cycle: the time rises, the voltage turns back, of the exposure there is one value."""
    folder = tmp_path_factory.mktemp("operando")
    coords = {
        "time": (np.arange(5) * 30.0, {"units": "s"}),
        "voltage": ([3.1, 3.6, 4.1, 3.7, 3.2], {"units": "V"}),
        "exposure": (np.ones(5), {}),
    }
    source = write_frames(folder / "cycle.zarr", simulate(5), coords=coords)
    return write_run(folder / "run", source, resolve_config(SETTINGS), failed=[3])


def test_the_series_is_drawn_against_its_time_or_what_is_asked_for(operando):
    assert "Peaks in each frame against time (s), frame numbers along the upper border." in write_report(
        operando
    ).read_text("utf-8")
    text = write_report(operando, axis="voltage").read_text("utf-8")
    assert "Peaks in each frame against voltage (V), in the order of the frames" in text
    assert "coloured by voltage (V)" in text
    assert "Peaks in each frame. Crosses" in write_report(operando, axis="frame").read_text("utf-8")


def test_frames_that_are_chosen_are_shown_in_place_of_the_typical_one(operando):
    text = write_report(operando, frames=[2, 0]).read_text("utf-8")
    for number in (2, 0):
        assert f"<figcaption>Frame {number}. Left as recorded" in text
        assert f"<figcaption>Frame {number} with its peaks at the positions to use" in text
    assert "median number" not in text
    assert "peaks = run.peaks.sel(peak_frame=2)" in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"frames": [7]}, "frame 7: is not in the run, whose 5 frames are 0 to 4"),
        ({"frames": [3]}, "frame 3: could not be processed by the run"),
        ({"axis": "exposure"}, "axis exposure: is no numeric coordinate of the run's frames that varies; "),
    ],
)
def test_a_frame_or_an_axis_that_is_not_there_is_refused_and_the_report_is_left_as_it_was(operando, asked, said):
    before = write_report(operando).read_bytes()
    with pytest.raises(InputError, match=re.escape(said)):
        write_report(operando, **asked)
    assert (operando / "report.html").read_bytes() == before


def test_projections_say_over_how_many_frames_and_leave_out_those_that_failed(operando):
    text = write_report(operando).read_text("utf-8")
    assert "Projections over all 4 frames: the highest count of each pixel" in text
    n = open_peaks(operando).sizes["peak"]
    assert f"All {n} peaks of the series on its highest counts (drawn pale), coloured by time (s)." in text


def test_of_many_peaks_a_sample_is_drawn_and_the_caption_says_so(operando, monkeypatch):
    monkeypatch.setattr(run_figures, "DOTS", 10)
    n = open_peaks(operando).sizes["peak"]
    shown = len(range(0, n, -(-n // 10)))
    assert f"{shown} peaks, spread evenly over the {n} peaks of the series" in write_report(operando).read_text("utf-8")


def test_warnings_stand_before_all_else_and_the_rate_is_that_of_the_processing(tmp_path):
    source = write_frames(tmp_path / "scan.zarr", simulate(3))
    run = RunFolder(write_run(tmp_path / "run", source, resolve_config(SETTINGS)))
    assert 'class="warnings"' not in write_report(run.path).read_text("utf-8")
    info = read_run_info(run)
    info["warnings"] = ["frame 1 has <many> peaks", "the mask is empty"]
    info["seconds"] |= {"wall": 20.0, "processing": 0.5}
    info["counts"]["frames_processed"] = 2
    write_run_info(run, info)
    text = write_report(run.path).read_text("utf-8")
    box = _cut(text, '<div class="warnings">', "</div>")
    assert box.count("<p>") == 2
    assert "frame 1 has &lt;many&gt; peaks" in box
    assert text.index(box) < text.index("<table>")
    assert "20.0 s (4.0 frames/s)" in text


def test_the_page_follows_a_dark_screen(written):
    style = _cut(written[1], "<style>", "</style>")
    dark = _cut(style, "@media (prefers-color-scheme: dark)", "\n}")
    assert set(re.findall(r"--[a-z-]+(?=:)", dark)) == set(re.findall(r"var\((--[a-z-]+)\)", style))


def test_the_report_of_large_frames_is_a_file_of_under_3_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DPI", 200)
    simulate_series(tmp_path / "large.zarr", n_frames=2, shape=(2048, 2048), peaks=300)
    run = write_run(tmp_path / "run", tmp_path / "large.zarr", resolve_config({}))
    report = write_report(run)
    assert _pictures(report.read_text("utf-8")) >= 10
    assert report.stat().st_size < 3_000_000


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_in_a_browser_the_script_runs_under_the_policy_of_the_page(written):
    run, _ = written
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom")
    command = ["chromium", *options, (run / "report.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert seen.count('class="buttons"') == seen.count('class="zoom"') > 10
    assert "Content-Security-Policy" in seen
    circles = re.findall(r"<circle [^>]*></circle>", seen)  # their titles are told by the script
    assert len(circles) > 10
