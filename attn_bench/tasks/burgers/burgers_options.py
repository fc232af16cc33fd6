"""The options of the task ``burgers``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from attn_bench.plugin import OptionError, Task
from attn_bench.tasks.shared.option_types import Seed, SolverDevice, TestSamples, TrainSamples

SMALLEST, LARGEST = 8, 1 << 17
# Points on which the equation is solved if unset are as many as 1 / viscosity, rounded up, and at least.
LEAST_FINE, LARGEST_FINE = 256, 1 << 16
LEAST_STEPS = 512


@dataclass(frozen=True)
class BurgersOptions(Task.Options):
    """Options of the task."""

    viscosity: Annotated[
        float, Field(gt=0, description="nu; arXiv:2010.08895 has 0.1, the generator published with it 1e-3")
    ] = 0.1
    time: Annotated[float, Field(gt=0, le=100, description="when the solution is to be predicted")] = 1.0
    alpha: Annotated[
        float, Field(gt=0.5, description="smoothness of the initial condition, sigma^2 (-Laplace + tau^2 I)^-alpha")
    ] = 2.0
    tau: Annotated[float, Field(gt=0, description="its inverse length scale")] = 5.0
    sigma: Annotated[float, Field(gt=0, description="its amplitude")] = 25.0
    mean: Annotated[
        bool, Field(description="draw the mean velocity too, as that distribution has it; it is 0 otherwise")
    ] = False
    fine: Annotated[
        int | None,
        Field(
            ge=16,
            le=LARGEST_FINE,
            description="points on which the equation is solved; if unset, the power of two from 1 / viscosity up, at "
            f"least {LEAST_FINE}",
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            description=f"steps of the solver in a unit of time; if unset, as many as fine, at least {LEAST_STEPS}",
        ),
    ] = None
    n_train: TrainSamples = 1000
    n_test: TestSamples = 200
    seed: Seed = 0
    device: SolverDevice = "cpu"

    def resolved(self) -> BurgersOptions:
        """Return the options with ``fine`` and ``steps`` set; raises OptionError if the viscosity is too small."""
        fine = self.fine or max(LEAST_FINE, 2 ** math.ceil(-math.log2(self.viscosity)))
        if fine > LARGEST_FINE:
            raise OptionError(
                f"burgers.viscosity={self.viscosity:g} needs {fine} points, more than {LARGEST_FINE}; choose a "
                f"viscosity >= {1 / LARGEST_FINE:.2g}, or fewer points with burgers.fine"
            )
        return replace(self, fine=fine, steps=self.steps or max(LEAST_STEPS, fine))


def check_resolution(resolution: int) -> None:
    """Raise OptionError unless the resolution is in range."""
    if not SMALLEST <= resolution <= LARGEST:
        raise OptionError(f"burgers needs a resolution from {SMALLEST} to {LARGEST} points (given: {resolution})")
