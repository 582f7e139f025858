"""`braggflow inspect`, and the same text at the head of `ingest` and `run`."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from braggflow.cli import app
from braggflow.cli.series_table import run_head
from braggflow.cli.terminal import open_console
from braggflow.convert import ingest
from braggflow.errors import InputError
from braggflow.frames import open_frames
from tests.convert.conversions import series
from tests.formats.writers import edf_frames, eiger, ge, marccd, npy, npz, tiff_pages
from tests.stores import make_store, spots

COMPLETE, PARTIAL = 0, 3


def called(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data = np.stack([spots((64, 80), 3, seed=seed) for seed in range(6)])
    with h5py.File("scan.h5", "w") as file:
        file.create_dataset("entry/data/data", data=data, chunks=(1, 64, 80), compression="gzip")
        file["entry/omega"] = np.arange(6) * 0.5
        file["entry/omega"].attrs["units"] = "deg"
    for index, frame in enumerate(data):
        np.save(f"f_{index}.npy", frame)
    return tmp_path


def test_a_table_of_two_columns_fits_80_columns_and_a_log(files: Path) -> None:
    result = called("inspect", "scan.h5", "--coord", "omega=/entry/omega")
    assert result.exit_code == COMPLETE
    lines = result.stdout.splitlines()
    assert lines[:4] == [
        "scan.h5",
        "  frames       6 frames of 64 × 80 pixels (y, x), uint16",
        "  read from    HDF5: scan.h5:/entry/data/data, 0.037 MB".replace(
            "0.037", re.search(r"([\d.]+) MB", result.stdout)[1]
        ),
        "  chunks       1 × 64 × 80, gzip-4",
    ]
    assert "  coordinates  omega 0 to 2.5 deg" in lines
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)


def test_many_files_are_named_by_the_first_and_the_last(files: Path) -> None:
    assert "f_0.npy ... f_5.npy, 6 sources" in called("inspect", "f_*.npy").stdout


MADE = {
    "EIGER master": eiger,
    "TIFF, pages": tiff_pages,
    "EDF, several frames": edf_frames,
    "GE": ge,
    "MarCCD": marccd,
    "NumPy array": npy,
    "NumPy archive": npz,
    "frames store": lambda folder, data: ingest([npy(folder, data)], folder / "a.zarr", workers=1),
    "Zarr store of others": lambda folder, data: make_store(folder / "b.zarr", data, chunk=1),
}


@pytest.mark.parametrize("kind", MADE)
def test_the_documents_say_what_is_read_of_each_format(kind: str, tmp_path: Path) -> None:
    said = called("inspect", MADE[kind](tmp_path, series(5))).stdout
    joined = " ".join(said.partition("read from")[2].partition("\n  mask")[0].partition("\n  chunks")[0].split())
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    assert f"| {kind} | `{re.sub(r', [0-9.]+ MB', '', joined)}` |" in page


@pytest.mark.parametrize("source", ["pilatus300k/in16c_010001.cbf", "snase_ccd/*.img", "zr_ge2/zr_ge2.h5"])
def test_the_documents_quote_what_is_said_of_real_frames(
    source: str, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, name = source.partition("/")
    monkeypatch.chdir(real_data / folder)
    said = "".join(f"    {line}" for line in called("inspect", name).stdout.splitlines(keepends=True))
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    assert said in page


def test_json_is_one_document_and_nothing_else(files: Path) -> None:
    make_store(Path("a.zarr"), np.stack([spots((64, 80), 3, seed=0)]), chunk=1)
    result = called("inspect", "scan.h5", "a.zarr", "--json")
    assert [(facts["name"], facts["frames"]) for facts in json.loads(result.stdout)] == [("scan.h5", 6), ("a.zarr", 1)]
    assert result.stderr == ""


def test_what_is_no_series_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match=r"source .*gone\.h5: does not exist"):
        called("inspect", "gone.h5")


@pytest.fixture
def with_holes(files: Path) -> Path:
    """A scan of six frames that ended before the third."""
    with h5py.File("scan.h5", "w") as file:
        frames = file.create_dataset("entry/data/data", (6, 64, 80), "u2", chunks=(1, 64, 80))
        frames[:2] = np.stack([spots((64, 80), 3, seed=seed) for seed in range(2)])
    return files


def test_missing_frames_are_told_before_and_after_and_end_with_3(with_holes: Path) -> None:
    told = "4 of 6 frames are missing: 2-5 (never written to scan.h5:/entry/data/data)."
    inspected = called("inspect", "scan.h5")
    assert inspected.exit_code == PARTIAL
    assert told in " ".join(inspected.stdout.split())
    made = called("ingest", "scan.h5", "--out", "a.zarr", "--workers", 1)
    assert made.exit_code == PARTIAL
    assert told in " ".join(made.stderr.split())
    assert f"{told} A run lists them as failed." in made.stdout
    assert called("inspect", "a.zarr").exit_code == PARTIAL
    with pytest.raises(InputError, match="--require-complete: 4 of 6 frames"):
        called("ingest", "scan.h5", "--out", "b.zarr", "--workers", 1, "--require-complete")
    assert not Path("b.zarr").exists()
    called("config", "init", "c.yaml")
    with pytest.raises(InputError, match=r"frames\.require_complete: 4 of 6 frames were never written"):
        called("run", "c.yaml", "a.zarr", "--require-complete", "--set", "locate.network=none", "--workers", 1)


def test_a_conversion_is_headed_by_what_inspect_shows(files: Path) -> None:
    inspected = called("inspect", "scan.h5").stdout
    made = called("ingest", "scan.h5", "--out", "a.zarr", "--workers", 1)
    assert made.exit_code == COMPLETE
    assert made.stderr.startswith(inspected)


def test_a_run_of_one_data_set_is_headed_by_all_that_is_known_one_of_many_by_a_few_lines(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspected = called("inspect", "scan.h5").stdout
    data = open_frames("scan.h5")
    run_head(open_console())(Path("scan.h5"), data, 1)
    assert capsys.readouterr().out == inspected
    show = run_head(open_console())
    for number in range(1000):
        show(Path(f"scan_{number}.h5"), data, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scan_0.h5: 6 × 64 × 80 uint16, no mask, coordinates: none"
    assert (len(lines), lines[-1]) == (6, "and 995 more data sets")
