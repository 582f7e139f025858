"""A run opened as one object; runs of earlier versions are read."""

import shutil
from pathlib import Path

import pytest

from braggflow import open_peaks, open_run, provenance
from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.results import RunFolder, data_set_statuses, read_run_info, write_run_info
from braggflow.show import write_report
from tests.show.run_folders import simulate, write_frames, write_run

#: Made by version 0.1.0: four frames of 96², with keys that have other names now.
OLD_RUN = Path(__file__).parent / "run_of_0_1_0.zip"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    shutil.unpack_archive(OLD_RUN, tmp_path)
    return tmp_path / "scan"


def test_a_run_shows_its_state_and_gives_its_settings_table_and_report(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "scan.zarr", simulate(2))
    config = resolve_config({"detect": {"minval": 60, "minscore": 40}})
    folder = write_run(tmp_path / "out", source, config)
    run = open_run(folder)
    assert (run.path, run.status, run.config) == (folder, "complete", config)
    assert run.peaks.identical(open_peaks(folder))
    assert run.report == folder / "report.html"
    assert repr(run).startswith(f"<braggflow run out: complete, 2 frames (0 failed), {run.peaks.sizes['peak']} peaks, ")


def test_a_notebook_shows_a_run_as_a_table_of_text(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "scan.zarr", simulate(3))
    folder = write_run(
        tmp_path / "<b>out", source, resolve_config({"detect": {"minval": 60, "minscore": 40}}), failed=[1]
    )
    alarm = {"frame": 2, "cause": "beam lost", "told": "no beam & no peaks"}
    write_run_info(RunFolder(folder), read_run_info(RunFolder(folder)) | {"alarms": [alarm]})
    page = open_run(folder)._repr_html_()
    for shown in (
        "&lt;b&gt;out",
        "partial",
        "3 (1 failed)",
        "frame 1: FileNotFoundError: chunk &lt;1&gt;",
        "no beam &amp; no",
    ):
        assert shown in page
    assert "<a " not in page
    (folder / "report.html").write_text("here")
    assert f'<a href="{(folder / "report.html").as_uri()}">report</a>' in open_run(folder)._repr_html_()
    made = provenance(folder)._repr_html_()
    assert made.count("<tr>") == len(str(provenance(folder)).splitlines())
    assert "<b>" not in made


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path)


def test_a_run_of_version_0_1_0_is_read(old_run: Path) -> None:
    run = open_run(old_run)
    assert run.info["versions"]["braggflow"] == "0.1.0"
    assert run.config.frames.counts_per_photon == 1.5
    assert (run.config.patches.neighbours, run.config.patches.flag_snr_below) == ("mask", 4)
    assert (run.config.locate.network, run.config.locate.position) == ("compact", "network")
    assert run.peaks.sizes == {"peak": 21, "frame": 4}
    (state,) = data_set_statuses(old_run)
    assert (state.name, state.status, state.peaks) == ("scan", "complete", 21)
    text = write_report(old_run).read_text("utf-8")
    assert "scan" in text
    assert "these cannot be read now" in text  # its frames are not here
