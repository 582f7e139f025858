"""How a network is trained, how far that is, and how it went."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import Field

from braggflow.config import Section
from braggflow.simulate import PatchSimulation


class TrainConfig(Section):
    """How a network is trained; the same configuration and number of threads give the same weights, bit for bit."""

    network: Literal["braggnn", "compact"] = Field("compact", description="which network")
    size: Literal[9, 11, 13, 15] = Field(11, description="pixels on a side of a patch")
    steps: int = Field(60_000, ge=1, description="batches seen")
    seconds: float | None = Field(
        None,
        gt=0,
        description="end all within this time instead, validation and the card's figures included (the result varies)",
    )
    batch: int = Field(256, ge=2, description="patches a step")
    views: int = Field(
        4,
        ge=1,
        le=8,
        description="steps in a row that see the same patches, each time turned or mirrored another way",
    )
    seed: int = Field(0, ge=0, description="of the first weights and of every simulated patch")
    learning_rate: float | None = Field(
        None, gt=0, description="at the end of the warm-up; falls to 0 as a cosine (null: 8e-3 compact, 2e-3 braggnn)"
    )
    warm_up: int = Field(200, ge=0, description="steps over which the learning rate rises")
    patience: int = Field(20, ge=1, description="stop after this many validations without a lower loss")
    validation_steps: int = Field(1000, ge=1, description="steps between validations on patches never trained on")
    threads: int = Field(1, ge=1, description="CPU threads, of the network and of the simulation each")
    evaluation: int = Field(20_000, ge=0, description="peaks of each class that the card's figures come from")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic; auto: bfloat16 on a GPU (weights stay float32), float32 on a CPU"
    )
    simulation: PatchSimulation = Field(PatchSimulation(), description="what patches are drawn from")


class TrainResult(NamedTuple):
    """How a training went."""

    steps: int
    seconds: float
    validation: float
    """Lowest loss on the validation patches, that of the weights kept."""


class TrainProgress(NamedTuple):
    """Where a training stands."""

    step: int
    fraction: float
    """Of the steps, or of the seconds."""
    loss: float
    """Mean since the last report."""
    validation: float
    """Loss at the last validation (NaN before the first)."""
    patches_per_second: float
    stage: str = ""
    """What is done before the steps and after them (compiling, adjusting, ...); "" where steps are reported."""


#: What is told of where a training stands.
Told = Callable[[TrainProgress], None] | None


def tell_stage(progress: Told, stage: str) -> None:
    """Say what is done now, where it is no step."""
    if progress is not None:
        progress(TrainProgress(0, 0.0, math.nan, math.nan, 0.0, stage))
