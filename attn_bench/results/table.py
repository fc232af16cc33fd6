"""The results table: its columns, and its rows from records."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attn_bench.errors import UserError
from attn_bench.plugin import Metric
from attn_bench.plugins.registry import MODELS
from attn_bench.results import quantities
from attn_bench.results.brief import Brief, Line, Short
from attn_bench.results.environment import Environment
from attn_bench.results.labels import labels, labels_of
from attn_bench.results.quantities import Column, Row, at
from attn_bench.results.record import Evaluation, Record
from attn_bench.results.varied import varied
from attn_bench.sweep.cell import Cell

if TYPE_CHECKING:
    import pandas as pd


def missing(errors: Mapping[str, str]) -> str | None:
    """Return which quantities are missing and why, grouped by reason; None if none is missing."""
    names: dict[str, list[str]] = defaultdict(list)
    for quantity, reason in errors.items():
        names[reason].append(quantity)
    return "; ".join(f"{', '.join(named)}: {reason}" for reason, named in names.items()) or None


def _ended(row: Row) -> Record | Evaluation:
    """Return the object with status and error of a row: the cell's record, or a further evaluation."""
    own = row.own and row.record.cell.weights is None
    return row.record if own or row.evaluation is None else row.evaluation


def _weights_from(row: Row) -> str | None:
    weights = row.record.weights
    return f"{weights.folder}/{weights.cell}" if weights and weights.folder else None


@functools.cache
def _plugin_is_reference(name: str) -> bool:
    try:
        return MODELS.load(name).reference
    except UserError:  # not installed, or broken
        return False


def _json(path: str) -> Any:
    def text(row: Row) -> str | None:
        values = at(row.record, path)
        return json.dumps(values, sort_keys=True) if values else None

    return text


def _tuned(row: Row) -> str | None:
    """Say which values of settings were chosen, and of which."""
    cell = row.record.cell
    if cell.tuning is None or cell.training is None or not any(each.status == "ok" for each in row.record.trials):
        return None
    tried = {
        name: dict.fromkeys((*values, *(trial.values[name] for trial in row.record.trials)))
        for name, values in cell.tuning.tune.items()
    }
    chosen = "; ".join(
        f"{name} {getattr(cell.training, name):g} of {', '.join(f'{value:g}' for value in values)}"
        for name, values in tried.items()
    )
    return f"{chosen}{tuned_at(cell)}"


def tuned_at(cell: Cell) -> str:
    """Say where the settings of a cell were tuned, if it was at another resolution."""
    return f", tuned at {cell.tuning.tune_resolution}" if cell.tuning and cell.tuning.tune_resolution else ""


def _tuning_seconds(row: Row) -> float | None:
    trials = row.record.trials
    return sum(trial.seconds or 0 for trial in trials) if trials else None


def _seconds(row: Row) -> float | None:
    own = row.record.seconds
    return own if own is None else own + (_tuning_seconds(row) or 0)


