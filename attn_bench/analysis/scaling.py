"""How latency and memory grow with the number of tokens, and at how many tokens one model becomes cheaper than another.

A cost is fitted as c * tokens^exponent, by least squares on logarithms. Small sizes do not follow that law, as there
the time of a step is that of launching its kernels. They are left out (:func:`knee`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attn_bench.errors import UserError
from attn_bench.plugin import KINDS
from attn_bench.plugins.registry import TASKS
from attn_bench.results.quantities import Quantity, drawn

if TYPE_CHECKING:
    import pandas as pd

FEWEST_POINTS = 3
# A local slope within this of the slope at the large end belongs to the same law.
SAME_SLOPE = 0.2
# Every token has to be read, so no cost keeps growing more slowly than this.
FLAT = 0.7
EXPONENTS: Mapping[str, float] = {"n": 1.0, "n log n": 1.0, "n^2": 2.0}
# How far a measured exponent may exceed the claim: a logarithm adds 0.1 to 0.2 at these sizes, and so do caches.
TOLERANCE = 0.25
FARTHEST = 64
BENT = "not a straight line yet: measure larger sizes"
EQUAL = "the costs are equal at these sizes, so they have no exponent"
# Clocks and allocators cannot distinguish closer exponents, even if noise-free numbers seem to.
CLOSEST = 1e-6
LARGEST = 1e300


@dataclass(frozen=True)
class Fit:
    """cost = exp(intercept) * tokens^exponent, from ``first`` to ``last`` tokens.

    Attributes:
        model, cost: what was fitted; ``cost`` is a column of the table.
        exponent: slope of log cost over log tokens.
        low, high: its 95 % confidence interval (Student's t on the residuals of the fit).
        first, last: range of tokens the fit is made from.
        points: how many sizes there are in that range.
        complexity: the complexity that the model claims, if any.
        flag: why the exponent is unreliable or differs from the claim, or None.
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
    complexity: str | None
    flag: str | None

    def at(self, tokens: float) -> float:
        """Return the fitted cost; infinite if it exceeds the range of floats."""
        try:
            return math.exp(self.intercept + self.exponent * math.log(tokens))
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Crossover:
    """The size from which ``cheaper`` costs less than ``costlier``, which costs less below it.

    Attributes:
        tokens: where the curves cross, between two measured sizes, or beyond the last one on the fitted lines.
        low, high: the measured sizes around every crossing that the confidence intervals of the medians allow; None
            beyond the last size, or if the intervals allow no crossing at all.
        extrapolated: whether it is beyond the last size measured.
    """

    cost: str
    cheaper: str
    costlier: str
    tokens: float
    low: float | None
    high: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Uncrossed:
    """Two models for which it is unknown whether their costs cross beyond the measured sizes, and why."""

    cost: str
    one: str
    other: str
    reason: str


@dataclass(frozen=True)
class Curve:
    """Costs of one model by tokens, ascending: medians over seeds, and the interval of each."""

    tokens: np.ndarray
    cost: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Scaling:
    """Curves, fits and crossovers of a results table.

    Attributes:
        curves: by cost and model.
        uncrossed: pairs for which a crossing beyond the measured sizes is unknown.
    """

    curves: Mapping[str, Mapping[str, Curve]]
    fits: Sequence[Fit]
    crossovers: Sequence[Crossover]
    uncrossed: Sequence[Uncrossed] = ()

    @property
    def costs(self) -> list[Quantity]:
        """The costs that are fitted."""
        fitted = {fit.cost for fit in self.fits}
        return [quantity for cost, quantity in drawn().items() if cost in fitted]

    def of(self, model: str) -> dict[str, Fit]:
        """Return the fits of a model by cost."""
        return {fit.cost: fit for fit in self.fits if fit.model == model}


def scaling(table: pd.DataFrame) -> Scaling | None:
    """Analyze a table; None if no model has a cost at three or more sizes."""
    by_cost = {cost: of for cost in drawn() if (of := curves(table, cost))}
    found = _fits(table, by_cost)
    if not found:
        return None
    comparable = [(cost, alike) for cost, of in by_cost.items() for alike in _of_like_batches(table, of)]
    return Scaling(
        by_cost,
        found,
        [crossing for cost, of in comparable for crossing in crossovers(of, found, cost)],
        [pair for cost, of in comparable for pair in uncrossed(of, found, cost)],
    )


def _of_like_batches(table: pd.DataFrame, curves: Mapping[str, Curve]) -> list[dict[str, Curve]]:
    """Return curves in groups of models with batches of one size, as costs of other batches are not comparable."""
    sizes = _batches(table)
    found: dict[frozenset[float], dict[str, Curve]] = {}
    for model, curve in curves.items():
        found.setdefault(sizes.get(model, frozenset()), {})[model] = curve
    return list(found.values())


def curves(table: pd.DataFrame, cost: str) -> dict[str, Curve]:
    """Return the curve of every model with a positive, finite ``cost``, from rows with status ``ok``.

    Costs are of a batch: models whose batches differ in size (:func:`uneven`) have none. An end of an interval that is
    not positive and finite, or on the wrong side of the cost, is replaced by the cost.
    """
    import pandas as pd

    needed = ("model", "status", "tokens", cost)
    if table.empty or any(name not in table.columns for name in needed):
        return {}
    quantity = drawn()[cost]
    ends = [name if (name := quantity.end(end)) in table.columns else cost for end in ("low", "high")]
    values = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in ("tokens", cost, *ends)}
    # The limit leaves room for a sum of two.
    numbers = pd.DataFrame(values).where(lambda frame: (frame > 0) & (frame < LARGEST))
    rows = numbers.assign(model=table["model"])[table["status"] == "ok"].dropna(subset=["tokens", cost])
    rows = rows[~rows["model"].isin(uneven(table))]
    found = {}
    for model, group in rows.groupby("model", sort=False):
        by_size = group.groupby("tokens", sort=True)[list(dict.fromkeys((cost, *ends)))].median()
        middle, low, high = (by_size[name].to_numpy(float) for name in (cost, *ends))
        tokens = by_size.index.to_numpy(float)
        found[str(model)] = Curve(tokens, middle, np.fmin(low, middle), np.fmax(high, middle))
    return found


