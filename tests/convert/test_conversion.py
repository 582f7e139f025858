import errno
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
import tifffile
import zarr

import braggflow
from braggflow.convert import ingest
from braggflow.convert import units as units_module
from braggflow.convert.units import copy_unit
from braggflow.errors import InputError
from braggflow.frames import open_frames, unfinished_path
from braggflow.frames import store as store_module
from tests.convert.conversions import SHAPE, copied, refusal, series
from tests.formats.writers import (
    edf_frames,
    fabio_files,
    ge,
    h5_filter,
    marccd,
    npy,
    npz,
    tiff_pages,
    tiff_stack,
    with_omega,
)
from tests.patience import PATIENCE

# ---------------------------------------------------------------- masks, dark, flat, saturation


def test_mask_joins_detector_marks_user_file_and_pixel_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 2 * SHAPE[0] * SHAPE[1] * 4)
    data = series(5, "u4")
    data[:, 4] = 2**32 - 1
    data[1, 7, 7] = 2**32 - 1  # one frame only: saturated, not masked
    pixel_mask, own = np.zeros(SHAPE, "u4"), np.zeros(SHAPE, "u1")
    pixel_mask[0, 0], own[19, 29] = 8, 1
    tifffile.imwrite(tmp_path / "own.tif", own)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = data
        file["entry/detector/pixel_mask"] = pixel_mask
        file["entry/detector"].attrs["NX_class"] = "NXdetector"
    result = copied(tmp_path / "a.h5", tmp_path, mask=tmp_path / "own.tif")
    expected = np.zeros(SHAPE, bool)
    expected[4], expected[0, 0], expected[19, 29] = True, True, True
    np.testing.assert_array_equal(result["mask"], expected)
    assert result.attrs["mask_pixels"] == {"file": 1, "pixel_mask": 1, "detector marks": 30}
    assert result.attrs["saturation"] == 2**32 - 1
    assert result.attrs["saturation_source"].startswith("largest value of uint32")
    assert "masked_below" not in result.attrs


def test_any_negative_mark_of_signed_frames_is_handed_on(tmp_path: Path) -> None:
    data = series(3, "i4")
    data[:, 2, 3] = -1
    data[1, 5, 6] = -2
    result = copied(npy(tmp_path, data), tmp_path)
    assert np.argwhere(result["mask"].values).tolist() == [[2, 3]]
    assert result.attrs["masked_below"] == 0
    assert "saturation" not in result.attrs


def test_unsigned_frames_saturate_at_the_largest_value_of_their_type(tmp_path: Path) -> None:
    result = copied(npy(tmp_path, series()), tmp_path)
    assert (result.attrs["saturation"], result.attrs["saturation_source"]) == (65535, "largest value of uint16")
    assert "mask" not in result


def test_dark_and_flat_are_stored_from_image_or_hdf5(tmp_path: Path) -> None:
    fabio.edfimage.EdfImage(data=series(1)[0]).write(str(tmp_path / "dark.edf"))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["flat"] = np.full(SHAPE, 1.5, "f4")
    result = copied(npy(tmp_path, series()), tmp_path, dark=tmp_path / "dark.edf", flat=f"{tmp_path}/flat.h5:/flat")
    np.testing.assert_array_equal(result["dark"], series(1)[0])
    np.testing.assert_array_equal(result["flat"], np.full(SHAPE, 1.5))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("small.npy", r"--dark: .*small.npy has shape \(3, 4\), the frames are \(20, 30\)"),
        ("gone.npy", "--dark: .*gone.npy does not exist"),
        ("gone.h5:/dark", "--dark: .*gone.h5 does not exist"),
        ("broken.edf", "broken.edf.* cannot be read"),
    ],
)
def test_wrong_dark_is_refused(tmp_path: Path, extra: str, message: str) -> None:
    np.save(tmp_path / "small.npy", np.zeros((3, 4)))
    (tmp_path / "broken.edf").write_bytes(b"{ nothing")
    with pytest.raises(InputError, match=message):
        copied(npy(tmp_path, series()), tmp_path, dark=f"{tmp_path}/{extra}")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("writer", "dtype", "name"),
    [
        (h5_filter, "u2", "a.h5"),
        (tiff_stack(), "u2", "stack.tiff"),
        (tiff_stack(imagej=True), "u2", "stack.tiff"),
        (tiff_pages, "u2", "pages.tif"),
        (edf_frames, "u2", "many.edf"),
        (npy, "u2", "a.npy"),
        (npz, "u2", "a.npz"),
        (ge, "u2", "scan.ge2"),
        (fabio_files("cbf", fabio.cbfimage.CbfImage), "i4", "f9.cbf"),
        (fabio_files("img", fabio.adscimage.AdscImage), "u2", "f9.img"),
        (marccd, "u2", "m.0001.mccd"),
    ],
)
@pytest.mark.parametrize("keep", [0.9, 0.4, 0.02])
def test_truncated_file_is_named_and_nothing_gets_the_final_name(
    tmp_path: Path, writer: Any, dtype: str, name: str, keep: float
) -> None:
    (tmp_path / "in").mkdir()
    source = writer(tmp_path / "in", series(3, dtype))
    path = tmp_path / "in" / name
    os.truncate(path, int(path.stat().st_size * keep))
    message = refusal(source, tmp_path)
    assert name in message
    assert "cannot be read" in message


