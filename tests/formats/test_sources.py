"""What kind a file is by its content and name, and which files of a folder are meant."""

import gzip
import os
import pickle
import zipfile
from pathlib import Path

import fabio
import numpy as np
import pytest
import tifffile

from braggflow.errors import InputError
from braggflow.formats import FOLDER_SUFFIXES, expand_sources, is_hdf5
from tests.convert.conversions import series
from tests.formats.writers import found, frame_cache_fch5, h5_filter, merlin, refused

# ---------------------------------------------------------------- by content


def test_content_decides_the_kind_whatever_the_name_says(tmp_path: Path) -> None:
    data = series(2)
    np.save(tmp_path / "a.npy", data)
    tifffile.imwrite(tmp_path / "b.tif", data, photometric="minisblack")
    h5_filter(tmp_path, data)
    merlin(tmp_path / "m.mib", data)
    for old, new in (("a.npy", "a.tif"), ("b.tif", "b.h5"), ("a.h5", "h.cbf"), ("m.mib", "m.raw")):
        (tmp_path / old).rename(tmp_path / new)
        np.testing.assert_array_equal(found(tmp_path / new), data)
    fabio.edfimage.EdfImage(data=data[0]).write(str(tmp_path / "c.edf"))
    (tmp_path / "c.edf").rename(tmp_path / "c.dat")
    np.testing.assert_array_equal(found(tmp_path / "c.dat")[0], data[0])


@pytest.mark.parametrize("name", ["x.tif", "x.h5", "x.npy", "x.npz", "x.cbf", "x.edf", "x.img", "x.mib", "x.gfrm"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"frame\tomega\n0\t0.5\n", "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "a PNG picture"),
        (b"%PDF-1.7 " + bytes(range(200)), "a PDF document"),
        (b'{\n  "detector": "eiger"\n}\n', "JSON"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "a pointer of Git LFS"),
        (bytes(5000), "nothing but zeros"),
        (pickle.dumps(np.zeros(3), protocol=4), "a pickle"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\xfd7zXZ\0" + bytes(range(200)), "compressed with xz"),
    ],
)
def test_a_file_of_another_kind_is_said_to_be_one_and_not_damaged(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert f"its content is {what}" in message
    assert "damaged" not in message


@pytest.mark.parametrize("suffix", sorted(FOLDER_SUFFIXES))
def test_bytes_of_no_known_kind_are_refused_without_a_word_of_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(np.random.default_rng(3).integers(128, 256, 3000).astype("u1").tobytes())
    assert "damaged" not in refused(path)


@pytest.mark.parametrize("suffix", sorted(FOLDER_SUFFIXES))
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x.{suffix}").touch()
    assert refused(tmp_path / f"x.{suffix}").endswith("is empty (0 bytes)")


def test_a_zip_archive_of_something_else_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "frames.npz", "w") as archive:
        archive.writestr("frame_1.cbf", "###CBF")
    assert "a zip archive without NumPy arrays; unpack it first" in refused(tmp_path / "frames.npz")


def test_compressed_files_are_read_by_what_they_hold(tmp_path: Path) -> None:
    data = series(3)
    np.save(tmp_path / "a.npy", data)
    tifffile.imwrite(tmp_path / "b.tif", data, photometric="minisblack")
    for name in ("a.npy", "b.tif"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        np.testing.assert_array_equal(found(tmp_path / f"{name}.gz"), data)
    h5_filter(tmp_path, data)
    (tmp_path / "a.h5.gz").write_bytes(gzip.compress((tmp_path / "a.h5").read_bytes()))
    assert "HDF5 compressed as .gz; unpack it first" in refused(tmp_path / "a.h5.gz")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy.gz").read_bytes())
    assert "rename it so that it ends in .gz" in refused(tmp_path / "a.npy")


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", series(3))
    content = gzip.compress((tmp_path / "a.npy").read_bytes())
    (tmp_path / "a.npy.gz").write_bytes(content[: len(content) // 2])
    assert "damaged or cut off" in refused(tmp_path / "a.npy.gz")


def test_a_frame_cache_in_hdf5_is_no_hdf5_series(tmp_path: Path) -> None:
    assert not is_hdf5(frame_cache_fch5(tmp_path / "a.fch5", series(2), 60))
    assert not is_hdf5(frame_cache_fch5(tmp_path / "a.h5", series(2), 60))
    assert is_hdf5(h5_filter(tmp_path, series(2)))


# ---------------------------------------------------------------- folders


def test_files_that_are_no_detector_files_do_not_matter_in_a_folder(tmp_path: Path) -> None:
    for name in ("scan.txt", "scan.json", "detector.poni", "beam.log", "scan.hdr", ".hidden.cbf", "notes.md"):
        (tmp_path / name).write_text("{}")
    for number in (1, 2):
        fabio.cbfimage.CbfImage(data=series(1, "i4")[0]).write(str(tmp_path / f"f_{number}.cbf"))
    assert [Path(path).name for path, _ in expand_sources([tmp_path])] == ["f_1.cbf", "f_2.cbf"]


def test_a_folder_of_several_formats_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("f.cbf", "f.edf", "f.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"several formats \(\.cbf, \.edf\)"):
        expand_sources([tmp_path])


def test_a_folder_with_a_file_plain_and_compressed_is_refused(tmp_path: Path) -> None:
    for name in ("f_1.cbf", "f_2.cbf", "f_2.cbf.gz"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"f_2\.cbf and f_2\.cbf\.gz are one file twice"):
        expand_sources([tmp_path])


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", series(1))
    (tmp_path / "a.npy").chmod(0)
    if os.access(tmp_path / "a.npy", os.R_OK):
        pytest.skip("the superuser may read everything")
    assert "Permission denied" in refused(tmp_path / "a.npy")