IDENTITY = (
    Column("cell", "id", "id of the cell: the name of its files in `cells/`, `logs/` and `artifacts/`"),
    Column("model", None, "label of the model, with the settings in which its cells differ"),
    Column("task", "cell.task", "name of the task"),
    Column("resolution", "cell.resolution", "trained or measured at: points along an axis, or length of a text"),
    Column("eval_resolution", lambda row: row.resolution, "evaluated at"),
    Column("seed", "cell.seed", "seed of the cell"),
    Column(
        "status", lambda row: _ended(row).status,
        "`ok`, `oom`, `timeout`, `crashed`, `diverged`, `unsupported` or `skipped`",
    ),
    Column("error", lambda row: _ended(row).error, "reason for any status but `ok`, in one line"),
    Column(
        "missing", lambda row: missing(row.record.errors),
        "quantities that could not be measured although the cell is `ok`, each with its reason", own=True,
    ),
)  # fmt: skip
SETTINGS = (
    Column("reference", None, "whether the model is a constant predictor, which competes only in accuracy"),
    Column("complexity", "complexity", "complexity in the number of tokens, as the model claims"),
    Column("batch_size", "batch_size", "samples per batch; the number that was found for `auto` or a size in tokens"),
    Column("device", "cell.execution.device", "`cpu` or `cuda`"),
    Column("device_name", None, "name of the processor or the GPU"),
    Column("precision", "cell.execution.precision", "precision in which the model ran"),
    Column("compile", "cell.execution.compile", "whether `torch.compile` was used"),
    Column("regime", "cell.regime", "`scratch`, `linear-probe` or `finetune`"),
    Column("train_steps", "training.steps", "optimizer steps"),
    Column("train_epochs", "training.epochs", "passes over the training set"),
    Column("train_seconds", "training.seconds", "wall-clock time of training, without evaluations"),
    Column("evaluation_seconds", "training.evaluation_seconds", "duration of the evaluations during training"),
    Column("recipe", "cell.training.recipe", "name of the training recipe (`--recipe`)"),
    Column(
        "tuned", _tuned,
        "settings of training that were chosen on the validation set (`--tune`), of which values: "
        "`learning_rate 0.001 of 0.0003, 0.001, 0.003`",
    ),
    Column(
        "tuning_seconds", _tuning_seconds, "wall-clock time of the trials of `--tune`, which the seeds of a model share"
    ),
    Column("learning_rate", "cell.training.learning_rate", "peak learning rate"),
    Column("optimizer", "cell.training.optimizer", "training optimizer"),
    Column("schedule", "cell.training.schedule", "learning-rate schedule"),
    Column(
        "selected_on", "training.selected_on",
        "part of the data on which the evaluated weights were chosen (`--select`): `validation`, or "
        "`test`, with which the metrics are too good; empty for the last weights",
    ),
    Column("selected_step", "training.selected_step", "the step of those weights"),
    Column(
        "trained_under", "trained_under",
        "`alone` on its machine, or what else of this program ran there: `2 side by side` (`--jobs`), `beside another "
        "run` in the same folder, `shared node` of a Slurm cluster; empty in older results",
    ),
    Column(
        "measured_under", "measured_under",
        "the same of what was timed: `alone`, or `shared node`; the gate compares times only where they are equal",
    ),
    Column("train_loss", "training.loss", "mean loss of the last pass over the training set"),
    Column(
        "effective", _json("effective"),
        "settings in effect in the model that differ from those requested, as JSON; `changed_by_model` lists the "
        "process-wide settings that it changed (threads, default dtype, precision, ...) and in which stage; they were "
        "restored after that stage",
    ),
    Column(
        "weights", "weights.sha256",
        "SHA-256 of the trained weights in `weights/`, where they were kept (`--keep-weights`) or evaluated (`--from`)",
    ),
    Column(
        "weights_from", _weights_from,
        "results folder and cell whose kept weights were evaluated (`--from`); empty where the row's own cell was "
        "trained",
    ),
    Column("model_version", "cell.model_version", "package, version and source digest of the model's plugin"),
    Column("options", _json("cell.options"), "options of the model that were set, as JSON"),
    Column("cell_seconds", _seconds, "wall-clock time of the whole cell, with the trials of `--tune`"),
    Column("started", "started", "when the cell was started (UTC)"),
    Column("environment", "environment", "file in `environments/` that describes the machine and the versions"),
)  # fmt: skip


def columns(metrics: Mapping[str, Metric]) -> list[Column]:
    """Return every column of the table of a task with these metrics, in order."""
    named = (quantities.of_metric(name, metric) for name, metric in metrics.items())
    return [*IDENTITY, *(column for metric in named for column in metric.columns()), *measured(), *SETTINGS]


def measured() -> Iterator[Column]:
    """Yield the columns of measured quantities, with their intervals."""
    for column in quantities.MEASURED:
        yield from column.columns() if isinstance(column, quantities.Quantity) else (column,)


