"""Runs on a cluster: data sets in turn, tasks in a bounded window, frames that kill workers, an orderly end."""

from braggflow.flow.outcome import Outcome, Outcomes, Progress
from braggflow.flow.progress_shown import rate, run_progress
from braggflow.flow.running import run

__all__ = ["Outcome", "Outcomes", "Progress", "rate", "run", "run_progress"]
