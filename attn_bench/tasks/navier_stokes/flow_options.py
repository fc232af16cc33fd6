"""The options of the task ``navier-stokes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attn_bench.plugin import OptionError, Task
from attn_bench.tasks.shared.option_types import Noise, Pushforward, Seed, SolverDevice

SMALLEST, LARGEST = 8, 2048
# Points of an axis at which the equation is solved, for each of the largest resolution, and at least.
OVERSAMPLING, LEAST_FINE = 2, 64


@dataclass(frozen=True)
class NavierStokesOptions(Task.Options):
    """Options of the task; checked against each other on creation."""

    viscosity: Annotated[
        float, Field(gt=0, description="nu; arXiv:2010.08895 has 1e-3, 1e-4 and 1e-5, until times 50, 30 and 20")
    ] = 1e-4
    horizon: Annotated[int, Field(ge=2, le=1000, description="the last unit of time of a trajectory")] = 30
    history: Annotated[
        int, Field(ge=1, description="states that a model is given, one unit of time apart; it predicts the next one")
    ] = 10
    noise: Noise = 0.0
    pushforward: Pushforward = 0
    fine: Annotated[
        int | None,
        Field(
            description="points of an axis on which the equation is solved; if unset, twice the largest resolution, "
            f"at least {LEAST_FINE}"
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(ge=1, description="steps of the solver in a unit of time; if unset, as many as fine has points"),
    ] = None
    n_train: Annotated[int, Field(ge=1, description="trajectories to train on")] = 200
    n_test: Annotated[int, Field(ge=1, description="trajectories to test on")] = 50
    seed: Seed = 0
    device: SolverDevice = "cpu"

    def __post_init__(self) -> None:
        if self.history >= self.horizon:
            raise OptionError(
                f"navier-stokes.history={self.history} leaves nothing to predict until navier-stokes.horizon="
                f"{self.horizon}; choose a smaller history or a larger horizon"
            )

        if self.pushforward >= self.rollout:
            raise OptionError(
                f"navier-stokes.pushforward={self.pushforward} needs {self.pushforward + 1} states after the "
                f"{self.history} given, and trajectories have {self.rollout} until navier-stokes.horizon={self.horizon}"
            )

    @property
    def rollout(self) -> int:
        """Number of states that are predicted, one after the other, in a test."""
        return self.horizon - self.history

    def solved_on(self, resolutions: Sequence[int]) -> tuple[int, int]:
        """Return the points of an axis at which the equation is solved, and the solver's steps in a unit of time.

        Raises:
            OptionError: a resolution is out of range or odd, or has points that the grid of the solver has not.
        """
        for resolution in resolutions:
            if not SMALLEST <= resolution <= LARGEST or resolution % 2:
                raise OptionError(
                    f"navier-stokes needs an even resolution from {SMALLEST} to {LARGEST} (given: {resolution})"
                )
        fine = self.fine or _fine(resolutions)
        for resolution in resolutions:
            if fine % resolution or fine > LARGEST * OVERSAMPLING:
                raise OptionError(
                    f"the points of a {resolution} x {resolution} grid must be among those of the one on which the "
                    f"equation is solved, {fine} x {fine}; choose resolutions that divide one number, and set "
                    "navier-stokes.fine to it"
                )
        return fine, self.steps or fine


def _fine(resolutions: Sequence[int]) -> int:
    """Return the smallest multiple of the largest resolution that is large enough."""
    largest = max(resolutions)
    return largest * max(OVERSAMPLING, -(-LEAST_FINE // largest))
