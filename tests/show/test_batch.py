"""One page on many data sets, whatever state they are in and whatever they are called."""

import json
import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from braggflow.cli import app
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import Alarm, RunFolder, append_outcome, open_peaks, read_run_info, write_run_info
from braggflow.show import write_batch_report
from braggflow.show.report.batch import HIGH, WIDE, _sparkline
from tests.show.run_folders import simulate, write_frames, write_run

SETTINGS = {"detect": {"minval": 60.0, "minscore": 30.0}}
HOSTILE = "<img src=x onerror=alert(1)> \"'&{{ 7*7 }}#a?b%20"


class Page(HTMLParser):
    """The rows of the page: each a list of cells, and the links in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A folder with runs in every state, its page, and that page's rows by the name of the data set."""
    folder = tmp_path_factory.mktemp("batch")
    source = write_frames(folder / "scan.zarr", simulate(5))
    out = folder / "runs"
    write_run(out / "good", source, resolve_config(SETTINGS))
    write_run(out / "partly", source, resolve_config(SETTINGS), failed=[1, 3])
    for name in (HOSTILE, "no table", "killed", "damaged", "changed"):
        shutil.copytree(out / "good", out / name)
    (out / "good" / "report.html").write_text("here")
    (out / HOSTILE / "report.html").write_text("here")
    shutil.rmtree(out / "no table" / "peaks.zarr")
    info = read_run_info(RunFolder(out / "killed"))
    write_run_info(RunFolder(out / "killed"), info | {"status": "running"})
    (out / "damaged" / "run.json").write_text("{")
    alarm = {"frame": 3, "cause": "beam lost", "told": "no beam <at all>"}
    check = {"verdict": "97.0 % found; sigma honest", "limit": {"recall": {"share": 0.97}}}
    write_run_info(RunFolder(out / "changed"), info | {"alarms": [alarm], "check": check})
    entry = {"path": "/data/bad.zarr", "status": "refused", "frames": 0, "frames_failed": 0, "peaks": 0, "seconds": 0.0}
    append_outcome(out, {**entry, "dataset": "refused one", "message": "bad.zarr: is <no> store"})
    page = write_batch_report(out)
    text = page.read_text("utf-8")
    rows = Page(text).rows
    named = {row[0]: row for row in rows[1:]}
    return out, text, named


def test_every_data_set_has_a_row_with_its_state(batch):
    out, text, rows = batch
    assert out / "batch.html" == write_batch_report(out)
    states = {name: re.match("[a-z]+", row[1])[0] for name, row in rows.items()}
    assert states == {
        **dict.fromkeys(("good", "no table", "changed", HOSTILE), "complete"),
        "partly": "partial",
        "killed": "stopped",
        "damaged": "damaged",
        "refused one": "refused",
    }
    assert "8 data sets: 4 complete, " in text
    assert "chunk <1> is missing" in rows["partly"][11]
    assert "bad.zarr: is <no> store" in rows["refused one"][11]
    assert "holds no peak table" in rows["no table"][11]


def test_counts_are_those_of_the_table(batch):
    out, _, rows = batch
    table = open_peaks(out / "good")
    n, frames = table.sizes["peak"], table.sizes["frame"]
    assert rows["good"][2:6] == [str(frames), "0", f"{n:,}", f"{n / frames:.1f}"]
    assert rows["good"][8] == f"{np.median(table['snr']):.3g}"
    assert rows["good"][9] == f"{100 * np.mean(table['flags'] != 0):.0f} %"
    assert rows["partly"][2:4] == ["5", "2"]
    assert rows["changed"][10:] == ["97.0 %", str(Alarm(3, "beam lost", "no beam <at all>"))]
    assert rows["refused one"][6:10] == ["", "", "", ""]


def test_links_are_relative_and_lead_to_the_reports_that_are_there(batch):
    out, text, _ = batch
    links = Page(text).links
    assert sorted(unquote(link) for link in links) == sorted([f"{HOSTILE}/report.html", "good/report.html"])
    assert all((out / unquote(link)).read_text() == "here" for link in links)
    assert not any(re.search(r"[^\w/.%~-]", link) for link in links)  # no scheme, question mark or fragment


