"""Series of frames: the frames store, opening a series however it is kept, correcting its frames, finding data sets."""

from braggflow.frames.correction import (
    CorrectedFrame,
    Correction,
    correct_frame,
    correction_of,
    passes_unchanged,
    read_background_frame,
    searched_geometry,
    unbinned,
)
from braggflow.frames.data_sets import data_set_name, data_set_names, expand_data_sets
from braggflow.frames.description import described, missing_frames, refuse_incomplete
from braggflow.frames.detector import (
    DetectorConstants,
    contradictions,
    find_bad_pixels,
    settled_constants,
    without_bad_pixels,
)
from braggflow.frames.file_series import check_alike, series_of, stacks_of
from braggflow.frames.follow import Follower
from braggflow.frames.growing import (
    Arrived,
    GrowingSeries,
    done_mark,
    frame_stamps,
    growing_data,
    is_growing_series,
)
from braggflow.frames.marks import frames_looked_at
from braggflow.frames.opening import accept_store, damage_of_frames_store, frames_from_array, open_frames
from braggflow.frames.reader import FrameReader
from braggflow.frames.seals import (
    CHECKSUMS,
    COMPRESSORS,
    GuardedStore,
    damage_of_store,
    guarded_encoding,
    read_json,
    seal,
    sealed,
)
from braggflow.frames.series import OpenedSeries, open_series, selected_positions
from braggflow.frames.store import (
    FRAMES_FORMAT,
    UNREADABLE,
    create_store,
    finish_store,
    frames_per_file,
    open_unfinished_store,
    read_raw,
    unfinished_path,
)

__all__ = [
    "CHECKSUMS",
    "COMPRESSORS",
    "FRAMES_FORMAT",
    "UNREADABLE",
    "Arrived",
    "CorrectedFrame",
    "Correction",
    "DetectorConstants",
    "Follower",
    "FrameReader",
    "GrowingSeries",
    "GuardedStore",
    "OpenedSeries",
    "accept_store",
    "check_alike",
    "contradictions",
    "correct_frame",
    "correction_of",
    "create_store",
    "damage_of_frames_store",
    "damage_of_store",
    "data_set_name",
    "data_set_names",
    "described",
    "done_mark",
    "expand_data_sets",
    "find_bad_pixels",
    "finish_store",
    "frame_stamps",
    "frames_from_array",
    "frames_looked_at",
    "frames_per_file",
    "growing_data",
    "guarded_encoding",
    "is_growing_series",
    "missing_frames",
    "open_frames",
    "open_series",
    "open_unfinished_store",
    "passes_unchanged",
    "read_background_frame",
    "read_json",
    "read_raw",
    "refuse_incomplete",
    "seal",
    "sealed",
    "searched_geometry",
    "selected_positions",
    "series_of",
    "settled_constants",
    "stacks_of",
    "unbinned",
    "unfinished_path",
    "without_bad_pixels",
]