def test_flipped_bit_in_a_cbf_is_found_by_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    fabio_files("cbf", fabio.cbfimage.CbfImage)(tmp_path / "in", series(2, "i4"))
    path = tmp_path / "in" / "f9.cbf"
    content = bytearray(path.read_bytes())
    content[content.index(b"\x0c\x1a\x04\xd5") + 100] ^= 1
    path.write_bytes(content)
    message = refusal(tmp_path / "in", tmp_path)
    assert "f9.cbf" in message
    assert "Checksum" in message


def damaged_chunks(path: Path, chunks: list[int]) -> None:
    with h5py.File(path) as file:
        offsets = [file["scan/x"].id.get_chunk_info(index).byte_offset for index in chunks]
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)


def small_units(monkeypatch: pytest.MonkeyPatch, n_frames: int = 2) -> None:
    monkeypatch.setattr(store_module, "MIN_CHUNKS", 1)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", n_frames * SHAPE[0] * SHAPE[1] * 2)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the units that are copied from now on."""
    numbers: list[int] = []
    original = copy_unit

    def copy(unit: Any) -> Any:
        numbers.append(unit.number)
        return original(unit)

    monkeypatch.setattr(units_module, "copy_unit", copy)
    return numbers


def test_damaged_frames_are_all_named_while_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(12))
    damaged_chunks(source, [3, 6, 7, 8])
    message = refusal(source, tmp_path)
    assert "4 of 12 frames" in message
    assert "frame 3, 6-8: " in message
    numbers = counted(monkeypatch)
    assert "4 of 12 frames" in refusal(source, tmp_path)
    assert numbers == [1, 3, 4]  # the units 0, 2 and 5 were kept


def test_full_disk_says_so_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(12))
    with monkeypatch.context() as patch:
        written = 0

        def full(file: int, sync: Any = os.fsync) -> None:
            nonlocal written
            written += 1
            if written > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(file)

        patch.setattr(os, "fsync", full)
        message = refusal(source, tmp_path)
    assert "the disk is full" in message
    assert unfinished_path(tmp_path / "out.zarr").exists()
    numbers = counted(monkeypatch)
    np.testing.assert_array_equal(copied(source, tmp_path)["frames"], series(12))
    assert numbers == [2, 3, 4, 5]  # the plan and the records of units 0 and 1 had been written


def test_frames_that_read_back_differently_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = npy(tmp_path, series())
    original = zarr.Array.__getitem__

    def faulty(self: Any, selection: Any) -> Any:
        values = np.array(original(self, selection))
        values.flat[0] += 1
        return values

    monkeypatch.setattr(zarr.Array, "__getitem__", faulty)
    assert "a.npy, frame 0-4: read back from the store, the frames differ" in refusal(source, tmp_path)


def test_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = npy(tmp_path, series())

    def touch(done: int, total: int) -> None:
        os.utime(source, ns=(1, 1))

    assert "changed while it was read" in refusal(source, tmp_path, progress=touch)


# ---------------------------------------------------------------- resume, overwrite, workers


KILLED = """
import os, signal, sys
from braggflow.frames import store
from braggflow.convert import ingest
store.CHUNK_BYTES, store.MIN_CHUNKS = 2 * 20 * 30 * 2, 1
def stop(done, total):
    if done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    ingest([sys.argv[1]], sys.argv[2], workers=2, progress=stop)
"""


