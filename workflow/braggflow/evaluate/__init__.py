"""How good positions are, by class against the information limit and against a run's truth; whether a run is whole."""

from braggflow.evaluate.estimators import select_estimators
from braggflow.evaluate.evaluation import card_figures, evaluate
from braggflow.evaluate.scoring import load_truth, score
from braggflow.evaluate.summary import accuracy_table, check_plot_path, plot_accuracy
from braggflow.evaluate.track_scoring import TrackScore, score_tracks
from braggflow.evaluate.verification import Check, Verified, verify

__all__ = [
    "Check",
    "TrackScore",
    "Verified",
    "accuracy_table",
    "card_figures",
    "check_plot_path",
    "evaluate",
    "load_truth",
    "plot_accuracy",
    "score",
    "score_tracks",
    "select_estimators",
    "verify",
]