def uneven(table: pd.DataFrame) -> set[str]:
    """Return the models whose batches do not have the same number of samples at every size."""
    return {model for model, sizes in _batches(table).items() if len(sizes) > 1}


def _batches(table: pd.DataFrame) -> dict[str, frozenset[float]]:
    """Return the numbers of samples in the batches of each model; none where the table does not say."""
    if "batch_size" not in table.columns:
        return {}
    ok = table[table["status"] == "ok"].dropna(subset=["batch_size"])
    return {str(model): frozenset(of) for model, of in ok.groupby("model", observed=True)["batch_size"]}


def points_of(table: pd.DataFrame) -> str:
    """Return the unit of sizes: ``tokens`` of texts and ``points`` on a line, or ``grid points``.

    A line is that of a text if its task is not installed.
    """
    known = table[table["tokens"].notna()] if "tokens" in table.columns else table[:0]
    if not len(known) or not (known["tokens"] == known["resolution"]).all():
        return "grid points"
    return "tokens" if all(map(_is_text, known["task"].astype(str).unique())) else "points"


def _is_text(task: str) -> bool:
    try:
        return KINDS[TASKS.load(task).kind].text
    except UserError:
        return True


def knee(tokens: np.ndarray, cost: np.ndarray) -> int:
    """Return the index from which the law holds: all slopes between neighbors are close to that at the large end.

    The slope at the large end is taken over the last two intervals, which halves the noise.
    """
    slopes = np.diff(np.log(cost)) / np.diff(np.log(tokens))
    end = float(np.mean(slopes[-2:]))
    margin = max(SAME_SLOPE, SAME_SLOPE * abs(end))
    away = np.flatnonzero(np.abs(slopes - end) > margin)
    return int(away[-1]) + 1 if len(away) else 0


def fit(model: str, cost: str, curve: Curve, complexity: str | None = None) -> Fit | None:
    """Fit the law above the knee; None with fewer than three sizes.

    If fewer than three sizes are left above the knee, the last three are fitted and the fit is flagged. Equal costs are
    flagged too, as they follow no law.
    """
    from scipy import stats

    if len(curve.tokens) < FEWEST_POINTS:
        return None
    start = knee(curve.tokens, curve.cost)
    bent = len(curve.tokens) - start < FEWEST_POINTS
    start = min(start, len(curve.tokens) - FEWEST_POINTS)
    x, y = np.log(curve.tokens[start:]), np.log(curve.cost[start:])
    exponent = float(np.polynomial.polynomial.polyfit(x - x.mean(), y - y.mean(), 1)[1])
    rest = y - y.mean() - exponent * (x - x.mean())
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float((x - x.mean()) @ (x - x.mean())))
    half = max(float(stats.t.ppf(0.975, len(x) - 2)) * error, CLOSEST)
    equal = float(np.ptp(y)) < CLOSEST
    return Fit(
        model=model,
        cost=cost,
        exponent=exponent,
        intercept=float(y.mean() - exponent * x.mean()),
        low=exponent - half,
        high=exponent + half,
        first=int(curve.tokens[start]),
        last=int(curve.tokens[-1]),
        points=len(x),
        complexity=complexity,
        flag=EQUAL if equal else BENT if bent else _flag(cost, exponent, half, complexity),
    )


def _flag(cost: str, exponent: float, half: float, complexity: str | None) -> str | None:
    if exponent + half < FLAT:
        return "too flat: the sizes are too small, or the work is not measured"
    if complexity is None or complexity not in EXPONENTS:
        return None
    claimed = EXPONENTS[complexity]
    if exponent - half > claimed + TOLERANCE:
        return f"grows faster than the {complexity} it claims"
    # Exact attention that stores no scores needs no more memory than its inputs, so less memory is no contradiction.
    if drawn()[cost].rule == "timed" and exponent + half < claimed - TOLERANCE:
        return f"grows more slowly than the {complexity} it claims: its linear parts still outweigh the rest"
    return None