def test_after_kill_9_only_unfinished_units_are_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    data = series(200)
    source = h5_filter(tmp_path, data)
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    out = tmp_path / "out.zarr"
    environment = {**os.environ, "PYTHONPATH": str(Path(braggflow.__file__).parents[1])}
    killed = subprocess.run([sys.executable, script, source, out], env=environment, timeout=PATIENCE, check=False)
    assert killed.returncode == -9
    assert not out.exists()
    numbers, seen = counted(monkeypatch), []
    result = copied(source, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert 20 <= seen[0][0] < 200
    assert len(numbers) == (200 - seen[0][0]) // 2
    assert seen[-1] == (200, 200)
    np.testing.assert_array_equal(result["frames"], data)


def test_changed_source_or_settings_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = h5_filter(tmp_path, series(8))
    damaged_chunks(source, [0])
    refusal(source, tmp_path)
    source.unlink()
    h5_filter(tmp_path, series(8) + np.uint16(1))
    numbers = counted(monkeypatch)
    np.testing.assert_array_equal(copied(source, tmp_path)["frames"], series(8) + np.uint16(1))
    assert numbers == [0, 1, 2, 3]


def test_existing_output_is_replaced_only_when_asked_and_only_if_it_is_a_store(tmp_path: Path) -> None:
    source = npy(tmp_path, series())
    copied(source, tmp_path)
    with pytest.raises(InputError, match="exists; choose another name, or --overwrite"):
        copied(source, tmp_path)
    np.save(source, series(3))
    assert copied(source, tmp_path, overwrite=True).sizes["frame"] == 3
    (tmp_path / "notes.zarr").mkdir()
    with pytest.raises(InputError, match="is no frames store"):
        ingest([source], tmp_path / "notes.zarr", overwrite=True)
    with pytest.raises(InputError, match=r"must end in \.zarr"):
        ingest([source], tmp_path / "out.h5")
    with pytest.raises(InputError, match="--workers: 0"):
        ingest([source], tmp_path / "new.zarr", workers=0)


def test_checksum_of_a_source_is_that_of_its_frames_however_the_store_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = series(7)
    source = h5_filter(tmp_path, data)
    expected = sha256(b"".join(sha256(frame.tobytes()).digest() for frame in data)).hexdigest()
    for n_frames in (1, 3, 7):
        small_units(monkeypatch, n_frames)
        (entry,) = copied(source, tmp_path, overwrite=True).attrs["sources"]
        assert entry == {
            "name": "a.h5:/scan/x",
            "bytes": source.stat().st_size,
            "sha256": expected,
            "frames": 7,
        }


@pytest.mark.parametrize("name", ["a b", "a/b", "", ".hidden", "score", "frame", "mask", "y", "peak_count"])
def test_names_that_no_coordinate_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = series(3)
        file["omega"] = [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match=r"--coord .*(is no name|name is taken)"):
        ingest([tmp_path / "scan.h5"], tmp_path / "scan.zarr", coords={name: "/omega"}, workers=1)
    assert not (tmp_path / "scan.zarr").exists()


def test_worker_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    source = with_omega(tmp_path, series(9))
    alone = copied(source, tmp_path, coords={"omega": "/entry/data/omega"})
    path = ingest([source], tmp_path / "two.zarr", coords={"omega": "/entry/data/omega"}, workers=2)
    assert alone.identical(open_frames(path))


# ---------------------------------------------------------------- real detectors


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("BRAGGFLOW_REAL_DATA")
    if not folder:
        pytest.skip("BRAGGFLOW_REAL_DATA is not set: no real data")
    return Path(folder)


def test_real_ge_series_equals_its_source(tmp_path: Path, real: Path) -> None:
    source = real / "zr_ge2" / "zr_ge2.h5"
    result = copied(source, tmp_path, coords={"omega": "/entry/data/omega"})
    with h5py.File(source) as file:
        np.testing.assert_array_equal(result["omega"], file["entry/data/omega"][()])
        for index in range(0, 100, 9):
            np.testing.assert_array_equal(result["frames"][index], file["entry/data/data"][index])
    assert result["frames"].shape == (100, 2048, 2048)
    assert result["omega"].attrs["units"] == "degree"


def test_real_adsc_frames_equal_their_files_with_angle_and_geometry(tmp_path: Path, real: Path, capfd: Any) -> None:
    result = copied(real / "snase_ccd", tmp_path)
    assert capfd.readouterr().err == ""
    for index in range(6):
        content = (real / "snase_ccd" / f"snc_newhead_{index + 1:05d}.img").read_bytes()
        np.testing.assert_array_equal(result["frames"][index], np.frombuffer(content[512:], "<u2").reshape(1024, 1024))
    np.testing.assert_array_equal(result["phi"], np.arange(6.0))
    assert result.attrs["saturation"] == 65535
    # The background's centre of symmetry, found by inverting the median frame, is (499, 532) within 1 pixel.
    assert result.attrs["geometry"]["beam_centre_px"] == pytest.approx([499, 532], abs=1)


def test_real_pilatus_frame_equals_its_file_and_its_gaps_are_masked(tmp_path: Path, real: Path) -> None:
    source = real / "pilatus300k" / "in16c_010001.cbf"
    result = copied(source, tmp_path)
    with fabio.open(str(source)) as image:
        np.testing.assert_array_equal(result["frames"][0], image.data)
        np.testing.assert_array_equal(result["mask"], image.data < 0)
    gap_rows = np.flatnonzero(result["mask"].values.all(axis=1))
    assert gap_rows.tolist() == [*range(195, 212), *range(407, 424)]
    assert result.attrs["saturation"] == 1302749
    assert result.attrs["geometry"]["pixel_size_um"] == pytest.approx([172, 172])
