"""Runs on a cluster: data sets in turn, tasks in a bounded window, frames that kill workers, an orderly end."""

from braggflow.flow.outcome import Outcome, Progress
from braggflow.flow.running import run

__all__ = ["Outcome", "Progress", "run"]
