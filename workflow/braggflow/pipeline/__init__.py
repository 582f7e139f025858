"""The chain read, correct, detect, cut, locate, fit, assemble, in one process: no Dask, no disk."""

from braggflow.pipeline.ahead import compile_ahead
from braggflow.pipeline.assembly import MAX_OFFSET
from braggflow.pipeline.groups import MIN_GROUPS, Group, plan_groups, regroup
from braggflow.pipeline.in_memory import find_peaks
from braggflow.pipeline.memory import MemoryNeed, check_memory, memory_need
from braggflow.pipeline.refusals import refuse_levels, refuse_no_frames
from braggflow.pipeline.sample_frames import Sample, SampledFrame, look_at_frame, look_at_frames, sample_warnings
from braggflow.pipeline.stages import (
    ChunkPeaks,
    NetworkResult,
    compile_kernels,
    complete_peaks,
    locate_peaks,
    search_chunk,
    sum_counts,
)

__all__ = [
    "MAX_OFFSET",
    "MIN_GROUPS",
    "ChunkPeaks",
    "Group",
    "MemoryNeed",
    "NetworkResult",
    "Sample",
    "SampledFrame",
    "check_memory",
    "compile_ahead",
    "compile_kernels",
    "complete_peaks",
    "find_peaks",
    "locate_peaks",
    "look_at_frame",
    "look_at_frames",
    "memory_need",
    "plan_groups",
    "refuse_levels",
    "refuse_no_frames",
    "regroup",
    "sample_warnings",
    "search_chunk",
    "sum_counts",
]
