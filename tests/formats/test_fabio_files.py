"""Frames that fabio reads: each format by its own writer where it has one, and what its readers would get wrong."""

import gzip
import os
from pathlib import Path

import fabio
import numpy as np
import pytest

from tests.convert.conversions import copied, series
from tests.formats.writers import found, raxis, refused

DATA = series(3)


def image(kind: str, data: np.ndarray, path: Path, **header: object) -> Path:
    made = fabio.fabioformats.factory(f"{kind}image")
    made.data = data
    made.header.update(header)
    if kind == "mar345":
        made.byteorder = "<"  # fabio 2026.6 cannot write its own default
    made.write(str(path))
    return path


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [
        ("bruker", "scan_01_0001.gfrm", "u4"),
        ("bruker", "scan_01.0001", "u4"),
        ("bruker100", "scan_01_0001.sfrm", "i4"),
        ("bruker100", "scan_01_0001.gfrm", "i4"),
        ("dtrek", "saturn_0001.img", "i4"),
        ("oxd", "scan_1_1.img", "i4"),
        ("pnm", "a.pgm", "u1"),
    ],
)
def test_frames_are_what_fabio_wrote(tmp_path: Path, kind: str, name: str, dtype: str, capfd: object) -> None:
    data = DATA[0].astype(dtype)
    if kind == "oxd":
        data[3, 4], data[5, 6] = 300, 70_000  # beyond 8 and 16 bits: kept in lists of their own
    frames = found(image(kind, data, tmp_path / name))
    np.testing.assert_array_equal(frames[0], data)
    assert frames.dtype == data.dtype


@pytest.mark.parametrize("name", ["a.esper", "a.esperanto"])
def test_esperanto_frames_are_read(tmp_path: Path, name: str) -> None:
    data = series(1, "i4", (256, 256))[0]
    np.testing.assert_array_equal(found(image("esperanto", data, tmp_path / name))[0], data)


@pytest.mark.parametrize("name", ["a.mar345", "a.mar2300"])
def test_mar345_frames_are_read(tmp_path: Path, name: str) -> None:
    data = series(1, "u4", (300, 300))[0]
    data[7, 9] = 100_000  # beyond 16 bits: kept in a list of its own
    np.testing.assert_array_equal(found(image("mar345", data, tmp_path / name))[0], data)


@pytest.mark.parametrize("keep", [0.99, 0.7, 0.3, 0.12])
def test_a_mar345_frame_that_is_cut_off_is_not_filled_up(tmp_path: Path, keep: float) -> None:
    path = image("mar345", series(1, "u4", (300, 300))[0], tmp_path / "a.mar345")
    os.truncate(path, int(path.stat().st_size * keep))
    assert "its values end before pixel" in refused(path)


def test_bruker_frames_with_and_without_bright_pixels_are_of_one_type(tmp_path: Path) -> None:
    data = DATA.astype("u4")
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        image("bruker", data[number], tmp_path / "in" / f"s_01_{number:04d}.gfrm")
    path = tmp_path / "in" / "s_01_0001.gfrm"
    content = bytearray(path.read_bytes())
    start = len(content) - data[1].size
    assert content[start : start + data[1].size] == data[1].astype("u1").tobytes()
    # One pixel beyond 8 bits, in the list of intensity (9 characters) and place (7) after the values.
    data[1, 2, 3] = 40_000
    content[start + 2 * 30 + 3] = 255
    changed = bytes(content).replace(b"NOVERFL:0", b"NOVERFL:1") + f"{40_000:>9}{63:>7}".encode()
    path.write_bytes(changed)
    np.testing.assert_array_equal(copied(tmp_path / "in", tmp_path)["frames"], data[1:])


def test_raxis_frames_are_of_one_type_whether_bright_or_not(tmp_path: Path) -> None:
    data = series(2, "u2", (20, 750))
    data[1, 3, 4] = 0x8000 | 5000  # the highest bit: times the ratio in the header, which is 8
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(data):
        raxis(tmp_path / "in" / f"s{number}.osc", frame)
    expected = data.astype("u4")
    expected[1, 3, 4] = 40_000
    np.testing.assert_array_equal(copied(tmp_path / "in", tmp_path)["frames"], expected)


