"""What a tracker is told about a cell, from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attn_bench.plugin import Metric
from attn_bench.results.record import Record, Series
from attn_bench.results.store import Store
from attn_bench.results.table import column_values, in_brief, measured
from attn_bench.running.work import FINAL
from attn_bench.sweep.cell import flat

# Numbers of the last row that are neither measured nor metrics.
_RESULTS = (
    "train_loss", "train_steps", "train_epochs", "train_seconds", "evaluation_seconds", "tuning_seconds",
    "selected_step", "cell_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class TrackedCell:
    """A cell, in the terms of trackers.

    Attributes:
        key: id of its run, the same whenever this cell of this folder is sent.
        group: name of the results folder.
        settings: what identifies it, by name, those of options after a dot: ``options.dim``.
        curves: by part and quantity: ``train/loss``, ``validation/rel_l2``.
        final: numbers of its row in the table, by column; those of further resolutions as ``at 64/rel_l2``.
        facts: texts of that row, by column.
        failed: whether it ended with an error.
        began: when it was started, in seconds since 1970; None if unknown.
        seconds: how long it took.
    """

    key: str
    name: str
    group: str
    task: str
    status: str
    settings: Mapping[str, Any]
    curves: Mapping[str, Series]
    final: Mapping[str, float]
    facts: Mapping[str, str]
    failed: bool
    began: float | None
    seconds: float

    def points(self) -> Iterator[tuple[str, int, float, float]]:
        """Yield the name, step, seconds and value of each point of the curves that has a value."""
        for name, series in self.curves.items():
            for step, seconds, value in zip(series.steps, series.seconds, series.values):
                if value is not None:
                    yield name, step, seconds, value


def tracked_cell(record: Record, store: Store, key: str) -> TrackedCell:
    """Return what trackers are told about the cell of a record."""
    cell = record.cell
    # A cell is often trained first and measured later, in one run, of which MLflow lets no setting change.
    settings = _settings({name: value for name, value in flat(cell.to_json()).items() if name != "measure"})
    final, facts = _results(record, store, settings.keys())
    return TrackedCell(
        key=key,
        name=f"{cell.task}: {cell.title}",
        group=store.folder.resolve().name,
        task=cell.task,
        status=record.status,
        settings=settings,
        curves=curves(record),
        final=final,
        facts=facts,
        failed=record.status not in FINAL,
        began=_time(record.started),
        seconds=record.seconds or 0.0,
    )


def curves(record: Record) -> dict[str, Series]:
    """Return the curves of a record that have points, by part and quantity."""
    curve = record.training.curve if record.training else None
    if curve is None:
        return {}
    found = {"train/loss": curve.loss, f"{curve.part}/{curve.metric}": curve.error}
    return {name: series for name, series in found.items() if series.steps}


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that have a value, with those in mappings after a dot."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        found |= {key: each for key, each in inner.items() if each not in (None, [], {})}
    return found


def _results(record: Record, store: Store, settings: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Return the numbers and the texts of the rows of a record, without settings."""
    environment = store.environment(record.environment)
    metrics: Mapping[str, Metric] = store.run_info().tasks.get(record.cell.task, {})
    table = column_values(in_brief([record]), {record.environment or "": environment} if environment else {}, metrics)
    errors = {column for name in metrics for column in (name, f"{name}_low", f"{name}_high")}
    numbers = errors | {column.column for column in measured()} | {*_RESULTS}
    final: dict[str, float] = {}
    facts: dict[str, str] = {}
    for i, at in enumerate(table["eval_resolution"]):
        row = {name: values[i] for name, values in table.items() if values[i] is not None}
        own = at == record.cell.resolution
        for name, value in row.items():
            if name in numbers and isinstance(value, int | float) and (own or name in errors):
                final[name if own else f"at {at}/{name}"] = float(value)
            elif own and name not in settings and isinstance(value, str) and value:
                facts[name] = value
    return final, facts


def _time(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
