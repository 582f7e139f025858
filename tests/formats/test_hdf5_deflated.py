"""Chunks compressed by gzip are inflated without HDF5, and are what HDF5 itself reads."""

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braggflow import InputError, open_frames
from braggflow.formats.hdf5.deflated import read_deflated
from braggflow.frames.reader import FrameReader

GZIP = {"compression": "gzip", "compression_opts": 1}


def in_memory():
    return (
        h5py.File.in_memory()
        if hasattr(h5py.File, "in_memory")
        else h5py.File("a", "w", driver="core", backing_store=False)
    )


@settings(max_examples=60)
@given(
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u4", "<f4", "<f8"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 13), st.integers(1, 13)),
    cut=st.tuples(st.integers(1, 9), st.integers(1, 13), st.integers(1, 13)),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_they_are_what_hdf5_reads(dtype, shape, cut, shuffle, data):
    images = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    chunks = tuple(min(sizes) for sizes in zip(shape, cut, strict=True))
    lo = data.draw(st.integers(0, shape[0] - 1))
    hi = data.draw(st.integers(lo + 1, shape[0]))
    with in_memory() as file:
        written = file.create_dataset("d", data=images, chunks=chunks, shuffle=shuffle, **GZIP)
        found = read_deflated(written, lo, hi)
    assert found is not None
    assert found.dtype == images.dtype
    np.testing.assert_array_equal(found, images[lo:hi])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, 4, 5)},
        {"chunks": (1, 4, 5), "shuffle": True},
        {"chunks": (1, 4, 5), "compression": "lzf"},
        {"chunks": (1, 4, 5), "fletcher32": True, **GZIP},
        {"chunks": (1, 4, 5), "scaleoffset": 0, **GZIP},
        {"chunks": (1, 4, 5), **hdf5plugin.Bitshuffle()},
    ],
)
def test_other_filters_are_left_to_hdf5(options):
    with in_memory() as file:
        assert read_deflated(file.create_dataset("d", data=np.ones((3, 4, 5), "u2"), **options), 0, 3) is None


def test_chunks_that_were_never_written_or_written_without_the_filter_are_left_to_hdf5():
    with in_memory() as file:
        data = file.create_dataset("d", (3, 4, 5), "u2", chunks=(1, 4, 5), **GZIP)
        data[0] = 1
        data.id.write_direct_chunk((1, 0, 0), np.full((4, 5), 2, "u2").tobytes(), filter_mask=1)
        assert read_deflated(data, 0, 1) is not None
        assert read_deflated(data, 0, 2) is None
        assert read_deflated(data, 2, 3) is None
        assert data[1].max() == 2


def test_a_damaged_chunk_is_an_error_as_ever(tmp_path):
    images = np.random.default_rng(0).integers(0, 200, (2, 64, 64)).astype("u2")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        data = file.create_dataset("entry/data", data=images, chunks=(1, 64, 64), shuffle=True, **GZIP)
        place = data.id.get_chunk_info(1)
    content = bytearray((tmp_path / "scan.h5").read_bytes())
    content[place.byte_offset + place.size // 2] ^= 0xFF
    (tmp_path / "scan.h5").write_bytes(content)
    reader = FrameReader(open_frames(tmp_path / "scan.h5"))
    np.testing.assert_array_equal(reader.read(np.array([0])), images[:1])
    with pytest.raises((InputError, OSError)):
        reader.read(np.array([1]))