def curve_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one row per point of the training curves: where training was, and the value of a quantity on a part.

    The part ``train`` has the ``loss``, ``validation`` or ``test`` the task's first metric.
    """
    found = []
    for record, label in zip(records, labels(records)):
        curve = record.training.curve if record.training else None
        if record.training is None or curve is None:
            continue
        cell: dict[str, Any] = {"cell": record.id, "model": label, "task": record.cell.task}
        cell |= {"resolution": record.cell.resolution, "seed": record.cell.seed}
        per_epoch = (record.training.epochs or 0) / (record.training.steps or 1)
        for part, quantity, series in (("train", "loss", curve.loss), (curve.part, curve.metric, curve.error)):
            for step, seconds, value in zip(series.steps, series.seconds, series.values):
                where = {"part": part, "quantity": quantity, "step": step, "epoch": step * per_epoch}
                found.append({**cell, **where, "seconds": seconds, "value": value})
    return found


@functools.lru_cache(maxsize=4096)
def _numbers(label: str) -> list[tuple[float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts)]


def of_record() -> list[Column]:
    """Return the columns whose values a record alone says, in the order of a :data:`.brief.Line`."""
    return [column for column in (*IDENTITY, *measured(), *SETTINGS) if column.where is not None]


def lines_of(records: Sequence[Record]) -> list[list[Line]]:
    """Return the rows of each record: one for each resolution that its cell is evaluated at, if it is.

    Measurements are in the row of the resolution trained at; rows of further resolutions contain only metrics.
    """
    rows = [
        Row(record, resolution, record.evaluated_at(resolution))
        for record in records
        for resolution in record.cell.evaluated
    ]
    known: dict[str, list[Any]] = {"": [row.record for row in rows]}
    values = zip(*(column.values(rows, known) for column in of_record()), strict=True)
    lines = iter([[*line, _metrics(row.evaluation)] for line, row in zip(values, rows, strict=True)])
    return [list(itertools.islice(lines, len(record.cell.evaluated))) for record in records]


def _metrics(evaluation: Evaluation | None) -> dict[str, list[float | None]]:
    if evaluation is None:
        return {}
    found = {name: [value, None, None] for name, value in evaluation.metrics.items()}
    for name, interval in evaluation.intervals.items():
        found[name] = [evaluation.metrics.get(name), interval.low, interval.high]
    return found


def in_brief(records: Sequence[Record]) -> list[Short]:
    """Return records in brief, with their rows."""
    return [Short(Brief.of(record), lines, record.cell) for record, lines in zip(records, lines_of(records))]


def column_values(
    shorts: Sequence[Short], environments: Mapping[str, Environment], metrics: Mapping[str, Metric]
) -> dict[str, list[Any]]:
    """Return the columns of the table, each with a value per record and resolution evaluated at.

    After the columns that every table has come those of the axes of these records (:func:`.varied.varied`).
    """
    named, briefs = labels_of([short.asked for short in shorts]), [short.brief for short in shorts]
    order = sorted(range(len(shorts)), key=lambda i: _place(briefs[i], named[i]))
    places = [i for i in order for _ in shorts[i].lines]
    own = [column.column for column in of_record()]
    values = [*zip(*(line for i in order for line in shorts[i].lines), strict=True)] or [()] * (len(own) + 1)
    devices = {id: environment.device_name for id, environment in environments.items()}
    found: dict[str, Sequence[Any]] = {
        **_of_metrics(values[-1], metrics),
        **dict(zip(own, values)),
        "model": [named[i] for i in places],
        "device_name": [devices.get(briefs[i].environment or "") for i in places],
        "reference": [_is_reference(shorts[i]) for i in places],
    }
    shown = {column.column: list(found[column.column]) for column in columns(metrics)}
    axes = varied([short.asked for short in shorts], shown)
    return shown | {name: [of[i] for i in places] for name, of in axes.items()}


def _of_metrics(found: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> dict[str, list[Any]]:
    """Return the columns of metrics from what each row has of them (:func:`lines_of`)."""
    columns: dict[str, list[Any]] = {}
    for name, metric in metrics.items():
        each = [of.get(name, (None, None, None)) for of in found]
        for i, column in enumerate(quantities.of_metric(name, metric).columns()):
            columns[column.column] = [values[i] for values in each]
    return columns


def _place(brief: Brief, label: str) -> tuple[Any, ...]:
    """Return where a record stands: variants of a model by their settings, numbers by their size."""
    return brief.task, brief.resolution, brief.model, _numbers(label), brief.seed


def _is_reference(short: Short) -> bool:
    """Tell whether a model is a constant predictor; for older records, its plugin says so."""
    recorded = short.brief.reference
    return _plugin_is_reference(short.cell.plugin) if recorded is None else recorded


def typed(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Return a table whose columns of axes hold whole numbers as such, though rows of other models have none."""
    usual = {column.column for column in columns(metrics)}
    numbers = [name for name in table.columns if name not in usual and table[name].dtype == float]
    whole = [name for name in numbers if (table[name].dropna() % 1 == 0).all()]
    return table.astype(dict.fromkeys(whole, "Int64"))
