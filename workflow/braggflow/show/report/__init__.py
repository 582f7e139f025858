"""Pages for people: the report of a run, that of many runs, and how well positions repeat, which it tells."""

from braggflow.show.report.batch import write_batch_report
from braggflow.show.report.halves import halves_of_patches, repeatability, single_profiles
from braggflow.show.report.page import write_report

__all__ = ["halves_of_patches", "repeatability", "single_profiles", "write_batch_report", "write_report"]
