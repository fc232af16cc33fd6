"""Chooses settings of training on the validation set, by successive halving (arXiv:1502.07943).

Every model x task x resolution tries the same values, once for all its seeds; with ``tune_resolution``, at that
resolution, once for all resolutions. A trial is a cell of its own: trained for
a short time with the seed 0 and evaluated on the validation set, it never reads the test set. The better half of the
values gets twice the time in the next round, until one is left; with ``tune_extend``, one at an end of the grid is then
held against the next one beyond it. What was tried is read from the records of the trials
each time, so an interrupted search resumes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.record import Record, Trial
from attn_bench.results.store import Store
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.fields import read
from attn_bench.sweep.groups import Measuring, Training, Tuning

# The folder of trials in a results folder.
TRIALS = "tuning"
# Before the names of trials, wherever they are listed with other cells.
TRIAL_MARK = "[tuning]"
SEED = 0
# Held out for trials where the final training is on the whole training set.
VALIDATION = 0.1

Known = Callable[[Cell], Record | None]
Values = Mapping[str, float]


@dataclass(frozen=True)
class Search:
    """What a search for the best values came to so far.

    Attributes:
        trials: in the order in which they were made.
        needed: cells of trials that have no record yet; empty if the search is over.
        chosen: the best values; None where the search is not over, or no trial succeeded.
    """

    trials: tuple[Trial, ...] = ()
    needed: tuple[Cell, ...] = ()
    chosen: Values | None = None


def tune(
    cells: Iterable[Cell], store: Store, again: Callable[[Record], bool], run: Callable[[list[Cell]], str | None]
) -> tuple[list[Cell], str | None]:
    """Return ``cells`` with the values chosen for them, after the trials that this takes.

    Where trials are not waited for, cells whose search is not over stay as they are (:func:`is_tuned`).

    Args:
        store: of the trials.
        again: tells whether a trial that has a record is made again.
        run: runs cells into ``store``, and says why some are left.

    Returns:
        the cells, and what ``run`` says.

    Raises:
        UserError: the records of trials are removed meanwhile.
    """
    cells, made = list(cells), set[str]()

    def known(trial: Cell) -> Record | None:
        record = store.read(trial.id)
        return None if record is not None and trial.id not in made and again(record) else record

    while True:
        found, needed = tuned(cells, known)
        if not needed:
            return found, None
        if made.intersection(trial.id for trial in needed):
            raise UserError(f"{store.folder}: records of trials were removed; rerun the same command")
        left = run(needed)
        made.update(trial.id for trial in needed)
        if left is not None:
            return tuned(cells, known)[0], left


def tuned(cells: Iterable[Cell], known: Known) -> tuple[list[Cell], list[Cell]]:
    """Return ``cells`` with the values that were chosen for them, and the trials that have to be run before others are.

    A cell whose search is not over stays as it is.

    Args:
        known: returns the record of a trial, or None if there is none.
    """
    searches: dict[str, Search] = {}
    found, needed = list[Cell](), dict[str, Cell]()
    for cell in cells:
        if cell.tuning is None or cell.weights is not None:
            found.append(cell)
            continue
        if cell.broken is not None or not _serves(cell):
            found.append(replace(cell, tuning=None))
            continue
        key = trial_of(cell, {}, 1.0).id
        if key not in searches:
            searches[key] = search(cell, known)
            needed |= {trial.id: trial for trial in searches[key].needed}
        found.append(_with(cell, searches[key]))
    return found, list(needed.values())


def by_search(cells: Iterable[Cell], at_a_time: int | None) -> list[list[Cell]]:
    """Return ``cells`` in groups: those of ``at_a_time`` searches, and those for which nothing is chosen; None for all.

    The groups are in the order of their first cells.
    """
    searches: dict[str, list[Cell]] = {}
    for cell in cells:
        searched = cell.tuning is not None and cell.weights is None
        searches.setdefault(trial_of(cell, {}, 1.0).id if searched else "", []).append(cell)
    each = list(searches.values())
    size = at_a_time or max(1, len(each))
    return [[cell for of in each[i : i + size] for cell in of] for i in range(0, len(each), size)]


def is_tuned(cell: Cell) -> bool:
    """Tell whether every setting of a cell is chosen."""
    return cell.tuning is None or cell.weights is not None or bool(cell.trials)


def so_far(cells: Iterable[Cell], folder: Path) -> tuple[list[Cell], list[Cell]]:
    """Return what :func:`tuned` does, by the trials in a results folder."""
    trials = Store(folder / TRIALS)
    return tuned(cells, lambda trial: trials.read(trial.id))


def _serves(cell: Cell) -> bool:
    return TASKS.load(cell.task).kind in MODELS.load(cell.plugin).kinds


def search(cell: Cell, known: Known) -> Search:
    """Return what the search for the values of a cell came to, as far as its trials have records."""
    assert cell.tuning is not None
    left: list[Values] = [*cell.tuning.candidates]
    trials = list[Trial]()
    share = cell.tuning.first_share
    while True:
        asked = [trial_of(cell, values, share) for values in left]
        records = [record for trial in asked if (record := known(trial)) is not None]
        if len(records) < len(asked):
            return Search(tuple(trials), tuple(trial for trial in asked if known(trial) is None))
        if any(each.status == "ok" for each in records) and not any(each.training for each in records):
            return Search()  # a model that is not trained by gradient has nothing to tune
        tried = [_trial(cell, *each) for each in zip(left, asked, records)]
        trials += tried
        ranked = sorted((trial for trial in tried if trial.status == "ok"), key=_worst_last(cell))
        best = ranked[: math.ceil(len(left) / 2)]
        if len(best) < 2:
            return _extended(cell, trials, best[0], share, known) if best else Search(tuple(trials))
        left = [trial.values for trial in best]
        share *= 2


def _extended(cell: Cell, trials: list[Trial], best: Trial, share: float, known: Known) -> Search:
    """Return a search that has the best of its values, after trials beyond the ends of the grid, if it is asked to."""
    assert cell.tuning is not None
    farther = beyond(cell.tuning, best.values) if cell.tuning.tune_extend else []
    asked = [trial_of(cell, values, share) for values in farther]
    records = [record for trial in asked if (record := known(trial)) is not None]
    if len(records) < len(asked):
        return Search(tuple(trials), tuple(trial for trial in asked if known(trial) is None))
    tried = [_trial(cell, *each) for each in zip(farther, asked, records)]
    # The first of equals is that of the grid.
    found = min((best, *(trial for trial in tried if trial.status == "ok")), key=_worst_last(cell))
    return Search((*trials, *tried), chosen=found.values)


def beyond(tuning: Tuning, chosen: Values) -> list[dict[str, float]]:
    """Return ``chosen`` with one setting beyond the lowest or highest value tried, for each that is at such an end.

    It is farther by the factor between the last two values. There is none where one of them is 0, and none beyond
    what the setting may be.
    """
    found: list[dict[str, float]] = []
    for name, values in tuning.tune.items():
        ordered = sorted(set(values))
        before = dict(zip((ordered[0], ordered[-1]), (ordered[1:2], ordered[-2:-1])))
        for inner in before.get(end := chosen[name], ()):
            if min(end, inner) > 0:
                with contextlib.suppress(UserError):
                    found.append({**chosen, **read(Training, {name: float(f"{end * end / inner:.6g}")})})
    return found


def trial_of(cell: Cell, values: Values, share: float) -> Cell:
    """Return the cell of a trial: ``values`` of settings of training, and a share of its budget."""
    assert cell.training is not None
    chosen: dict[str, Any] = {
        "validation": cell.training.validation or VALIDATION,
        "select": "best" if cell.training.select == "best" else "last",
        **values,
    }
    tuned_at = cell.tuning.tune_resolution if cell.tuning else None
    return replace(
        cell,
        resolution=tuned_at or cell.resolution,
        seed=SEED,
        training=replace(shortened(cell.training, share), **chosen),
        tuning=None,
        evaluated_on="validation",
        measuring=Measuring(measure=False),
        eval_resolutions=(),
        keep_weights=False,
        variant=", ".join([*filter(None, [cell.variant]), *(f"{name}={value:g}" for name, value in values.items())]),
    )


def shortened(training: Training, share: float) -> Training:
    """Return ``training`` with a share of its budget, at least one step."""
    unit, budget = training.budget_unit, training.budget * min(share, 1)
    changed: dict[str, Any] = {unit: max(1, round(budget)) if unit == "steps" else budget}
    return replace(training, **changed)


def _trial(cell: Cell, values: Values, trial: Cell, record: Record) -> Trial:
    """Return what a trial found, as the record of the cell that it is for keeps it."""
    assert trial.training is not None
    metric = next(iter(TASKS.load(cell.task).metrics))
    evaluation = record.evaluated_at(trial.resolution)
    return Trial(
        cell=trial.id,
        values=dict(values),
        budget=trial.training.budget,
        budget_unit=trial.training.budget_unit,
        status=record.status,
        error=record.error,
        metric=metric,
        score=evaluation.metrics.get(metric) if evaluation else None,
        seconds=record.seconds,
    )


def _worst_last(cell: Cell) -> Callable[[Trial], float]:
    metric = next(iter(TASKS.load(cell.task).metrics.values()))
    sign = 1 if metric.direction == "lower" else -1

    def key(trial: Trial) -> float:
        return math.inf if trial.score is None else sign * trial.score

    return key


def _with(cell: Cell, found: Search) -> Cell:
    """Return a cell with what a search for it found."""
    assert cell.training is not None
    if found.needed:
        return cell
    if not found.trials or any(trial.status == "unsupported" for trial in found.trials):
        return replace(cell, tuning=None)
    chosen: dict[str, Any] = dict(found.chosen or {})
    return replace(cell, training=replace(cell.training, **chosen), trials=found.trials)


def failed(cell: Cell) -> Record | None:
    """Return the record of a cell of which no trial succeeded; None for any other."""
    if not cell.trials or any(trial.status == "ok" for trial in cell.trials):
        return None
    reasons = [f"{_in_words(trial.values)}: {trial.error or trial.status}" for trial in cell.trials]
    return Record(cell, cell.trials[0].status, error=f"no trial of --tune succeeded ({'; '.join(reasons)})")


def _in_words(values: Values) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
