"""Detector files of others: HDF5/NeXus, TIFF, CBF, EDF, ...: what is in them, and what they say of themselves."""

from braggflow.formats.damage import reading_errors
from braggflow.formats.hdf5 import frames_per_chunk, open_hdf5, read_coord
from braggflow.formats.metadata import HC_KEV_ANGSTROM
from braggflow.formats.poni import read_poni
from braggflow.formats.readers import Stack
from braggflow.formats.sources import (
    FOLDER_SUFFIXES,
    HDF5_SUFFIXES,
    expand_sources,
    is_hdf5,
    natural_key,
    split_name,
    without_eiger_data,
)
from braggflow.formats.stacks import has_changed, inspect_source, read_frames, read_image

__all__ = [
    "FOLDER_SUFFIXES",
    "HC_KEV_ANGSTROM",
    "HDF5_SUFFIXES",
    "Stack",
    "expand_sources",
    "frames_per_chunk",
    "has_changed",
    "inspect_source",
    "is_hdf5",
    "natural_key",
    "open_hdf5",
    "read_coord",
    "read_frames",
    "read_image",
    "read_poni",
    "reading_errors",
    "split_name",
    "without_eiger_data",
]
