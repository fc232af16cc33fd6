"""Steps in a series of measurements, one number per revision, by offline change-point detection.

Processes that run the same code differ by 1 to 2 %, and one in twenty by 10 to 20 %. So the series of log times, in
units of its own noise, is segmented by :class:`ruptures.KernelCPD` with a Gaussian kernel (Arlot, Celisse and
Harchaoui, A Kernel Multiple Change-Point Algorithm via Model Selection, JMLR 2019): a revision that is far off counts
no more than one that is off by a few times the noise. ``benchmarks/history.py`` measures how often this is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from attn_bench.analysis.statistics import exp

# Of so many processes, one that is far off does not move the median.
REPEATED = 3
# Revisions on each side of a step, and in a series.
SIDE, FEWEST = 2, 6
# The least noise that processes have, and the smallest step that is told: in logarithms, so shares.
LEAST_NOISE, SMALLEST = 0.007, 0.02
# Another place for a step is as good if it costs no more than this.
AS_GOOD = 0.6
CONFIDENCE, DRAWS = 0.95, 1000


@dataclass(frozen=True)
class Kernel:
    """How values are compared.

    Attributes:
        width: in units of the noise.
        penalty: what a step must gain: with less, noise alone makes steps.
    """

    width: float
    penalty: float

    @property
    def parameters(self) -> dict[str, float]:
        """As ruptures takes them."""
        return {"gamma": 1 / (2 * self.width**2)}


# With the wider one, a step is found after two revisions, but two odd processes in a row would be one.
SINGLE, SEVERAL = Kernel(1.5, 3.1), Kernel(2.5, 2.2)


@dataclass(frozen=True)
class Change:
    """A step between two revisions of a series.

    Attributes:
        at: index of the first value after it.
        first, last: the smallest and largest index that are as plausible.
        ratio: of the medians after and before it, up to the neighboring steps.
        low, high: 95 % confidence interval of the ratio, from a bootstrap of revisions.
    """

    at: int
    first: int
    last: int
    ratio: float
    low: float
    high: float


def changes(logs: Sequence[float], processes: int = 1) -> list[Change]:
    """Return the steps in the logarithms of one quantity over revisions, in order.

    Args:
        logs: one for each revision.
        processes: of which a value is the median, for most revisions.
    """
    values = np.asarray(logs, float)
    if len(values) < FEWEST:
        return []
    import ruptures

    scaled = (values / _noise(values)).reshape(-1, 1)
    kernel = SEVERAL if processes >= REPEATED else SINGLE
    found = ruptures.KernelCPD(kernel="rbf", params=kernel.parameters, min_size=SIDE).fit(scaled)
    ends = [int(end) for end in found.predict(pen=kernel.penalty)]
    ends = _large(values, ends)
    cost = ruptures.costs.CostRbf(**kernel.parameters).fit(scaled)
    return [_change(values, cost, *around) for around in zip([0, *ends], ends, ends[1:])]


def _noise(values: np.ndarray) -> float:
    """Return the standard deviation without steps, from the median difference of neighbors."""
    return max(float(np.median(np.abs(np.diff(values)))) / 0.6745 / 2**0.5, LEAST_NOISE)


def _large(values: np.ndarray, ends: list[int]) -> list[int]:
    """Leave out ends of segments, from the smallest step on, until every step is large enough."""
    while len(ends) > 1:
        middles = [float(np.median(values[a:b])) for a, b in zip([0, *ends], ends)]
        sizes = [abs(after - before) for before, after in pairwise(middles)]
        if min(sizes) >= SMALLEST:
            break
        ends = [end for i, end in enumerate(ends) if i != sizes.index(min(sizes))]
    return ends


def _change(values: np.ndarray, cost: Any, start: int, at: int, end: int) -> Change:
    before, after = values[start:at], values[at:end]
    generator = np.random.default_rng(0)
    draws = [np.median(generator.choice(part, (DRAWS, len(part))), axis=1) for part in (before, after)]
    log = float(np.median(after) - np.median(before))
    low, high = np.quantile(draws[1] - draws[0], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    first, last = _plausible(cost, start, at, end)
    return Change(at, first, last, exp(log), exp(min(low, log)), exp(max(high, log)))


def _plausible(cost: Any, start: int, at: int, end: int) -> tuple[int, int]:
    """Return the range of places around a step that explain the values almost as well."""

    def of(place: int) -> float:
        return float(cost.error(start, place) + cost.error(place, end))

    limit = of(at) + AS_GOOD
    first = last = at
    while first - 1 >= start + SIDE and of(first - 1) <= limit:
        first -= 1
    while last + 1 <= end - SIDE and of(last + 1) <= limit:
        last += 1
    return first, last
