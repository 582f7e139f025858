"""What `verify` compares, and what it says of damage, of what is gone, and of runs and stores of before."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import braggflow
from braggflow.cli.entry import app
from braggflow.errors import InputError
from braggflow.evaluate import verify
from braggflow.frames import CHECKSUMS
from braggflow.results import RunFolder, read_run_info, write_run_info
from tests.stores import make_store, spots

SETTINGS = {"output": {"report": False}, "locate": {"network": "none"}, "fit": {"deblend": False}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector file, the frames store that was made of it, and a run."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "scan.npy", np.stack([spots((64, 64), 3, seed=seed) for seed in range(3)]))
    store = braggflow.ingest([folder / "scan.npy"], folder / "scan.zarr", workers=1)
    (outcome,) = braggflow.run(SETTINGS, [store], out=folder / "runs")
    assert outcome.status == "complete"
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy, whose run knows the store by its old place."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def states(path: Path, **options: int) -> dict[str, tuple[str, str]]:
    (found,) = verify(path, **options)
    return {check.what: (check.state, check.said) for check in found.checks}


def test_a_run_that_is_whole_is_compared_with_everything(folder: Path) -> None:
    found = states(folder / "runs" / "scan", frames=2)
    assert {what for what, (state, _) in found.items() if state != "ok"} == {"report.html"}, found
    assert found["frames again"][1].startswith("2 frames searched again")
    assert "1 of 1 sources" in found["sources"][1]
    assert {*found} >= {"run.json", "run.yaml", "parts", "peaks.zarr", "store", "frames", "ingest"}


def test_other_numbers_in_a_table_are_found_by_doing_frames_again(folder: Path) -> None:
    run = folder / "runs" / "scan"
    from braggflow.frames import seal

    table = zarr.open_group(run / "peaks.zarr", mode="r+")
    table["y"][:] = np.asarray(table["y"][:]) + 1e-12
    seal(run / "peaks.zarr")
    write_run_info(RunFolder(run), read_run_info(RunFolder(run)))
    state, said = states(run, frames=3)["frames again"]
    assert state == "damaged"
    assert "y differ from the table" in said


def test_frames_that_are_not_those_that_were_ingested_are_found(folder: Path) -> None:
    store = folder / "scan.zarr"
    frames = zarr.open_array(store, path="frames", mode="r+")
    frames[1, 5, 5] += 1
    found = states(store)
    assert found["frames"][0] == "ok"
    assert found["ingest"] == ("damaged", "frames of scan.npy are not those that were ingested")
    assert found["sources"][0] == "ok"


def test_a_source_that_changed_or_is_gone_is_said(folder: Path) -> None:
    source = folder / "scan.npy"
    np.save(source, np.load(source) + 1)
    zarr.open_group(folder / "scan.zarr", mode="r+").attrs["source_folder"] = str(folder)
    (outcome,) = verify(folder / "scan.zarr")
    assert outcome.damaged  # an attribute was changed
    done = CliRunner().invoke(app, ["verify", str(folder / "scan.zarr"), "--accept"])
    assert done.exit_code == 1, done.output
    assert "holds other frames than were ingested" in done.output
    source.unlink()
    assert states(folder / "scan.zarr")["sources"][0] == "not checked"
    done = CliRunner().invoke(app, ["verify", str(folder / "scan.zarr"), "--json"])
    assert (done.exit_code, json.loads(done.output)[0]["damaged"]) == (0, False)


def test_a_store_of_before_and_one_of_others_are_read_and_said_not_to_be_guarded(tmp_path: Path, folder: Path) -> None:
    images = np.stack([spots((64, 64), 2, seed=1)])
    assert states(make_store(tmp_path / "b.zarr", images, chunk=1))["store"] == (
        "not checked",
        "not guarded by checksums",
    )
    group = zarr.open_group(folder / "scan.zarr", mode="r+")
    del group.attrs[CHECKSUMS]
    group.attrs["format_version"] = 1
    assert states(folder / "scan.zarr")["store"] == ("not checked", "not guarded by checksums")


def test_what_is_neither_run_nor_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run and no frames store"):
        verify(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "x")


@pytest.mark.parametrize("damage", ["run.json", "run.yaml", "peaks.zarr/y/c/0", "peaks.zarr/zarr.json", "part"])
def test_a_run_mends_what_was_damaged_and_says_so(folder: Path, made: Path, damage: str) -> None:
    run = RunFolder(folder / "runs" / "scan")
    before = braggflow.open_peaks(run.path).load()
    file = next(iter(sorted(run.parts.iterdir()))) if damage == "part" else run.path / damage
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    (found,) = verify(run.path, frames=0)
    assert found.damaged
    (outcome,) = braggflow.run(SETTINGS, [made / "scan.zarr"], out=folder / "runs")
    assert outcome.status == "complete"
    assert file.name.split(".")[0] in outcome.message or "peaks.zarr" in outcome.message
    assert not verify(run.path, frames=0)[0].damaged
    after = braggflow.open_peaks(run.path).load()
    assert after.drop_attrs().identical(before.drop_attrs())
    (again,) = braggflow.run(SETTINGS, [made / "scan.zarr"], out=folder / "runs")
    assert (again.message, again.frames_processed) == ("", 0)


def test_a_plan_that_cannot_be_true_is_not_followed(folder: Path, made: Path) -> None:
    run = RunFolder(folder / "runs" / "scan")
    info = read_run_info(run)
    peaks = info["counts"]["peaks"]
    info["plan"][1][0] = info["plan"][0][0]  # as a record of before would pass with a digit changed
    write_run_info(run, info | {"status": "interrupted"})
    (outcome,) = braggflow.run(SETTINGS, [made / "scan.zarr"], out=folder / "runs")
    assert (outcome.status, outcome.peaks) == ("complete", peaks)
    assert "plan that cannot be true" in outcome.message


def test_a_damaged_record_whose_parts_are_of_another_run_is_refused(folder: Path, made: Path) -> None:
    run = RunFolder(folder / "runs" / "scan")
    run.info.write_text(run.info.read_text()[:-40])
    with pytest.raises(InputError, match=r"run\.json: is damaged.*output\.overwrite=true"):
        braggflow.run({**SETTINGS, "detect": {"minval": 30}}, [made / "scan.zarr"], out=folder / "runs")
