"""Peaks followed through a series: which are one, how each moves and changes, where they split, merge, come and go."""

from braggflow.tracks.columns import Born, Changed, Ended, change_points, q_and_strain
from braggflow.tracks.drift import common_shift
from braggflow.tracks.rocking import Reflections, rocking_curves
from braggflow.tracks.tracking import compile_tracks, follow_peaks, said_of_tracks, track, track_or_why_not, track_run

__all__ = [
    "Born",
    "Changed",
    "Ended",
    "Reflections",
    "change_points",
    "common_shift",
    "compile_tracks",
    "follow_peaks",
    "q_and_strain",
    "rocking_curves",
    "said_of_tracks",
    "track",
    "track_or_why_not",
    "track_run",
]
