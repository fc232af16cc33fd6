"""How latency and memory grow with the number of tokens, and at how many tokens one model becomes cheaper than another.

A cost is fitted as c * tokens^exponent: least squares on logarithms. Small sizes do not follow that law: there a step
costs what launching its kernels costs, whatever they work on. They are left out (:func:`knee`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

COSTS: Mapping[str, str] = {
    "latency_forward_ms": "forward latency",
    "latency_train_step_ms": "train-step latency",
    "peak_memory_forward_mib": "forward peak memory",
    "peak_memory_train_mib": "train-step peak memory",
}
FEWEST_POINTS = 3
# A local slope within this of the slope at the large end belongs to the same law.
SAME_SLOPE = 0.2
# Every token has to be read, so a cost that grows more slowly than this cannot go on doing so.
FLAT = 0.7
CLAIMS: Mapping[str, float] = {"n": 1.0, "n log n": 1.0, "n^2": 2.0}
# What a measured exponent may be above its claim: a logarithm is worth 0.1 to 0.2 at these sizes, caches as much.
TOLERANCE = 0.25
FARTHEST = 64
BENT = "no straight line yet: measure larger sizes"


@dataclass(frozen=True)
class Fit:
    """cost = exp(intercept) * tokens^exponent, from ``first`` to ``last`` tokens.

    Attributes:
        model, cost: what was fitted; ``cost`` is a column of the table.
        exponent: slope of log cost over log tokens.
        low, high: its 95 % confidence interval (Student's t on the residuals of the fit).
        first, last: range of tokens the fit is made from.
        points: how many sizes there are in that range.
        claim: growth that the model claims, if it does.
        flag: why the exponent is not to be believed or not as claimed, or None.
    """

    model: str
    cost: str
    exponent: float
    intercept: float
    low: float
    high: float
    first: int
    last: int
    points: int
    claim: str | None
    flag: str | None

    def at(self, tokens: float) -> float:
        """Return the fitted cost."""
        return math.exp(self.intercept + self.exponent * math.log(tokens))


@dataclass(frozen=True)
class Crossover:
    """The size from which ``cheaper`` costs less than ``dearer``, which costs less below it.

    Attributes:
        tokens: where the curves cross: between two measured sizes, or beyond the last on the fitted lines.
        low, high: the measured sizes around it and around where else the confidence intervals of the medians let the
            curves cross; None beyond the last size, or where the intervals let them not cross at all.
        extrapolated: whether it lies beyond the last size measured.
    """

    cost: str
    cheaper: str
    dearer: str
    tokens: float
    low: float | None
    high: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Curve:
    """Costs of one model by tokens, ascending: medians over seeds, and the interval of each."""

    tokens: np.ndarray
    cost: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(table: pd.DataFrame, cost: str) -> dict[str, Curve]:
    """Return the curve of every model that has a value of ``cost``, from rows that ended ``ok``."""
    needed = ("model", "status", "tokens", cost)
    if table.empty or any(name not in table.columns for name in needed):
        return {}
    rows = table[(table["status"] == "ok") & table["tokens"].notna() & (table[cost] > 0)]
    found = {}
    stem = cost.removesuffix("_ms")
    ends = [name if name in rows.columns else cost for name in (f"{stem}_low_ms", f"{stem}_high_ms")]
    for model, group in rows.groupby("model", sort=False):
        by_size = group.groupby("tokens", sort=True)
        values = [by_size[name].median().to_numpy(float) for name in (cost, *ends)]
        tokens = by_size[cost].median().index.to_numpy(float)
        found[str(model)] = Curve(tokens, *values)
    return found


def points_of(sequence: bool) -> str:
    """Return what a size is counted in: on sequences, or on grids."""
    return "tokens" if sequence else "grid points"


def is_sequence(table: pd.DataFrame) -> bool:
    """Tell whether a resolution is the length of a sequence, of so many tokens, and not that of an axis of a grid."""
    if "tokens" not in table.columns:
        return False
    known = table[table["tokens"].notna()]
    return bool(len(known) and (known["tokens"] == known["resolution"]).all())


def knee(tokens: np.ndarray, cost: np.ndarray) -> int:
    """Return the index from which on the law holds: all slopes between neighbours are near those at the large end.

    The slope at the large end is that of the last two intervals together, which halves the noise of one.
    """
    slopes = np.diff(np.log(cost)) / np.diff(np.log(tokens))
    end = float(np.mean(slopes[-2:]))
    margin = max(SAME_SLOPE, SAME_SLOPE * abs(end))
    away = np.flatnonzero(np.abs(slopes - end) > margin)
    return int(away[-1]) + 1 if len(away) else 0


def fit(model: str, cost: str, curve: Curve, claim: str | None = None) -> Fit | None:
    """Fit the law above the knee; None with fewer than three sizes.

    Where fewer than three sizes are left above the knee, the last three are fitted and the fit is flagged.
    """
    from scipy import stats

    if len(curve.tokens) < FEWEST_POINTS:
        return None
    start = knee(curve.tokens, curve.cost)
    bent = len(curve.tokens) - start < FEWEST_POINTS
    start = min(start, len(curve.tokens) - FEWEST_POINTS)
    x, y = np.log(curve.tokens[start:]), np.log(curve.cost[start:])
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
    exponent = float(line.slope)
    return Fit(
        model=model,
        cost=cost,
        exponent=exponent,
        intercept=float(line.intercept),
        low=exponent - half,
        high=exponent + half,
        first=int(curve.tokens[start]),
        last=int(curve.tokens[-1]),
        points=len(x),
        claim=claim,
        flag=BENT if bent else _flag(cost, exponent, half, claim),
    )


def _flag(cost: str, exponent: float, half: float, claim: str | None) -> str | None:
    if exponent + half < FLAT:
        return "too flat: the sizes are too small, or the work is not measured"
    if claim is None:
        return None
    claimed = CLAIMS[claim]
    if exponent - half > claimed + TOLERANCE:
        return f"grows faster than the {claim} it claims"
    # Exact attention that keeps no scores needs no more memory than its inputs, so less is no contradiction there.
    if cost.startswith("latency") and exponent + half < claimed - TOLERANCE:
        return f"grows more slowly than the {claim} it claims: its linear parts still outweigh the rest"
    return None


def fits(table: pd.DataFrame) -> list[Fit]:
    """Fit every cost of every model in a results table."""
    found = []
    for cost in COSTS:
        for model, curve in curves(table, cost).items():
            claims = list(table.loc[table["model"] == model, "complexity"].dropna()) if "complexity" in table else []
            fitted = fit(model, cost, curve, claims[0] if claims else None)
            if fitted is not None:
                found.append(fitted)
    return found


def crossovers(table: pd.DataFrame, found: Sequence[Fit], cost: str) -> list[Crossover]:
    """Return where pairs of models change places, ascending.

    Within the sizes that both have, curves are joined by straight lines on logarithms. Beyond them the fitted lines
    are followed up to 64 times the largest size, if neither fit is flagged and their exponents' intervals are apart.
    """
    by_model = curves(table, cost)
    fitted = {fit.model: fit for fit in found if fit.cost == cost}
    result = []
    for one, other in itertools.combinations(by_model, 2):
        crossing = _measured(cost, one, other, by_model[one], by_model[other])
        if crossing is None and one in fitted and other in fitted:
            crossing = _extrapolated(cost, fitted[one], fitted[other])
        if crossing is not None:
            result.append(crossing)
    return sorted(result, key=lambda crossing: crossing.tokens)


def _measured(cost: str, one: str, other: str, a: Curve, b: Curve) -> Crossover | None:
    """Return the last change of places within the sizes both have."""
    sizes, i, j = np.intersect1d(a.tokens, b.tokens, return_indices=True)
    if len(sizes) < 2:
        return None
    x = np.log(sizes)
    gap = np.log(a.cost[i] / b.cost[j])
    at = _last_zero(x, gap)
    if at is None:
        return None
    cheaper, dearer = (one, other) if gap[-1] < 0 else (other, one)
    # The curves cross as early or as late as the ends of the intervals let them.
    ends = [_last_zero(x, np.log(p / q)) for p, q in ((a.low[i], b.high[j]), (a.high[i], b.low[j]))]
    low = high = None
    if (known := [at, *(end for end in ends if end is not None)])[2:]:
        # Between measured sizes a curve need not be straight, so a crossing is not known better than they are apart.
        low, high = float(sizes[x <= min(known)][-1]), float(sizes[x >= max(known)][0])
    return Crossover(cost, cheaper, dearer, math.exp(at), low, high, False)


def _last_zero(x: np.ndarray, y: np.ndarray) -> float | None:
    changes = np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0)
    if not len(changes):
        return None
    k = changes[-1]
    return float(x[k] - y[k] * (x[k + 1] - x[k]) / (y[k + 1] - y[k]))


def _extrapolated(cost: str, one: Fit, other: Fit) -> Crossover | None:
    if one.flag or other.flag or not (one.high < other.low or other.high < one.low):
        return None
    cheaper, dearer = (one, other) if one.exponent < other.exponent else (other, one)
    at = math.exp((cheaper.intercept - dearer.intercept) / (dearer.exponent - cheaper.exponent))
    last = max(one.last, other.last)
    return Crossover(cost, cheaper.model, dearer.model, at, None, None, True) if last < at <= FARTHEST * last else None
