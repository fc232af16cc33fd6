"""The leaderboard: every model at every resolution it was trained at, over seeds, ranked among what is comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from attn_bench.format import count, plain, significant
from attn_bench.publish.gathered import Gathered
from attn_bench.report.entry import Entry, entry_of
from attn_bench.report.rows import options_in_words
from attn_bench.report.tables import text
from attn_bench.results.quantities import Quantity, of_metric, quantities
from attn_bench.results.record import Record

PARAMETERS = "parameters"
OPTIONS_SHOWN = 160


class Key(NamedTuple):
    """What a row of the leaderboard is of: a model of a run at a resolution on a machine.

    Attributes:
        setting: data and budget of training; only models with the same one are ranked against each other.
    """

    task: str
    setting: str
    model: str
    resolution: int
    machine: str
    run: str


@dataclass(frozen=True)
class Place:
    """A row of the leaderboard.

    Attributes:
        name: of the model, as it is shown.
        seeds: number of cells that it is of.
        rank: in the task's first metric, at that resolution and setting, from 1; None without a value. Constant
            predictors, and errors by which the weights were chosen, have none either.
        values: number and text of the metric, the costs, and the parameters; None where there is none.
    """

    key: Key
    name: str
    options: str
    status: str
    seeds: int
    rank: int | None
    values: tuple[tuple[float, str] | None, ...]


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        metrics: the first metric of each task, which ranks its models.
        costs: quantities shown after it.
        places: its rows.
    """

    metrics: Mapping[str, Quantity]
    costs: Sequence[Quantity]
    places: Sequence[Place]


def board(found: Gathered) -> Board:
    """Return the leaderboard of results folders."""
    metrics = {task: of_metric(*next(iter(metrics.items()))) for task, metrics in found.tasks.items() if metrics}
    costs = [quantity for quantity in quantities() if quantity.column == PARAMETERS] + quantities("figures")
    costs = [quantity for quantity in costs if found.table[quantity.column].notna().any()]
    settings = settings_of([record for run in found.runs for record in run.store.records()])
    groups: dict[Key, list[dict[str, Any]]] = {}
    table = found.table
    for values in table[table["eval_resolution"] == table["resolution"]].to_dict("records"):
        row = {str(name): value for name, value in values.items()}
        if row["task"] in metrics:
            setting = settings.get(row["cell"], "")
            key = Key(row["task"], setting, row["model"], int(row["resolution"]), row["device_name"], row["run"])
            groups.setdefault(key, []).append(row)
    entries = {
        key: entry_of((key.model, key.resolution, key.resolution), rows, [metrics[key.task], *costs])
        for key, rows in groups.items()
    }
    ranks = _ranks({key: entry for key, entry in entries.items() if not _is_reference(groups[key])}, metrics)
    places = [
        Place(
            key, plain(key.model, 120), _options(groups[key]), entry.status, entry.seeds, ranks.get(key),
            tuple(_value(quantity, entry) for quantity in (metrics[key.task], *costs)),
        )
        for key, entry in entries.items()
    ]  # fmt: skip
    order = {task: i for i, task in enumerate(metrics)}
    last = len(places) + 1
    places.sort(key=lambda p: (order[p.key.task], p.key.setting, p.key.resolution, p.rank or last))
    return Board(metrics, costs, places)


def _is_reference(rows: Sequence[Mapping[str, Any]]) -> bool:
    return rows[0].get("reference") is True


def settings_of(records: Sequence[Record]) -> dict[str, str]:
    """Return data and budget of the training of each cell, by its id: what differs between cells of its task."""
    found = {record.id: (record.cell.task, _setting(record)) for record in records}
    values: dict[tuple[str, str], set[str]] = {}
    for task, setting in found.values():
        for name, value in setting.items():
            values.setdefault((task, name), set()).add(value)
    return {
        id: ", ".join(value for name, value in setting.items() if len(values[task, name]) > 1)
        for id, (task, setting) in found.items()
    }


def _setting(record: Record) -> dict[str, str]:
    cell, training = record.cell, record.cell.training
    budget = "not trained" if training is None else f"{training.budget:g} {training.budget_unit}"
    data = ", ".join(f"{name} {value}" for name, value in sorted(cell.task_options.items()))
    return {
        "data": plain(data or "default data", 160),
        "budget": budget,
        "regime": cell.regime,
        "batch": f"batch of {cell.execution.batch_size}",
        "precision": cell.execution.precision,
    }


def _ranks(entries: Mapping[Key, Entry], metrics: Mapping[str, Quantity]) -> dict[Key, int]:
    """Return the rank of entries in the metric of their task; values that look the same share one."""
    groups: dict[tuple[str, str, int], list[tuple[float, Key]]] = {}
    for key, entry in entries.items():
        metric = metrics[key.task]
        value = entry.mean(metric)
        if value is not None and not entry.on_test:
            groups.setdefault((key.task, key.setting, key.resolution), []).append(
                (-value if metric.higher else value, key)
            )
    found: dict[Key, int] = {}
    for group in groups.values():
        shown, rank = None, 0
        for place, (value, key) in enumerate(sorted(group), 1):
            if (text := significant(value)) != shown:
                shown, rank = text, place
            found[key] = rank
    return found


def _options(rows: Sequence[Mapping[str, Any]]) -> str:
    texts = dict.fromkeys(row["options"] for row in rows if isinstance(row.get("options"), str))
    return plain("; ".join(map(options_in_words, texts)), OPTIONS_SHOWN) if texts else "defaults"


def _value(quantity: Quantity, entry: Entry) -> tuple[float, str] | None:
    mean = entry.mean(quantity)
    return None if mean is None else (float(f"{mean:.6g}"), text(quantity, entry))


def says(found: Gathered, places: Sequence[Place]) -> str:
    """Return what the site holds, in a sentence."""
    models = {place.name.partition(" [")[0] for place in places}
    return (
        f"{count(len(found.runs), 'run')}, {count(found.table['cell'].nunique(), 'cell')}, "
        f"{count(len(found.tasks), 'task')}, {count(len(models), 'model')}, {count(len(found.machines), 'machine')}."
    )
