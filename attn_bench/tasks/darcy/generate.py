"""Draws coefficients, solves the equation, and restricts both to the requested resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_bench.plugin import DataError
from attn_bench.tasks.darcy.gaussian_field import GaussianField
from attn_bench.tasks.darcy.grids import Layout, nodes, restrict
from attn_bench.tasks.darcy.recipes import Recipe
from attn_bench.tasks.darcy.solver import NotConverged, solve
from attn_bench.tasks.shared.streams import Arrays, Stream, check_device, make_all

# Counts changes that alter the data; part of the cache's key.
VERSION = 1
# Nodes solved at once: on a CPU they should fit in a core's cache; a GPU needs many.
CPU_NODES, CUDA_NODES = 70_000, 1 << 24


@dataclass(frozen=True)
class Distribution:
    """Everything that determines the samples, independent of resolution and number of samples."""

    recipe: Recipe
    layout: Layout
    fine: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self.recipe), "layout": self.layout, "fine": self.fine, "seed": self.seed, "version": VERSION}


def generate(
    distribution: Distribution,
    stream: Stream,
    count: int,
    resolutions: Sequence[int],
    *,
    device: str = "cpu",
    on_samples: Callable[[int], None] = lambda more: None,
) -> Arrays:
    """Return the first ``count`` samples of a stream at every resolution, all restrictions of the same solutions.

    ``high`` says where the coefficient has its high value, bool, (count, R, R); ``solution`` is float32, (count, R, R).

    Args:
        on_samples: called with the number of further finished samples.

    Raises:
        OptionError: the device does not exist.
        DataError: the solver does not converge, or there is not enough memory.
    """
    check_device("darcy", device)
    layout, fine = distribution.layout, distribution.fine
    n = nodes(layout, fine)
    field = GaussianField(distribution.recipe.alpha, distribution.recipe.tau, n, device)

    def make(chunk: range) -> dict[int, dict[str, Tensor]]:
        high, solution = _solved(distribution, field, stream, chunk)
        both = {"high": high, "solution": solution}
        return {r: {name: restrict(each, layout, fine, r) for name, each in both.items()} for r in resolutions}

    return make_all(
        "darcy",
        stream,
        count,
        {r: {"high": ((r, r), np.bool_), "solution": ((r, r), np.float32)} for r in resolutions},
        make,
        samples="Darcy samples",
        at_once=max(1, (CUDA_NODES if device == "cuda" else CPU_NODES) // n**2),
        device=device,
        on_samples=on_samples,
    )


def _solved(distribution: Distribution, field: GaussianField, stream: Stream, chunk: range) -> tuple[Tensor, Tensor]:
    recipe = distribution.recipe
    high = field.sample(distribution.seed, stream, chunk) >= 0
    a_low, a_high = torch.tensor([recipe.a_low, recipe.a_high], dtype=torch.float64, device=high.device)
    a = torch.where(high, a_high, a_low)
    try:
        return high, solve(a, recipe.forcing).u.float()
    except NotConverged as error:
        raise DataError(f"generating Darcy data failed: {error}; choose values of a that are closer together") from None
