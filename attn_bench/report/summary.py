"""The results table, aggregated over seeds: what tables and figures are drawn from."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attn_bench.analysis.scaling import is_sequence, points_of
from attn_bench.errors import UserError
from attn_bench.format import count, distinct
from attn_bench.plugin import Metric
from attn_bench.results.quantities import quantities

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("cell", "model", "resolution", "seed", "status")
# Predicts the same whatever the input: what any model has to beat, not one to compare the cost of.
REFERENCE = "mean"
DISTURBED = "‡"


@dataclass(frozen=True)
class Stat:
    """A value over seeds.

    Attributes:
        mean: over seeds.
        low, high: smallest and largest; of latencies, the ends of the confidence intervals of the medians.
        deviation: sample standard deviation; None for one seed.
        n: seeds.
    """

    mean: float
    low: float
    high: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Failure:
    """Why seeds of an entry are not ok."""

    status: str
    reason: str | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One model trained at one resolution and evaluated at one, over seeds.

    Attributes:
        disturbed: seeds whose latencies other processes or heat disturbed.
        gaps: quantities that seeds lack though they are ok, with the reason.
        changed: what the model set for the whole process, and in which stage.
    """

    model: str
    resolution: int
    eval_resolution: int
    seeds: int
    values: Mapping[str, Stat]
    failures: tuple[Failure, ...]
    cells: tuple[str, ...]
    disturbed: int = 0
    gaps: tuple[Failure, ...] = ()
    changed: tuple[str, ...] = ()

    def mean(self, column: str) -> float | None:
        """Return the mean of a column, or None where there is no value."""
        stat = self.values.get(column)
        return stat.mean if stat else None

    def sign(self, column: str) -> str:
        """Return the mark of a latency that was disturbed."""
        return DISTURBED if self.disturbed and column.startswith("latency") else ""


@dataclass(frozen=True)
class Summary:
    """A results table over seeds.

    Attributes:
        metrics: of the task; the first is the primary one.
        models: labels in the order of the table, references left out.
        references: labels of the constant predictor.
        resolutions: trained at, ascending.
        entries: evaluated at the resolution trained at.
        transfers: evaluated at others.
        settings: what all rows have in common: task, device, precision, batch size.
        max_seeds: the most seeds behind a value.
        sequence: whether a resolution is the length of a sequence, not that of an axis of a grid.
    """

    metrics: Mapping[str, Metric]
    models: tuple[str, ...]
    references: tuple[str, ...]
    resolutions: tuple[int, ...]
    entries: tuple[Entry, ...]
    transfers: tuple[Entry, ...]
    settings: Mapping[str, str]
    max_seeds: int
    sequence: bool = False

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The name that each label is shown by, wherever it is shown."""
        return distinct([*self.models, *self.references])

    @property
    def primary(self) -> str:
        """Name of the metric that plots show."""
        return next(iter(self.metrics))

    def of(self, model: str) -> list[Entry]:
        """Entries of a model, by resolution."""
        return [entry for entry in self.entries if entry.model == model]

    @property
    def points(self) -> str:
        """What a size is counted in, in costs that grow with it."""
        return points_of(self.sequence)

    @property
    def axis(self) -> str:
        """What a resolution is, for an axis."""
        return "context length (tokens)" if self.sequence else "resolution (points along an axis)"

    @property
    def disturbed(self) -> str:
        """Say how many cells were disturbed and what follows; empty if none was."""
        cells = sum(entry.disturbed for entry in self.entries)
        if not cells:
            return ""
        said = (
            f"{DISTURBED} {count(cells, 'cell')} {'was' if cells == 1 else 'were'} disturbed by other processes or heat"
        )
        return f"{said}: such latencies are too high and are not compared; run with --retry all to measure again"

    def has(self, column: str) -> bool:
        """Tell whether any entry has a value of ``column``."""
        return any(column in entry.values for entry in self.entries)

    def best(self, column: str, resolution: int, *, higher: bool = False) -> float | None:
        """Return the best mean of a column at a resolution if at least two models compete."""
        rivals = self.rivals(column, resolution)
        means = [entry.values[column].mean for entry in rivals]
        if len(means) < 2:
            return None
        return max(means) if higher else min(means)

    def rivals(self, column: str, resolution: int) -> list[Entry]:
        """Return what competes in a column: the reference in accuracy, but not in cost; no disturbed latency."""
        barred = () if column in self.metrics else self.references
        return [
            entry for entry in self.entries
            if entry.resolution == resolution and column in entry.values
            and entry.model not in barred and not entry.sign(column)
        ]  # fmt: skip


def summarise(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> Summary:
    """Aggregate a results table over seeds.

    Raises:
        UserError: the table is empty or lacks a column that identifies its rows.
    """
    if not metrics:
        raise UserError("nothing to report: the task names no metric")
    if table.empty:
        raise UserError("nothing to report: the results hold no cell; 'attn-bench run' makes some")
    if missing := [name for name in REQUIRED if name not in table.columns]:
        raise UserError(f"the results table lacks {', '.join(missing)}; was it made by attn-bench?")
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        resolution = int(row["resolution"])
        evaluated = _number(row.get("eval_resolution"))
        key = (str(row["model"]), resolution, resolution if evaluated is None else int(evaluated))
        groups.setdefault(key, []).append(row)
    entries = sorted((_entry(key, group, metrics) for key, group in groups.items()), key=lambda e: e.resolution)
    own = tuple(entry for entry in entries if entry.eval_resolution == entry.resolution)
    labels = list(dict.fromkeys(str(row["model"]) for row in rows))
    return Summary(
        metrics=metrics,
        models=tuple(label for label in labels if not is_reference(label)),
        references=tuple(label for label in labels if is_reference(label)),
        resolutions=tuple(sorted({entry.resolution for entry in own})),
        entries=own,
        transfers=tuple(entry for entry in entries if entry.eval_resolution != entry.resolution),
        settings=_settings(rows),
        max_seeds=max((stat.n for entry in own for stat in entry.values.values()), default=0),
        sequence=is_sequence(table),
    )


def is_reference(label: str) -> bool:
    """Tell whether a label is the constant predictor's, with options or without."""
    return re.split(r":| [\[(#]", label, maxsplit=1)[0] == REFERENCE


