"""One row a track: what became of each peak that was followed, in numbers."""

from braggflow.tracks.columns.changes import change_points
from braggflow.tracks.columns.lives import (
    FOLLOWED,
    Born,
    Changed,
    Ended,
    change_columns,
    course_columns,
    life_columns,
)
from braggflow.tracks.columns.spacings import Spacings, q_and_strain, spacing_columns, spacings_of_rows

__all__ = [
    "FOLLOWED",
    "Born",
    "Changed",
    "Ended",
    "Spacings",
    "change_columns",
    "change_points",
    "course_columns",
    "life_columns",
    "q_and_strain",
    "spacing_columns",
    "spacings_of_rows",
]
