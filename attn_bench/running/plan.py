"""What a sweep would run and what is there already, with an estimate of time and disk; runs and writes nothing."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attn_bench.format import count
from attn_bench.results.record import Record
from attn_bench.results.status import Status
from attn_bench.results.store import Store
from attn_bench.running.executors.choice import searches_at_a_time
from attn_bench.running.reuse import expansion_of
from attn_bench.running.timed_steps import Known
from attn_bench.running.tuning import so_far
from attn_bench.running.work import Current, due, unserved
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running
from attn_bench.sweep.groups import Training
from attn_bench.sweep.settings import Sweep

# What measuring a cell takes: each of three latencies is warmed up and sampled for some seconds, whatever the model.
MEASURING_S = 14.0


@dataclass(frozen=True)
class Planned:
    """A cell of a sweep.

    Attributes:
        there: its status if it is there already and is not run again.
        only_measured: whether all that is to be run is its measuring.
        seconds, disk: estimates of what running it takes, and of the bytes that it leaves; None if nothing is known.
    """

    cell: Cell
    there: Status | None = None
    only_measured: bool = False
    seconds: float | None = None
    disk: float | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep in their order, and lines on what was asked for and means nothing.

    Attributes:
        at_a_time: how many cells train side by side on this machine.
    """

    cells: tuple[Planned, ...]
    notes: tuple[str, ...] = ()
    at_a_time: int = 1

    @property
    def unknown(self) -> list[Cell]:
        """The first of each kind of cells, with equal steps, that would be trained and have no estimate."""
        cells = [each.cell for each in self.to_run if each.seconds is None and not each.only_measured]
        kinds: dict[str, Cell] = {}
        for cell in cells:
            if cell.training is not None:
                kinds.setdefault(_key(cell, "but the training"), cell)
        return list(kinds.values())

    @property
    def to_run(self) -> list[Planned]:
        """The cells that would be run."""
        return [each for each in self.cells if each.there is None]


def plan(sweep: Sweep, out: Path, running: Running, timed: Sequence[Known] = ()) -> Plan:
    """Return what :func:`attn_bench.running.runner.run_sweep` would run in ``out``.

    Estimates are from records of ``out`` that ended ok, and from steps that were ``timed``: of the same cell with other
    seeds or versions; else with another training, in proportion to its budget; else of the same model and settings at
    other resolutions, on the line through them, or in proportion to the tokens where there is one; else of the model on
    that task with other settings, in proportion to tokens and to the training budget.

    Raises:
        UserError, OptionError, DataError: wrong input; or ``out`` holds something else.
    """
    expansion = expansion_of(sweep, running)
    if out.is_dir() and any(out.iterdir()):
        Store.open(out)
    store = Store(out)
    known = _Estimates([*(Known.of(store, record) for record in store.records()), *timed])
    final, trials = so_far(expansion.cells, out)
    cells = [Planned(trial, None, False, *known.estimate(trial, training=True)) for trial in trials]
    current = Current()
    for cell in final:
        part = due(store, cell, running.retry, current)
        if part is None:
            short = store.short(cell.id)
            cells.append(Planned(cell, there=short.brief.status if short else "ok"))
        else:
            measured = cell.training is not None and part.training is None
            estimate = known.estimate(cell, training=not measured) if unserved(part) is None else (0.0, 0.0)
            cells.append(Planned(cell, None, measured, *estimate))
    first = f"{count(len(trials), 'trial')} of tuning first; the better half get twice the budget in the next round"
    parts = [each.cell.only_measured() if each.only_measured else each.cell for each in cells if each.there is None]
    at_a_time = searches_at_a_time(running, parts) or 1
    notes = dict.fromkeys((*expansion.notes, *filter(None, map(unserved, parts)), *([first] if trials else [])))
    return Plan(tuple(cells), tuple(notes), at_a_time)


class _Estimates:
    """What is known by what it says of other cells."""

    def __init__(self, known: Iterable[Known]) -> None:
        self.like: dict[tuple[str, str], list[Known]] = {}
        for each in known:
            if each.record.status == "ok" and each.record.seconds is not None:
                for how in _HOW:
                    self.like.setdefault((how, _key(each.cell, how)), []).append(each)

    def estimate(self, cell: Cell, *, training: bool) -> tuple[float | None, float | None]:
        """Return the seconds that a cell takes and the bytes that it leaves, None if nothing says anything of it."""
        for how in _HOW:
            if found := self.like.get((how, _key(cell, how))):
                points = [(_size(each.record, cell), _seconds(each.record, cell, training)) for each in found]
                return _at(1.0, points), statistics.median(each.disk for each in found)
        return None, None


def _seconds(record: Record, cell: Cell, training: bool) -> float:
    """Return what a record says that a cell takes, at the resolution of the record."""
    seconds, result = record.seconds or 0.0, record.training
    trained = (result and result.seconds) or 0.0
    measures = cell.measuring.measure and not record.cell.measuring.measure
    seconds += MEASURING_S if measures else 0.0
    if not training or cell.training is None:
        return max(seconds - trained, 0.0)
    asked, had = cell.training, record.cell.training
    if had is not None and asked.budget_unit == had.budget_unit:
        return seconds + trained * (asked.budget / had.budget - 1)
    if asked.budget_unit == "seconds":
        return seconds - trained + asked.budget
    done = None if result is None else result.steps if asked.budget_unit == "steps" else result.epochs
    return seconds + trained * (asked.budget / done - 1) if done else seconds


# How alike two cells are, the best first.
_HOW = ("but the seed", "but the training", "but the resolution", "model and task")


def _key(cell: Cell, how: str) -> str:
    if how == "model and task":
        return json.dumps([cell.plugin, cell.task, cell.execution.device])
    if how == "but the training" and (own := cell.training) is not None:
        steps = Training(optimizer=own.optimizer, loss=own.loss, ema=own.ema)
        cell = replace(cell, training=steps, tuning=None, evaluated_on="test")
    resolution = 0 if how == "but the resolution" else cell.resolution
    same = replace(
        cell, model="", seed=0, model_version="", task_version="", training_version=None, eval_resolutions=(),
        measuring=replace(cell.measuring, measure=True), resolution=resolution,
    )  # fmt: skip
    return json.dumps(same.to_json(), sort_keys=True)


def _size(record: Record, cell: Cell) -> float:
    """Return the tokens of a record over those of a cell: in a text one per resolution, on a grid its square."""
    power = 1 if record.tokens == record.cell.resolution else 2
    return (record.cell.resolution / cell.resolution) ** power


def _at(size: float, points: Sequence[tuple[float, float]]) -> float:
    """Return the seconds at a size from those at others: on a straight line of logarithms, whose slope is 0 to 2."""
    by_size: dict[float, list[float]] = {}
    for at, seconds in points:
        by_size.setdefault(at, []).append(max(seconds, 1e-3))
    known = [(math.log(at), math.log(statistics.median(of))) for at, of in sorted(by_size.items())]
    nearest = sorted(known, key=lambda point: abs(point[0] - math.log(size)))[:2]
    (x, y), slope = nearest[0], 1.0
    if len(nearest) > 1:
        slope = min(max((nearest[1][1] - y) / (nearest[1][0] - x), 0.0), 2.0)
    return math.exp(y + slope * (math.log(size) - x))


def total(values: Iterable[float | None]) -> tuple[float, int]:
    """Return the sum of the values that are known, and how many are not."""
    listed = list(values)
    return sum(value for value in listed if value is not None), sum(value is None for value in listed)
