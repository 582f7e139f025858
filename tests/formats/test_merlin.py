"""Merlin files, written by the description of the format (tests/formats/writers.py)."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.convert.conversions import copied, series
from tests.formats.writers import found, merlin, refused

DATA = series(4)


@pytest.mark.parametrize(("kind", "stored"), [("U08", "u1"), ("U16", ">u2"), ("U32", ">u4")])
@pytest.mark.parametrize("header", [384, 768])
def test_frames_of_every_depth_are_read(tmp_path: Path, kind: str, stored: str, header: int) -> None:
    data = DATA.astype(np.dtype(stored).newbyteorder("="))
    path = merlin(tmp_path / "a.mib", data, kind=kind, stored=stored, header=header)
    frames = found(path)
    np.testing.assert_array_equal(frames, data)
    assert frames.dtype == data.dtype


def test_several_files_are_one_series(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    merlin(tmp_path / "in" / "a2.mib", DATA[:2])
    merlin(tmp_path / "in" / "a10.mib", DATA[2:])
    (tmp_path / "in" / "a.hdr").write_text("HDR,\nTime:\t1\nEnd\t")
    np.testing.assert_array_equal(copied(tmp_path / "in", tmp_path)["frames"], DATA)


@pytest.mark.parametrize("kind", ["R64", "R08"])
def test_raw_counters_are_refused_with_what_reads_them(tmp_path: Path, kind: str) -> None:
    message = refused(merlin(tmp_path / "a.mib", DATA, kind=kind, stored=">u8"))
    assert f"raw counters ({kind})" in message
    assert "LiberTEM" in message


@pytest.mark.parametrize("cut", [1, 400, 1300])
def test_a_file_cut_off_within_a_frame_is_refused(tmp_path: Path, cut: int) -> None:
    path = merlin(tmp_path / "a.mib", DATA)
    os.truncate(path, path.stat().st_size - cut)
    assert "after 3 whole frames come" in refused(path)


@pytest.mark.parametrize(("old", "new"), [(b"MQ1,000003", b"\0" * 10), (b"0030,0020,U16", b"0020,0030,U16")])
def test_a_frame_whose_header_is_gone_or_another_is_named(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = merlin(tmp_path / "a.mib", DATA)
    content = path.read_bytes()
    place = content.index(b"MQ1,000003")
    path.write_bytes(content[:place] + content[place:].replace(old, new, 1))
    assert "frame 2 has no header" in refused(path)


@pytest.mark.parametrize("entry", [b"9999,9999,U16", b"0000,0020,U16", b"-030,-020,U16", b"0030,0020,X16"])
def test_a_header_that_lies_is_refused(tmp_path: Path, entry: bytes) -> None:
    path = merlin(tmp_path / "a.mib", DATA)
    path.write_bytes(path.read_bytes().replace(b"0030,0020,U16", entry))
    assert "cannot be read" in refused(path)
