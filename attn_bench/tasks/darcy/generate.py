"""Draws coefficients, solves the equation, and restricts both to the requested resolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.darcy.gaussian_field import GaussianField, Stream
from attn_bench.tasks.darcy.grids import Layout, nodes, restrict
from attn_bench.tasks.darcy.recipes import Recipe
from attn_bench.tasks.darcy.solver import NotConverged, solve
from attn_bench.tasks.shared.array_formats.contents import check_memory

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


@dataclass(frozen=True)
class Samples:
    """Samples of one resolution.

    Attributes:
        high: where the coefficient has its high value, bool, shape (N, R, R).
        solution: float32, shape (N, R, R).
    """

    high: np.ndarray
    solution: np.ndarray


def generate(
    distribution: Distribution,
    stream: Stream,
    count: int,
    resolutions: Sequence[int],
    *,
    device: str = "cpu",
    on_samples: Callable[[int], None] = lambda more: None,
) -> dict[int, Samples]:
    """Return the first ``count`` samples of a stream at every resolution, all restrictions of the same solutions.

    On the CPU each of torch's threads solves its own samples, which is faster than sharing each operation among them.

    Args:
        on_samples: called with the number of further finished samples.

    Raises:
        OptionError: the device does not exist.
        DataError: the solver does not converge, or there is not enough memory.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("darcy.device=cuda: no CUDA device found; use darcy.device=cpu")
    made = f"making {count} Darcy samples at {', '.join(map(str, resolutions))}"
    check_memory(made, 5 * count * sum(r**2 for r in resolutions), f"ask for fewer with darcy.n_{stream}")
    n = nodes(distribution.layout, distribution.fine)
    size = max(1, (CUDA_NODES if device == "cuda" else CPU_NODES) // n**2)
    chunks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    field = GaussianField(distribution.recipe.alpha, distribution.recipe.tau, n, device)
    done: dict[int, Samples] = {
        r: Samples(np.empty((count, r, r), np.bool_), np.empty((count, r, r), np.float32)) for r in resolutions
    }

    def make(chunk: range) -> range:
        high, solution = _solved(distribution, field, stream, chunk)
        for r, samples in done.items():
            rows = slice(chunk.start, chunk.stop)
            samples.high[rows] = restrict(high, distribution.layout, distribution.fine, r).cpu().numpy()
            samples.solution[rows] = restrict(solution, distribution.layout, distribution.fine, r).cpu().numpy()
        return chunk

    for chunk in on_threads(make, chunks, 1 if device == "cuda" else torch.get_num_threads()):
        on_samples(len(chunk))
    return done


def _solved(distribution: Distribution, field: GaussianField, stream: Stream, chunk: range) -> tuple[Tensor, Tensor]:
    recipe = distribution.recipe
    high = field.sample(distribution.seed, stream, chunk) >= 0
    a_low, a_high = torch.tensor([recipe.a_low, recipe.a_high], dtype=torch.float64, device=high.device)
    a = torch.where(high, a_high, a_low)
    try:
        return high, solve(a, recipe.forcing).u.float()
    except NotConverged as error:
        raise DataError(f"generating Darcy data failed: {error}; choose values of a that are closer together") from None


def on_threads(make: Callable[[range], range], chunks: Sequence[range], workers: int) -> Iterator[range]:
    """Yield the chunks in order, each after ``make`` processed it in its own thread with one torch thread."""
    if workers == 1:
        yield from map(make, chunks)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(make, chunks)
    finally:
        pool.shutdown(cancel_futures=True)
        # The number is partly per process, not per thread.
        torch.set_num_threads(threads)
