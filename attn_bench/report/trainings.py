"""How models were trained, where not all were trained alike: the settings that differ, and what tuning tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from attn_bench.format import significant
from attn_bench.report.summary import Summary
from attn_bench.results.record import Record, Trial
from attn_bench.results.store import Store
from attn_bench.results.table import tuned_at
from attn_bench.sweep.groups import Training

NOT_SAID = "-"


@dataclass(frozen=True)
class Trained:
    """A model at the resolutions where it was trained in one way.

    Attributes:
        settings: by name, those in which trainings differ.
        tried: what tuning tried, round by round, with the errors on the validation set, and whether what it chose is at
            the edge of that; empty without tuning.
    """

    model: str
    resolutions: tuple[int, ...]
    settings: tuple[str, ...]
    tried: str


@dataclass(frozen=True)
class Trainings:
    """The ways in which the models of a task were trained.

    Attributes:
        heads: names of the settings in which they differ, as heads of columns.
        tuned: whether a model was tuned.
    """

    heads: tuple[str, ...]
    rows: tuple[Trained, ...]
    tuned: bool


def read_trainings(store: Store, summary: Summary) -> Trainings | None:
    """Return how the models of a summary were trained; None if all were trained alike, without tuning."""
    table = summary.table.drop_duplicates("cell")
    labels = dict(zip(table["cell"].astype(str), table["model"].astype(str)))
    records = [record for record in store.records() if record.id in labels and record.cell.training]
    settings = {record.id: _settings(record.cell.training) for record in records if record.cell.training}
    each = list({id(of): of for of in settings.values()}.values())
    names = dict.fromkeys(name for of in each for name in of)
    differing = [name for name in names if len({of.get(name, NOT_SAID) for of in each}) > 1]
    ways: dict[tuple[str, tuple[str, ...], str], list[int]] = {}
    for record in records:
        values = tuple(settings[record.id].get(name, NOT_SAID) for name in differing)
        ways.setdefault((labels[record.id], values, _tried(record)), []).append(record.cell.resolution)
    tuned = any(record.trials for record in records)
    if not differing and not tuned:
        return None
    order = {model: i for i, model in enumerate((*summary.models, *summary.references))}
    rows = [
        Trained(model, tuple(sorted(set(resolutions))), values, tried)
        for (model, values, tried), resolutions in ways.items()
    ]
    rows.sort(key=lambda row: (order[row.model], row.resolutions))
    return Trainings(tuple(map(_head, differing)), tuple(rows), tuned)


def _head(name: str) -> str:
    words = name.replace("_", " ")
    return f"LR {words[3:]}" if words.startswith("lr ") else words.capitalize()


@lru_cache(maxsize=1024)
def _settings(training: Training) -> Mapping[str, str]:
    return {name: _text(value) for name, value in asdict(training).items() if value is not None}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tried(record: Record) -> str:
    rounds = [
        f"{budget:g} {unit.removesuffix('s') if budget == 1 else unit}: {', '.join(map(_trial, trials))}"
        for (budget, unit), trials in groupby(record.trials, key=lambda trial: (trial.budget, trial.budget_unit))
    ]
    spent = sum(trial.seconds or 0 for trial in record.trials)
    return (
        f"{'; '.join(rounds)} ({significant(spent, 2)} s){tuned_at(record.cell)}{_at_the_edge(record)}"
        if rounds
        else ""
    )


def _at_the_edge(record: Record) -> str:
    """Say which settings have the lowest or the highest value tried, beyond which nobody looked."""
    tried = {name: {trial.values[name] for trial in record.trials} for name in record.trials[0].values}
    said = []
    for name, values in tried.items():
        chosen = getattr(record.cell.training, name)
        if len(values) > 1 and chosen in (min(values), max(values)):
            end = "lowest" if chosen == min(values) else "highest"
            said.append(f"; the {end} {name.replace('_', ' ')} tried was chosen: one beyond may be better")
    return "".join(said)


def _trial(trial: Trial) -> str:
    values = ", ".join(_text(value) for value in trial.values.values())
    return f"{values} ({trial.status if trial.score is None else significant(trial.score)})"
