"""Detector files into a frames store, checked by reading back; and what would be read, before anything is."""

from braggflow.convert.conversion import ingest
from braggflow.convert.inspection import SeriesFacts, inspect_series, open_source, series_facts
from braggflow.convert.oddities import FrameFacts, missing_text

__all__ = ["FrameFacts", "SeriesFacts", "ingest", "inspect_series", "missing_text", "open_source", "series_facts"]
