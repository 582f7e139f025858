"""Detector files into a frames store, checked by reading back."""

from braggflow.convert.conversion import ingest

__all__ = ["ingest"]