@pytest.mark.parametrize("cut", [1, 1500, 9000, 31_000])
def test_an_raxis_frame_that_is_cut_off_is_not_shifted(tmp_path: Path, cut: int) -> None:
    path = raxis(tmp_path / "a.osc", series(1, "u2", (20, 750))[0])
    os.truncate(path, path.stat().st_size - cut)
    assert "damaged or cut off" in refused(path)


# ---------------------------------------------------------------- frames of one file that differ


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("second", [DATA[1].astype("f4") - 3.4, DATA[1, :10], DATA[1].astype("i4")])
def test_frames_of_one_file_that_differ_are_refused_with_their_number(
    tmp_path: Path, second: np.ndarray, compressed: bool
) -> None:
    edf = fabio.edfimage.EdfImage(data=DATA[0])
    for frame in (DATA[1], second, DATA[2]):
        edf.append_frame(data=frame)
    path = tmp_path / "mix.edf"
    edf.write(str(path))
    if compressed:
        plain, path = path, tmp_path / "mix.edf.gz"
        path.write_bytes(gzip.compress(plain.read_bytes()))
    message = refused(path)
    assert f"frame 2 is {second.shape} of {second.dtype}, frame 0 is (20, 30) of uint16" in message
    assert "damaged" not in message


# ---------------------------------------------------------------- variants and lies


@pytest.mark.parametrize("conversion", ["CBF_PACKED_V2", "CBF_PACKED", "CBF_CANONICAL"])
def test_a_compression_that_is_not_read_is_named_with_what_converts_it(tmp_path: Path, conversion: str) -> None:
    path = tmp_path / "p.cbf"
    fabio.cbfimage.CbfImage(data=np.zeros((32, 32), "i4")).write(str(path))
    path.write_bytes(path.read_bytes().replace(b"x-CBF_BYTE_OFFSET", f"x-{conversion}".encode()))
    message = refused(path)
    assert conversion in message
    assert "cif2cbf" in message
    assert "damaged" not in message


@pytest.mark.parametrize("size", [b"99999999999", b"-2", b"600"])
def test_a_cbf_header_that_states_more_pixels_than_bytes_is_refused(tmp_path: Path, size: bytes) -> None:
    path = tmp_path / "p.cbf"
    fabio.cbfimage.CbfImage(data=np.zeros((32, 32), "i4")).write(str(path))
    path.write_bytes(path.read_bytes().replace(b"Fastest-Dimension: 32", b"Fastest-Dimension: " + size))
    assert "its header states" in refused(path)


@pytest.mark.parametrize("mark", [b"--CIF-BINARY-FORMAT-SECTION--", b"\x0c\x1a\x04\xd5"])
def test_a_cbf_file_whose_values_are_not_to_be_found_is_refused_at_once(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "p.cbf"
    fabio.cbfimage.CbfImage(data=np.zeros((32, 32), "i4")).write(str(path))
    path.write_bytes(path.read_bytes().replace(mark, mark[:-1] + b"?"))
    assert "not followed by binary data" in refused(path)


@pytest.mark.parametrize("stated", [b"Dim_1 = 999999999 ", b"Dim_1 = 500 ", b"Dim_1 = -30 "])
def test_an_edf_header_that_states_more_than_the_file_has_is_refused(tmp_path: Path, stated: bytes) -> None:
    path = tmp_path / "a.edf"
    fabio.edfimage.EdfImage(data=DATA[0]).write(str(path))
    assert b"Dim_1 = 30 " in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Dim_1 = 30 ", stated))
    assert "states" in refused(path)


@pytest.mark.parametrize(("kind", "name"), [("bruker", "a.gfrm"), ("bruker100", "a.sfrm"), ("dtrek", "a.img")])
def test_a_frame_larger_than_its_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = image(kind, DATA[0].astype("i4" if kind != "bruker" else "u4"), tmp_path / name)
    content = path.read_bytes()
    for old, new in ((b"NROWS  :20", b"NROWS  :99999999"), (b"SIZE2= 20", b"SIZE2= 99999999")):
        content = content.replace(old + b" " * (len(new) - len(old)), new).replace(old + b";", new + b";")
    assert content != path.read_bytes()
    path.write_bytes(content)
    assert "damaged or cut off" in refused(path)
