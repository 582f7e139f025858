"""The panels beside the picture: each holds its controls, and asks the page for what they change."""

from braggflow.view.panels.explain import ExplainPanel
from braggflow.view.panels.look import LookPanel
from braggflow.view.panels.mask import MaskPanel
from braggflow.view.panels.track import TrackPanel
from braggflow.view.panels.tune import TunePanel

__all__ = ["ExplainPanel", "LookPanel", "MaskPanel", "TrackPanel", "TunePanel"]