def fits(table: pd.DataFrame) -> list[Fit]:
    """Fit every cost of every model in a results table."""
    return _fits(table, {cost: curves(table, cost) for cost in drawn()})


def _fits(table: pd.DataFrame, by_cost: Mapping[str, Mapping[str, Curve]]) -> list[Fit]:
    claimed: dict[str, str] = {}
    if "complexity" in table:
        claims = table[["model", "complexity"]].dropna().drop_duplicates("model")
        claimed = dict(zip(claims["model"].astype(str), claims["complexity"]))
    each = (fit(model, cost, curve, claimed.get(model)) for cost, of in by_cost.items() for model, curve in of.items())
    return [fitted for fitted in each if fitted is not None]


def crossovers(by_model: Mapping[str, Curve], found: Sequence[Fit], cost: str) -> list[Crossover]:
    """Return where the curves of a cost of pairs of models cross, ascending.

    Within the sizes that both have, points are joined by straight lines on logarithms. Beyond them the fitted lines are
    used up to 64 times the largest size, if neither fit is flagged and the intervals of the exponents do not overlap.
    """
    judged = (each for each in _pairs(by_model, found, cost) if isinstance(each, Crossover))
    return sorted(judged, key=lambda crossing: crossing.tokens)


def uncrossed(by_model: Mapping[str, Curve], found: Sequence[Fit], cost: str) -> list[Uncrossed]:
    """Return the pairs of models that do not cross at the measured sizes, and may cross beyond."""
    return [each for each in _pairs(by_model, found, cost) if isinstance(each, Uncrossed)]


def _pairs(by_model: Mapping[str, Curve], found: Sequence[Fit], cost: str) -> Iterator[Crossover | Uncrossed | None]:
    fitted = {fit.model: fit for fit in found if fit.cost == cost}
    for one, other in itertools.combinations(by_model, 2):
        crossing = _measured(cost, one, other, by_model[one], by_model[other])
        if crossing is None and one in fitted and other in fitted:
            yield _extrapolated(cost, fitted[one], fitted[other])
        else:
            yield crossing


def _measured(cost: str, one: str, other: str, a: Curve, b: Curve) -> Crossover | None:
    """Return the last crossing within the sizes that both have."""
    sizes, i, j = np.intersect1d(a.tokens, b.tokens, return_indices=True)
    if len(sizes) < 2:
        return None
    x = np.log(sizes)
    gap = np.log(a.cost[i]) - np.log(b.cost[j])
    at = _last_zero(x, gap)
    if at is None:
        return None
    cheaper, costlier = (one, other) if gap[gap != 0][-1] < 0 else (other, one)
    # The earliest and the latest crossing that the ends of the intervals allow.
    ends = [_last_zero(x, np.log(p) - np.log(q)) for p, q in ((a.low[i], b.high[j]), (a.high[i], b.low[j]))]
    low = high = None
    if (known := [at, *(end for end in ends if end is not None)])[2:]:
        # A curve need not be straight between measured sizes, so a crossing is known only up to their distance.
        low, high = float(sizes[x <= min(known)][-1]), float(sizes[x >= max(known)][0])
    return Crossover(cost, cheaper, costlier, math.exp(at), low, high, False)


def _last_zero(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return where y changes its sign for the last time, or where it is zero for the last time before that."""
    apart = np.flatnonzero(y)
    changes = np.flatnonzero(np.sign(y[apart[:-1]]) * np.sign(y[apart[1:]]) < 0)
    if not len(changes):
        return None
    before, after = apart[changes[-1]], apart[changes[-1] + 1]
    if after - before > 1:
        return float(x[after - 1])
    return float(x[before] - y[before] * (x[after] - x[before]) / (y[after] - y[before]))


def _extrapolated(cost: str, one: Fit, other: Fit) -> Crossover | Uncrossed | None:
    """Return where two lines cross beyond the sizes, or why that is unknown; None if they diverge."""
    reason = ""
    if one.flag or other.flag:
        reason = "a fit is flagged"
    elif not (one.high < other.low or other.high < one.low):
        reason = "the intervals of their exponents overlap"
    if reason:
        return Uncrossed(cost, one.model, other.model, reason)
    cheaper, costlier = (one, other) if one.exponent < other.exponent else (other, one)
    last = max(one.last, other.last)
    # Compared as logarithms: nearly parallel lines cross at numbers that overflow a float.
    log = (cheaper.intercept - costlier.intercept) / (costlier.exponent - cheaper.exponent)
    if log > math.log(FARTHEST * last):
        return Uncrossed(cost, one.model, other.model, f"they would cross beyond {FARTHEST} times the largest size")
    return (
        Crossover(cost, cheaper.model, costlier.model, math.exp(log), None, None, True)
        if log > math.log(last)
        else None
    )
