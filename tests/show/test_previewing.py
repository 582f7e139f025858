"""A look at one frame: what a run will find in it, of any source, and nothing written but the picture."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import braggflow
from braggflow.config import RunConfig
from braggflow.peak_table import VARIABLES
from tests.patience import PATIENCE
from tests.stores import make_store, spots

SETTINGS = {"locate": {"network": "none"}, "output": {"report": False}}


@pytest.fixture(scope="module")
def images():
    return np.stack([spots((96, 80), 9, seed=seed) for seed in range(4)])


@pytest.fixture
def store(tmp_path, images):
    return make_store(tmp_path / "scan.zarr", images)


def assert_same_peaks(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in VARIABLES:
        if name != "parent":  # a row of the whole table
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"detect": {"minval": "6 sigma", "min_area": 3}},
        {"frames": {"start": 1, "bin": 2}},
        {"fit": {"model": "disk"}},
    ],
)
def test_its_peaks_are_those_of_a_run(tmp_path, store, sections):
    settings = {**SETTINGS, **sections}
    seen = braggflow.preview(store, settings, frame=2)
    ran = braggflow.run(settings, [store], out=tmp_path / "runs").peaks.sel(peak_frame=2)
    assert_same_peaks(seen.peaks, ran)
    assert seen.counts["peaks"] == seen.peaks.sizes["peak"] > 3
    assert not (tmp_path / "scan").exists()


def test_anything_that_ingest_reads_is_previewed(tmp_path, images):
    np.save(tmp_path / "scan.npy", images)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["entry/data/data"] = images
    (tmp_path / "many").mkdir()
    for k, image in enumerate(images):
        np.save(tmp_path / "many" / f"scan_{k}.npy", image)
    sources = [tmp_path / "scan.npy", tmp_path / "scan.h5", f"{tmp_path / 'scan.h5'}:/entry/data/data"]
    sources += [tmp_path / "many", str(tmp_path / "many" / "*.npy")]
    first, *others = [braggflow.preview(source, SETTINGS, frame=1) for source in sources]
    assert first.peaks.sizes["peak"] > 3
    for other in others:
        assert (other.frames, other.frame) == (4, 1)
        assert_same_peaks(other.peaks, first.peaks)
    in_memory = braggflow.preview(xr.DataArray(images, dims=("frame", "y", "x")), RunConfig(), frame=1)
    assert in_memory.peaks.sizes == first.peaks.sizes


def test_a_notebook_shows_picture_table_counts_and_warnings(store):
    seen = braggflow.preview(store, {**SETTINGS, "detect": {"minscore": 1e6}})
    assert seen.frame == 2
    page = seen._repr_html_()
    assert '<img style="max-width: 100%" src="data:image/png;base64,' in page
    assert "warning: no peak in " in page
    assert "warning: no peak in " in repr(seen)
    assert seen.rows() == []


def test_the_table_names_the_strongest_peaks_with_their_flags(store):
    seen = braggflow.preview(store, SETTINGS)
    rows = seen.rows()
    snr = [float(row[2]) for row in rows]
    assert snr == sorted(snr, reverse=True)
    strongest = seen.peaks.isel(peak=int(np.argmax(seen.peaks["snr"].values)))
    assert rows[0][0].startswith(f"{float(strongest['y']):.2f} ± ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scan.zarr", "--frame", "9"], "--frame 9: scan.zarr has no such frame; there are 4, 0 to 3"),
        (["scan.zarr", "--out", "picture.doc"], "--out picture.doc: must end in .png, .svg, .pdf"),
        (["nowhere.h5"], "nowhere.h5"),
        (["scan.zarr", "--set", "detect.minval=-1"], "detect.minval: -1 is not accepted"),
        (["a.yaml", "scan.zarr", "more"], "preview: a.yaml scan.zarr more are 3; must be SOURCE, or CONFIG SOURCE"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, store, words, message):
    done = preview(tmp_path, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("braggflow: ")
    assert message in done.stderr
    assert not list(tmp_path.glob("*.png"))


def test_the_command_writes_the_picture_and_says_where(tmp_path, store):
    (tmp_path / "c.yaml").write_text("locate: {network: none}\n")
    done = preview(tmp_path, "c.yaml", "scan.zarr", "--frame", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("scan.zarr, frame 3 of 4\n")
    assert done.stdout.endswith("picture: preview_scan_3.png\n")
    assert (tmp_path / "preview_scan_3.png").read_bytes().startswith(b"\x89PNG")
    assert set(done.stderr.splitlines()) <= {
        *("loading", "opening scan.zarr", "finding the peaks of scan.zarr", "drawing")
    }
    named = preview(tmp_path, "scan.zarr", "--out", "frame.svg")
    assert named.stdout.endswith("picture: frame.svg\n")
    assert b"<svg" in (tmp_path / "frame.svg").read_bytes()


def preview(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "braggflow", "preview", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
