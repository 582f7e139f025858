"""Series that are still being written: which of their frames have arrived, what they are taken for, did they change."""

from braggflow.frames.growing.arrival import Arrived, GrowingSeries, done_mark, is_growing_series
from braggflow.frames.growing.described import growing_data
from braggflow.frames.growing.stamps import frame_stamps

__all__ = ["Arrived", "GrowingSeries", "done_mark", "frame_stamps", "growing_data", "is_growing_series"]
