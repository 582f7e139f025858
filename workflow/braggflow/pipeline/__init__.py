"""The chain read, correct, detect, cut, locate, fit, assemble, in one process: no Dask, no disk."""

from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.assembly import CLEARLY_SURER, MAX_OFFSET
from braggflow.pipeline.each_setting import FrameByEach, look_by_each
from braggflow.pipeline.groups import MIN_GROUPS, Group, frames_in, plan_groups, regroup
from braggflow.pipeline.in_memory import PartPeaks, find_peaks, search_part, settings_of, table_of
from braggflow.pipeline.memory import MemoryNeed, check_memory, memory_need
from braggflow.pipeline.refusals import refuse_levels, refuse_no_frames
from braggflow.pipeline.sample_frames import Sample, SampledFrame, look_at_frame, look_at_frames, sample_warnings
from braggflow.pipeline.stages import (
    ChunkPeaks,
    NetworkResult,
    accepted,
    compile_kernels,
    complete_peaks,
    locate_peaks,
    on_cpu,
    search_chunk,
    search_frames,
    sum_counts,
)

__all__ = [
    "CLEARLY_SURER",
    "MAX_OFFSET",
    "MIN_GROUPS",
    "ChunkPeaks",
    "FrameByEach",
    "Group",
    "MemoryNeed",
    "NetworkResult",
    "PartPeaks",
    "Sample",
    "SampledFrame",
    "accepted",
    "check_memory",
    "compile_ahead",
    "compile_kernels",
    "complete_peaks",
    "find_peaks",
    "frames_in",
    "locate_peaks",
    "look_at_frame",
    "look_at_frames",
    "look_by_each",
    "memory_need",
    "on_cpu",
    "plan_groups",
    "refuse_levels",
    "refuse_no_frames",
    "regroup",
    "sample_warnings",
    "search_chunk",
    "search_frames",
    "search_part",
    "settings_of",
    "sum_counts",
    "table_of",
]
