"""The options of the task ``helmholtz``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from attn_bench.plugin import OptionError, Task
from attn_bench.tasks.shared.option_types import Seed, SolverDevice, TestSamples, TrainSamples

SMALLEST, LARGEST = 8, 2048
# Waves that are solved directly, relative to the longest wave vector of the medium; those of the series, to these.
DIRECT, SERIES = 1.4, 3
LEAST_MODES, MOST_DIRECT = 64, 64


@dataclass(frozen=True)
class HelmholtzOptions(Task.Options):
    """Options of the task; checked against each other on creation."""

    frequency: Annotated[float, Field(gt=0, description="omega, in radians in a unit of time")] = 1000.0
    speed: Annotated[float, Field(gt=0, description="mean of the wave speed c, in sides of the square")] = 20.0
    contrast: Annotated[
        float, Field(ge=0, description="how far c is from its mean at most: c = speed + contrast tanh(xi)")
    ] = 1.0
    alpha: Annotated[
        float, Field(gt=1, description="smoothness of the Gaussian field xi, N(0, (-Laplace + tau^2 I)^-alpha)")
    ] = 2.0
    tau: Annotated[float, Field(ge=0, description="its inverse length scale")] = 3.0
    modes: Annotated[
        int | None,
        Field(
            ge=16,
            le=512,
            description=f"cosines along each axis in which the equation is solved; if unset, at least {LEAST_MODES}",
        ),
    ] = None
    n_train: TrainSamples = 1000
    n_test: TestSamples = 200
    seed: Seed = 0
    device: SolverDevice = "cpu"

    def __post_init__(self) -> None:
        if self.contrast >= self.speed:
            raise OptionError(
                f"helmholtz.contrast={self.contrast:g} must be below helmholtz.speed={self.speed:g}, as speeds are "
                "positive"
            )
        if self.low > MOST_DIRECT:
            raise OptionError(
                f"helmholtz.frequency={self.frequency:g} has {self.waves:.0f} half waves along a side, more than "
                f"{MOST_DIRECT / DIRECT:.0f}; choose a lower frequency or a higher helmholtz.speed"
            )
        if self.modes is not None and self.modes < self.low:
            raise OptionError(f"helmholtz.modes={self.modes} is too small for the frequency; it must be >= {self.low}")

    @property
    def waves(self) -> float:
        """Half waves along a side where the speed is lowest."""
        return self.frequency / (self.speed - self.contrast) / math.pi

    @property
    def low(self) -> int:
        """Length of the wave vectors up to which equations are solved directly, in half waves along a side."""
        return max(4, math.ceil(DIRECT * self.waves))

    def resolved(self) -> HelmholtzOptions:
        """Return the options with ``modes`` set."""
        return replace(self, modes=self.modes or max(LEAST_MODES, SERIES * self.low))


def check_resolution(resolution: int) -> None:
    """Raise OptionError unless the resolution is in range."""
    if not SMALLEST <= resolution <= LARGEST:
        raise OptionError(f"helmholtz needs a resolution from {SMALLEST} to {LARGEST} (given: {resolution})")
