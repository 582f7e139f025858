import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
import yaml
from jinja2 import UndefinedError, meta

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.peak_table import FLAG_MEANINGS, Flag
from braggflow.results import RunFolder, open_peaks, read_run_info, write_run_info
from braggflow.show import report as report_module
from braggflow.show import write_report
from braggflow.show.report import TEMPLATE, example_peaks, page_contents, page_environment
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}
#: What markup, an attribute or the template engine would take for its own.
HOSTILE = "<script>alert(1)</script> \"quoted' {{ 7*7 }} {% include 'report.css' %} {# &lt; #}"


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    """Small pictures: the tests look at words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "DPI", 20)
        yield


def _pictures(text):
    return len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', text))


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
    assert "script" not in {element[0] for element in seen.elements}
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
    with open_peaks(run.path) as table:
        contents = page_contents(run, read_run_info(run), table)
    source, _, _ = environment.loader.get_source(environment, TEMPLATE)
    assert meta.find_undeclared_variables(environment.parse(source)) == set(contents)
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
