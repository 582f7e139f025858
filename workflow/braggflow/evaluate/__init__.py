"""How good positions are: by class against the information limit, and by matching a run with its truth."""

from braggflow.evaluate.estimators import select_estimators
from braggflow.evaluate.evaluation import card_figures, evaluate
from braggflow.evaluate.scoring import load_truth, score
from braggflow.evaluate.summary import accuracy_table, check_plot_path, plot_accuracy

__all__ = [
    "accuracy_table",
    "card_figures",
    "check_plot_path",
    "evaluate",
    "load_truth",
    "plot_accuracy",
    "score",
    "select_estimators",
]
