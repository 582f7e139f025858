"""HDF5 and NeXus files: which data set is meant, what of it was written, how it is laid out, what the file states."""

from braggflow.formats.hdf5.data_sets import FoundDataSet, frames_per_chunk, inspect_hdf5, read_coord, read_hdf5
from braggflow.formats.hdf5.tree import open_hdf5

__all__ = ["FoundDataSet", "frames_per_chunk", "inspect_hdf5", "open_hdf5", "read_coord", "read_hdf5"]