def test_names_are_text_and_nothing_is_loaded(batch):
    _, text, rows = batch
    assert HOSTILE in rows
    assert "img" not in Page(text).elements
    assert text.count("<script") == 1
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_several_folders_make_one_page_in_the_folder_that_holds_them(batch, tmp_path):
    out, _, _ = batch
    for name in ("first", "second"):
        shutil.copytree(out / "good", tmp_path / name / "scan")
    page = write_batch_report([tmp_path / "first", tmp_path / "second" / "scan"])
    assert page == tmp_path / "batch.html"
    text = page.read_text("utf-8")
    assert sorted(Page(text).links) == ["first/scan/report.html", "second/scan/report.html"]
    assert [row[0] for row in Page(text).rows[1:]] == ["first/scan", "second/scan"]
    elsewhere = write_batch_report(tmp_path / "first", tmp_path / "second" / "page.html")
    assert Page(elsewhere.read_text("utf-8")).links == ["../first/scan/report.html"]


def test_a_run_that_is_given_twice_has_one_row(batch, tmp_path):
    out, _, _ = batch
    page = write_batch_report([out / "good", out / "good", out / "partly"], tmp_path / "page.html")
    assert len(Page(page.read_text("utf-8")).rows) == 1 + 2


def test_names_that_are_no_text_have_rows_and_links(batch, tmp_path):
    out, _, _ = batch
    name = os.fsdecode(b"scan\xff\x1b[2J")
    shutil.copytree(out / "good", tmp_path / name)
    text = write_batch_report(tmp_path).read_text("utf-8")
    assert "scan\\udcff\\x1b[2J" in unescape(text)
    assert Page(text).links == ["scan%FF%1B%5B2J/report.html"]


@pytest.mark.parametrize(
    "damage",
    [
        [],
        {"alarms": [{}]},
        {"check": []},
        {"check": {"limit": 7}},
        {"counts": None},
        {"check": {"limit": {"recall": {"share": "all"}}}},
    ],
)
def test_a_record_that_is_none_of_ours_stops_no_other(batch, tmp_path, damage):
    out, _, _ = batch
    for name in ("good", "odd"):
        shutil.copytree(out / "good", tmp_path / name)
    folder = RunFolder(tmp_path / "odd")
    if isinstance(damage, dict):
        write_run_info(folder, read_run_info(folder) | damage)
    else:
        folder.info.write_text(json.dumps(damage))
    assert len(Page(write_batch_report(tmp_path).read_text("utf-8")).rows) == 3


def test_the_command_makes_the_page_of_many_and_the_report_of_one(batch, tmp_path, monkeypatch):
    out, _, _ = batch
    shutil.copytree(out / "good", tmp_path / "runs" / "good")
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["report", "runs"])
    assert (said.exit_code, Path(said.stdout.strip()).name) == (0, "batch.html")
    for wrong, message in (
        (["report", "runs", "--frame", "1"], "--frame: goes with one run folder; given: runs"),
        (["report", "runs/good", "--out", "x.html"], "--out x.html: is of the page on several runs"),
        (["report", "runs", "nowhere"], "nowhere: holds no run"),
        (["report", "runs", "--out", "no/x.html"], "there is no folder no"),
    ):
        assert message in str(CliRunner().invoke(app, wrong).exception)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="runs: none is given"):
        write_batch_report([])
    with pytest.raises(InputError, match="holds no run"):
        write_batch_report(tmp_path)


@given(st.lists(st.one_of(st.just(np.nan), st.floats(0, 1e12)), max_size=350))
def test_a_sparkline_stays_within_its_picture_and_has_a_gap_where_nothing_is_known(values):
    drawn = _sparkline(np.array(values, np.float64), "peaks")
    if np.isnan(values).all():
        assert drawn is None
        return
    points = [tuple(map(float, point.split(","))) for stretch in drawn.points for point in stretch.split()]
    assert all(0 <= x <= WIDE and 0 <= y <= HIGH for x, y in points)
    assert 1 <= len(set(points)) <= 100
    if len(values) <= 100:
        known = np.isfinite(values)
        assert len(drawn.points) == np.count_nonzero(np.diff(np.concatenate([[False], known])) & known)
