"""TIFF files: which series are the frames, in which order, under which compression."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from braggflow.formats import inspect_source
from tests.convert.conversions import series
from tests.formats.writers import found, refused

DATA = series(3)


def test_a_file_written_page_by_page_is_one_stack(tmp_path: Path) -> None:
    for frame in DATA:
        tifffile.imwrite(tmp_path / "app.tif", frame, append=True)
    np.testing.assert_array_equal(found(tmp_path / "app.tif"), DATA)


def test_series_of_several_lengths_join_in_the_order_of_their_pages(tmp_path: Path) -> None:
    data = series(6)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(data[:2], photometric="minisblack", compression="zlib")
        tiff.write(data[2], photometric="minisblack")
        tiff.write(data[3:], photometric="minisblack")
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), data)


@pytest.mark.parametrize("second", [DATA.astype("f4"), DATA[:, :10], DATA.astype("u1")])
@pytest.mark.parametrize("metadata", [{}, None])
def test_series_that_differ_are_refused_with_a_list(tmp_path: Path, second: np.ndarray, metadata: object) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for frame in (DATA[0], second[1], DATA[2]):
            tiff.write(frame, photometric="minisblack", metadata=metadata)
    message = refused(tmp_path / "a.tif")
    assert "not alike" in message
    assert str(second.dtype) in message


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "lzma", "deflate"])
def test_compressed_pages_are_read(tmp_path: Path, compression: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack", compression=compression)
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), DATA)


@pytest.mark.parametrize(
    "options",
    [
        {"bigtiff": True},
        {"imagej": True},
        {"tile": (16, 16)},
        {"ome": True},
        {"byteorder": ">"},
        {"predictor": True, "compression": "lzw"},
        {"rowsperstrip": 3},
        {"bigtiff": True, "tile": (16, 32), "compression": "zlib"},
    ],
)
def test_layouts_of_a_stack_are_read_alike(tmp_path: Path, options: dict[str, object]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack", **options)
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), DATA)


@pytest.mark.parametrize("first", [True, False])
def test_a_preview_is_no_frame(tmp_path: Path, first: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for small in (first, not first):
            if small:
                tiff.write(DATA[0, ::2, ::2], subfiletype=1)
            else:
                tiff.write(DATA, photometric="minisblack")
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), DATA)


def test_smaller_copies_below_a_page_are_no_frames(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for frame in DATA:
            tiff.write(frame, subifds=1, metadata=None)
            tiff.write(frame[::2, ::2], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), DATA)


def test_a_colour_picture_beside_the_frames_is_named_and_not_taken(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(DATA, photometric="minisblack", metadata=None)
        tiff.write(np.zeros((32, 32, 3), "u1"), photometric="rgb", metadata=None)
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), DATA)
    assert inspect_source(str(tmp_path / "a.tif"))[0].others == ("/series_1 (32, 32, 3)",)


def test_colours_alone_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30, 3), "u1"), photometric="rgb")
    assert "no colours" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("imagej", [False, True])
def test_a_scan_over_a_grid_has_its_rows_and_columns(tmp_path: Path, imagej: bool) -> None:
    data = series(6).reshape(2, 3, 20, 30)
    tifffile.imwrite(tmp_path / "a.tif", data, **({"imagej": True} if imagej else {"photometric": "minisblack"}))
    np.testing.assert_array_equal(found(tmp_path / "a.tif"), data.reshape(6, 20, 30))
    coords = inspect_source(str(tmp_path / "a.tif"))[0].facts.coords
    assert coords["scan_y"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert coords["scan_x"][0].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_size_that_the_file_cannot_hold_is_refused_before_it_is_made(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DATA[0], compression=compression, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(2**30)
    assert "its header states" in refused(tmp_path / "a.tif")
