"""What results folders hold about a claim: values of a model's seeds at one resolution, and what follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attn_bench.analysis.claims.claim import LARGEST
from attn_bench.analysis.scaling import Fit, fits
from attn_bench.plugin import Metric
from attn_bench.results.labels import labels
from attn_bench.results.quantities import Quantity, at, quantities
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.varied import default_of_model

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Group:
    """Records of one variant at one resolution, one for each seed."""

    label: str
    resolution: int
    records: list[Record] = field(default_factory=list)

    @property
    def first(self) -> Record:
        return self.records[0]

    def values(self, metric: str) -> list[float]:
        """Return a metric, evaluated at the resolution trained at, or a cost, of every seed that has it."""
        measured = costs()
        found = (_cost(record, measured[metric]) if metric in measured else self._metric(record, metric)
                 for record in self.records if record.status == "ok" or metric not in measured)  # fmt: skip
        return [value for value in found if value is not None and abs(value) < LARGEST]

    def option(self, name: str) -> Any:
        """Return the value of an option of the model; its default where it is not set, None where there is none."""
        given = self.first.cell.options
        return given[name] if name in given else default_of_model(self.first.cell.plugin, name)

    def has(self, options: Mapping[str, Any]) -> bool:
        """Tell whether options of the model have these values."""
        return all(self.option(name) == value for name, value in options.items())

    def _metric(self, record: Record, metric: str) -> float | None:
        evaluation = record.evaluated_at(self.resolution)
        return evaluation.metrics.get(metric) if evaluation is not None and evaluation.status == "ok" else None


def costs() -> dict[str, Quantity]:
    """Return the measured quantities that a claim can be about, by column."""
    return {quantity.column: quantity for quantity in quantities()}


def _cost(record: Record, quantity: Quantity) -> float | None:
    value = at(record, quantity.where) if isinstance(quantity.where, str) else None
    return None if value is None else float(value)


class Run:
    """One task of a results folder."""

    def __init__(self, store: Store, task: str, metrics: Mapping[str, Metric], records: Sequence[Record]) -> None:
        self.folder, self.store = str(store.folder), store
        self.task, self.metrics = task, tuple(metrics)
        self._higher = {name for name, metric in metrics.items() if metric.direction == "higher"}
        groups: dict[tuple[str, int], Group] = {}
        for label, record in zip(labels(records), records):
            key = (label, record.cell.resolution)
            groups.setdefault(key, Group(*key)).records.append(record)
        self.groups = list(groups.values())

    def of(self, model: str, options: Mapping[str, Any]) -> list[Group]:
        """Return the groups of a plugin whose options have these values."""
        plugin = model.partition(":")[0]
        return [group for group in self.groups if group.first.cell.plugin == plugin and group.has(options)]

    def higher(self, metric: str) -> bool:
        """Tell whether higher values of a metric are better."""
        return metric in self._higher

    @cached_property
    def table(self) -> pd.DataFrame:
        """The results table."""
        table = self.store.table()
        return table if table.empty else table[table["task"] == self.task]

    @cached_property
    def fits(self) -> list[Fit]:
        """Fits of the growth of every cost of every model."""
        return fits(self.table)


def runs(store: Store) -> Iterator[Run]:
    """Yield the tasks of a results folder."""
    tasks, records = store.run_info().tasks, store.records()
    for task in dict.fromkeys((*tasks, *(record.cell.task for record in records))):
        yield Run(store, task, tasks.get(task, {}), [record for record in records if record.cell.task == task])


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or the ratio or difference of two.

    Attributes:
        seeds: how many.
        low, high: its 95 % confidence interval by Student's t; None where there are fewer than two seeds.
        deviation: sample standard deviation; None where there are fewer than two seeds.
    """

    value: float
    seeds: int
    low: float | None = None
    high: float | None = None
    deviation: float | None = None

    def holds(self, value: float) -> bool:
        """Tell whether the interval contains ``value``."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of the values of seeds."""
    return _around(statistics.fmean(values), values)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Return the difference of two means."""
    return _around(statistics.fmean(ours) - statistics.fmean(theirs), ours, theirs)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Return the ratio of two means of positive values; the interval is that of its logarithm."""
    middle = statistics.fmean(ours) / statistics.fmean(theirs)
    log = _around(0.0, *([value / statistics.fmean(values) for value in values] for values in (ours, theirs)))
    if log.high is None or log.deviation is None:
        return Estimate(middle, log.seeds)
    factor = math.exp(min(log.high, math.log(LARGEST)))
    return Estimate(
        middle, log.seeds, middle / factor, min(middle * factor, LARGEST), min(middle * log.deviation, LARGEST)
    )


def _around(middle: float, *samples: Sequence[float]) -> Estimate:
    """Return ``middle`` with the uncertainty of a sum or difference of the means of samples."""
    seeds = min(map(len, samples))
    if seeds < 2:
        return Estimate(middle, seeds)
    variances = [(statistics.variance(values), len(values)) for values in samples]
    half = _t(seeds - 1) * math.sqrt(sum(variance / n for variance, n in variances))
    deviation = math.sqrt(sum(variance for variance, _ in variances))
    return Estimate(middle, seeds, middle - half, middle + half, deviation)


def _t(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def failed(group: Group) -> Iterable[str]:
    """Return the statuses of seeds that are not ok, once each."""
    return dict.fromkeys(record.status for record in group.records if record.status != "ok")
