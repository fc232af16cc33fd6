"""The results table aggregated over seeds, the basis of tables and figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from attn_bench.analysis.pareto import pareto_front
from attn_bench.analysis.scaling import Scaling, points_of, scaling, uneven
from attn_bench.errors import UserError
from attn_bench.format import count, distinct, plain, significant
from attn_bench.plugin import Metric
from attn_bench.report.entry import DISTURBED, ON_TEST, Entry, Failure, entry_of, number
from attn_bench.results.quantities import Place, Quantity, of_metric, quantities

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("cell", "model", "resolution", "seed", "status")
# Figures and tables with more models than this cannot be read.
MOST_MODELS = 40
# Metrics of models that compute the same differ by less than this share, by rounding.
ALIKE = 1e-4


@dataclass(frozen=True)
class Summary:
    """A results table aggregated over seeds.

    Attributes:
        table: the table that it summarizes, without the models that are left out.
        metrics: of the task, in its order; the first is the primary one.
        models: labels in the order of the table, references left out.
        references: labels of constant predictors: any model has to beat them, and their cost is not compared.
        resolutions: trained at, ascending.
        entries: evaluated at the resolution trained at.
        transfers: evaluated at others.
        settings: task, device, precision and batch size, which all rows share.
        max_seeds: the largest number of seeds behind a value.
        points: the unit of sizes (:func:`attn_bench.analysis.scaling.points_of`).
        left_out: number of models that are not shown, as there are more than :data:`MOST_MODELS`.
        statuses: number of cells by status, with those of all models.
    """

    table: pd.DataFrame = field(repr=False, compare=False)
    metrics: tuple[Quantity, ...]
    models: tuple[str, ...]
    references: tuple[str, ...]
    resolutions: tuple[int, ...]
    entries: tuple[Entry, ...]
    transfers: tuple[Entry, ...]
    settings: Mapping[str, str]
    max_seeds: int
    points: str = "grid points"
    left_out: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The name under which each label is shown."""
        return distinct([*self.models, *self.references])

    @cached_property
    def scaling(self) -> Scaling | None:
        """How costs grow, references left out; None if no model has a cost at three or more sizes."""
        return scaling(self.table[~self.table["model"].astype(str).isin(self.references)])

    @property
    def task(self) -> str:
        """The name of the task, fit for a heading."""
        return plain(self.settings.get("task", "results"), 80)

    @property
    def primary(self) -> Quantity:
        """The metric that figures show."""
        return self.metrics[0]

    def shown(self, place: Place) -> list[Quantity]:
        """Return the quantities with a value that are shown at a place: counts of a model, its metrics, its costs."""
        costs = quantities(place)
        each = [
            *(quantity for quantity in costs if not quantity.own),
            *(metric for metric in self.metrics if place in metric.shown),
            *(quantity for quantity in costs if quantity.own),
        ]
        return [quantity for quantity in each if self.has(quantity)]

    def of(self, model: str) -> list[Entry]:
        """Return the entries of a model, by resolution."""
        return [entry for entry in self.entries if entry.model == model]

    @cached_property
    def rows(self) -> list[Entry]:
        """Every entry, by resolution and model; evaluations at other resolutions follow the one trained at."""
        order = [*self.models, *self.references]
        return sorted(
            (*self.entries, *self.transfers),
            key=lambda e: (e.resolution, order.index(e.model), e.transfer, e.eval_resolution),
        )

    @property
    def detailed(self) -> list[Entry]:
        """The entries, at the resolution trained at, that have a metric which says more about an error."""
        details = self.shown("details")
        return [
            entry for entry in self.rows if not entry.transfer and any(each.column in entry.values for each in details)
        ]

    def failures(self) -> Iterator[tuple[Entry, Failure]]:
        """Yield each failure of an entry; a failed training is not repeated for other resolutions."""
        untrained = {(e.model, e.resolution, failure.status) for e in self.entries for failure in e.failures}
        for entry in (*self.entries, *self.transfers):
            for failure in entry.failures:
                if not entry.transfer or (entry.model, entry.resolution, failure.status) not in untrained:
                    yield entry, failure

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield which ok cells lack a quantity and which one, and what their models changed."""
        for entry in self.entries:
            who = f"{self.names[entry.model]} at {entry.resolution}"
            for gap in entry.gaps:
                yield f"{who} ({gap.where})", f"not measured: {gap.reason}"
            for text in entry.changed:
                yield who, f"the model changed {text}"

    @property
    def selection(self) -> str:
        """A sentence on the models that are not shown; empty if all are."""
        if not self.left_out:
            return ""
        (cost,) = quantities("trade-off")
        verb, rank = ("is", "ranks") if self.left_out == 1 else ("are", "rank")
        return (
            f"{self.left_out} more, which {rank} lower in {self.primary.axis} and {cost.axis} at every resolution, "
            f"{verb} in table.csv only."
        )

    @property
    def size(self) -> str:
        """What a resolution is called: on a line or of a text a length."""
        return "resolution" if self.points == "grid points" else "length"

    @property
    def axis(self) -> str:
        """What a resolution means, as the label of an axis."""
        known = {"tokens": "context length (tokens)", "points": "length (points)"}
        return known.get(self.points, "resolution (points along an axis)")

    @property
    def disturbed(self) -> str:
        """A sentence on how many cells were disturbed and what follows; empty if none was."""
        cells = sum(entry.disturbed for entry in self.entries)
        if not cells:
            return ""
        verb = "was" if cells == 1 else "were"
        return (
            f"{DISTURBED} {count(cells, 'cell')} {verb} disturbed by other processes or heat: such latencies are too "
            "high and are not compared; run with --retry disturbed to measure again"
        )

    @property
    def on_test(self) -> str:
        """Say which metrics are too good as weights were chosen by them; empty if none was."""
        if not any(entry.on_test for entry in self.entries):
            return ""
        return (
            f"{ON_TEST} best on test: the weights with the best test error along the training, as some papers report; "
            "such an error is too good, and is not compared with others"
        )

    @cached_property
    def alike(self) -> str:
        """A sentence on models that seem to compute the same at a resolution; empty if there are none.

        They have as many parameters and the same metrics up to rounding. Shares of samples do not tell models apart.
        """
        continuous = [metric for metric in self.metrics if metric.unit != "%"]
        (parameters,) = (each for each in quantities() if each.name == "parameters")
        groups: dict[tuple[int, float], list[tuple[int, Entry]]] = {}
        for place, entry in enumerate(self.entries):
            if entry.model not in self.references and (size := entry.mean(parameters)) is not None:
                groups.setdefault((entry.resolution, size), []).append((place, entry))
        pairs = [
            (at, (one, other))
            for group in groups.values()
            for (at, one), (_, other) in combinations(group, 2)
            if _same(one, other, continuous) and _same(one, other, self.metrics)
        ]
        if not pairs:
            return ""
        one, other = min(pairs, key=itemgetter(0))[1]
        more = f" and {count(len(pairs) - 1, 'other pair')}" if len(pairs) > 1 else ""
        return (
            f"{self.names[one.model]} and {self.names[other.model]} at {one.resolution}{more} have the same parameters "
            "and errors; they may compute the same, as where the size of a window covers the whole input"
        )

    @property
    def said(self) -> list[str]:
        """The sentences that qualify the values of a table."""
        return [sentence for sentence in (self.disturbed, self.on_test, self.alike) if sentence]

    @property
    def metric_bars(self) -> str:
        """Say what the interval of a metric is; empty if there is none."""
        stats = [entry.values[self.primary.column] for entry in self.entries if self.primary.column in entry.values]
        several = any(stat.n > 1 for stat in stats)
        parts = ["from the lowest to the highest seed"] if several else []
        if any(stat.n == 1 and stat.high > stat.low for stat in stats):
            alone = " of a model with one seed" if several else ""
            parts.append(f"the 95 % confidence interval over test samples{alone}")
        return ", or ".join(parts)

    @cached_property
    def batches(self) -> str:
        """Say which costs are not compared because batches differ in size; empty if all are."""
        said = ["growth with size is not fitted"] if uneven(self.table) else []
        costs = [quantity for quantity in quantities() if quantity.group.of_batch]
        if any(_of_unlike_batches(cost, self.candidates(cost, at)) for at in self.resolutions for cost in costs):
            said.insert(0, "costs of different batches are not compared")
        return " and ".join(said)

    def has(self, quantity: Quantity) -> bool:
        """Tell whether any entry has a value of a quantity."""
        return any(quantity.column in entry.values for entry in self.entries)

    def candidates(self, quantity: Quantity, resolution: int) -> list[Entry]:
        """Return the entries that compete in a quantity: references only in accuracy, no disturbed latencies.

        Errors by which weights were chosen compete only with each other.
        """
        excluded = () if quantity.rule == "accuracy" else self.references
        found = [
            entry for entry in self.entries
            if entry.resolution == resolution and quantity.column in entry.values and entry.model not in excluded
        ]  # fmt: skip
        unmarked = [entry for entry in found if not entry.sign(quantity)]
        return unmarked if unmarked or quantity.rule != "accuracy" else found

    def best(self, quantity: Quantity, resolution: int) -> list[Entry]:
        """Return the entries with the best value as displayed, at a resolution where at least two compete."""
        candidates = self.candidates(quantity, resolution)
        if not quantity.ranked or len(candidates) < 2 or _of_unlike_batches(quantity, candidates):
            return []
        means = {id(entry): entry.values[quantity.column].mean for entry in candidates}
        best = significant((max if quantity.higher else min)(means.values()))
        return [entry for entry in candidates if significant(means[id(entry)]) == best]

    def is_best(self, quantity: Quantity, entry: Entry) -> bool:
        """Tell whether an entry has the best value of its resolution (:meth:`best`)."""
        return any(entry is best for best in self.best(quantity, entry.resolution))

    def front(self, cost: Quantity, resolution: int) -> list[Entry]:
        """Return the Pareto front of a cost and the primary metric at a resolution, cheapest first."""
        score = self.primary.column
        candidates = [entry for entry in self.candidates(cost, resolution) if score in entry.values]
        if _of_unlike_batches(cost, candidates):
            return []
        return pareto_front(
            candidates, lambda e: e.values[cost.column].mean, lambda e: e.values[score].mean, higher=self.primary.higher
        )


def _of_unlike_batches(quantity: Quantity, entries: Sequence[Entry]) -> bool:
    return quantity.group.of_batch and len(frozenset[float]().union(*(entry.batches for entry in entries))) > 1


def summarise(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> Summary:
    """Aggregate a results table over seeds.

    Raises:
        UserError: the table is empty or lacks a column that identifies its rows.
    """
    if not metrics:
        raise UserError("nothing to report: the task has no metric")
    if table.empty:
        raise UserError("nothing to report: the results have no cells yet; run 'attn-bench run' first")
    if missing := [name for name in REQUIRED if name not in table.columns]:
        raise UserError(f"the results table lacks {', '.join(missing)}; was it written by attn-bench?")
    # Much faster than the same by pandas.
    names, values = list(map(str, table.columns)), [table.iloc[:, i].tolist() for i in range(table.shape[1])]
    rows: list[dict[str, Any]] = [dict(zip(names, row)) for row in zip(*values)]
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        resolution = int(row["resolution"])
        evaluated = number(row.get("eval_resolution"))
        key = (str(row["model"]), resolution, resolution if evaluated is None else int(evaluated))
        groups.setdefault(key, []).append(row)
    named = tuple(of_metric(name, metric) for name, metric in metrics.items())
    each = (*named, *quantities())
    entries = sorted((entry_of(key, group, each) for key, group in groups.items()), key=lambda e: e.resolution)
    own = [entry for entry in entries if not entry.transfer]
    labels = dict.fromkeys(str(row["model"]) for row in rows)
    references = {str(row["model"]) for row in rows if row.get("reference") is True}
    # Evaluations of a cell at other resolutions are not cells.
    statuses = Counter(table.drop_duplicates("cell")["status"].astype(str))
    models = [label for label in labels if label not in references]
    shown = {*references, *_foremost(models, own, named[0])}
    if len(labels) > len(shown):
        entries, own = ([entry for entry in of if entry.model in shown] for of in (entries, own))
        table = table[table["model"].astype(str).isin(shown)]
    return Summary(
        table=table,
        metrics=named,
        models=tuple(model for model in models if model in shown),
        references=tuple(label for label in labels if label in references),
        # Kept weights may be evaluated only where they were not trained.
        resolutions=tuple(sorted({entry.resolution for entry in own or entries})),
        entries=tuple(own),
        transfers=tuple(entry for entry in entries if entry.transfer),
        settings=_settings(rows),
        max_seeds=max((stat.n for entry in own for stat in entry.values.values()), default=0),
        points=points_of(table),
        left_out=len(labels) - len(shown),
        statuses=statuses,
    )


def _same(one: Entry, other: Entry, each: Sequence[Quantity]) -> bool:
    """Tell whether both have some of these quantities, and the same values of them but for rounding."""
    values = [(one.mean(quantity), other.mean(quantity)) for quantity in each]
    known = [(a, b) for a, b in values if a is not None and b is not None]
    return bool(known) and all(math.isclose(a, b, rel_tol=ALIKE) for a, b in known)


def _foremost(models: Sequence[str], entries: Sequence[Entry], metric: Quantity) -> list[str]:
    """Return at most :data:`MOST_MODELS` models: those that rank highest in the metric or latency at a resolution."""
    if len(models) <= MOST_MODELS:
        return list(models)
    best = dict.fromkeys(models, len(models))
    for quantity in (metric, *quantities("trade-off")):
        for resolution in {entry.resolution for entry in entries}:
            found = [
                e for e in entries if e.resolution == resolution and e.model in best and quantity.column in e.values
            ]
            found.sort(key=lambda e: e.values[quantity.column].mean, reverse=quantity.higher)
            for rank, entry in enumerate(found):
                best[entry.model] = min(best[entry.model], rank)
    return sorted(models, key=best.__getitem__)[:MOST_MODELS]


def _settings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the value that all rows share, or the different values joined."""
    settings = {}
    for name in ("task", "device_name", "device", "precision", "batch_size"):
        found = [row.get(name) for row in rows]
        values = dict.fromkeys(_setting(value) for value in found if value is not None and value == value)
        if values:
            settings[name] = ", ".join(values)
    return settings


def _setting(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
