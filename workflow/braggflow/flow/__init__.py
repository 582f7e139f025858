"""Runs on a cluster: data sets in turn, tasks in a bounded window, frames that kill workers, an orderly end."""

from braggflow.flow.lazy_frames import find_peaks
from braggflow.flow.outcome import Outcome, Outcomes, Progress, rate, run_progress
from braggflow.flow.running import run

__all__ = ["Outcome", "Outcomes", "Progress", "find_peaks", "rate", "run", "run_progress"]