def _entry(key: tuple[str, int, int], rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> Entry:
    model, resolution, evaluated = key
    values = {name: stat for name in (*metrics, *(q.column for q in quantities())) if (stat := _stat(rows, name))}
    failures: dict[tuple[str, str | None], list[int]] = {}
    gaps: dict[str, list[int]] = {}
    for row in rows:
        if row["status"] != "ok":
            failures.setdefault((str(row["status"]), _text(row.get("error"))), []).append(int(row["seed"]))
        elif (missing := _text(row.get("missing"))) is not None:
            gaps.setdefault(missing, []).append(int(row["seed"]))
    return Entry(
        model=model,
        resolution=resolution,
        eval_resolution=evaluated,
        seeds=len(rows),
        values=values,
        failures=tuple(Failure(status, reason, tuple(seeds)) for (status, reason), seeds in failures.items()),
        cells=tuple(str(row["cell"]) for row in rows if row["status"] == "ok"),
        disturbed=sum(_number(row.get("disturbed")) == 1 for row in rows),
        gaps=tuple(Failure("missing", reason, tuple(seeds)) for reason, seeds in gaps.items()),
        changed=tuple(dict.fromkeys(text for row in rows for text in _changed(row.get("effective")))),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _changed(effective: Any) -> list[str]:
    """Return what a model changed for the whole process, from the JSON of a row's settings in force."""
    try:
        return [str(text) for text in json.loads(effective)["changed_by_model"]]
    except (TypeError, ValueError, KeyError):
        return []


def _stat(rows: Sequence[Mapping[str, Any]], column: str) -> Stat | None:
    ends = (column.removesuffix("_ms") + "_low_ms", column.removesuffix("_ms") + "_high_ms")
    values, lows, highs = [], [], []
    for row in rows:
        value = _number(row.get(column))
        if value is None:
            continue
        low, high = (_number(row.get(end)) for end in ends) if column.endswith("_ms") else (None, None)
        values.append(value)
        lows.append(value if low is None else low)
        highs.append(value if high is None else high)
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Stat(statistics.fmean(values), min(lows), max(highs), deviation, len(values))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _settings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what all rows agree in; where they do not, the values joined."""
    settings = {}
    for name in ("task", "device_name", "device", "dtype", "batch_size"):
        found = [row.get(name) for row in rows]
        values = dict.fromkeys(_setting(value) for value in found if value is not None and value == value)
        if values:
            settings[name] = ", ".join(values)
    return settings


def _setting(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
