"""Training networks on simulated peaks or on labels from runs and files."""

from braggflow.train.cards import check_weights_path, config_of_card
from braggflow.train.finetune import FineTuneConfig, fine_tune
from braggflow.train.labels import labels_from_run, simulation_like
from braggflow.train.labels_hdf5 import labels_from_hdf5
from braggflow.train.settings import TrainConfig, TrainProgress
from braggflow.train.trainer import train

__all__ = [
    "FineTuneConfig",
    "TrainConfig",
    "TrainProgress",
    "check_weights_path",
    "config_of_card",
    "fine_tune",
    "labels_from_hdf5",
    "labels_from_run",
    "simulation_like",
    "train",
]
