"""Options that several tasks have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Seed = Annotated[int, Field(ge=0, description="seed of the data, independent of the models' seeds")]
SolverDevice = Annotated[Literal["cpu", "cuda"], Field(description="device on which the equation is solved")]
TrainSamples = Annotated[int, Field(ge=1, description="samples to train on")]
TestSamples = Annotated[int, Field(ge=1, description="samples to test on")]
Noise = Annotated[
    float,
    Field(
        ge=0,
        description="standard deviation of noise added to the states given in training, relative to that of the "
        "training set: makes rollouts more stable (arXiv:2002.09405)",
    ),
]
Pushforward = Annotated[
    int,
    Field(
        ge=0,
        description="steps, at most, that a model takes in training from its own predictions before the step whose "
        "error is trained on, without gradients; drawn for each batch (pushforward trick, arXiv:2202.03376)",
    ),
]
