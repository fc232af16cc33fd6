"""Settings that contradict each other, or that have no effect with others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attn_bench.errors import UserError
from attn_bench.plugin import Task
from attn_bench.sweep.devices import check_threads
from attn_bench.sweep.fields import read, settings_of
from attn_bench.sweep.groups import BUDGETS, FIELD_LOSSES, SCHEDULES, Regime, Training
from attn_bench.sweep.training_recipes import recipe

if TYPE_CHECKING:
    from attn_bench.sweep.settings import Sweep

# Settings that decide whether others have an effect.
_DECIDING = ("schedule", "select", "validation", "validation_points", "lr_warmup")


def check_together(sweep: Sweep, given: Mapping[str, Sequence[Any]]) -> None:
    """Raise UserError for settings that contradict each other."""
    known = settings_of(type(sweep))
    if not sweep.train:
        if not sweep.measuring.measure:
            raise UserError("settings train and measure: at least one must be true")
        for name, values in given.items():
            groups = ("training", "finetuning", "tuning")
            trains = known[name].group in groups or name in ("regime", "eval_resolutions", "recipes")
            if trains and values != (known[name].default,):
                raise UserError(f"setting {name}: has no effect without training (train: false)")
    for name in given:
        if known[name].group == "finetuning" and "finetune" not in sweep.axes.get("regime", (sweep.regime,)):
            raise UserError(f"setting {name}: only for fine-tuning (regime: finetune)")
    if len(budgets := [unit for unit in BUDGETS if unit in given]) > 1:
        raise UserError(f"only one training budget is allowed; given: {', '.join(budgets)}")
    _check_tuning(sweep)
    _check_training(sweep, given)
    for threads in given.get("threads", (None,)):
        check_threads(threads)


def check_loss(training: Training, task: Task, regime: Regime) -> None:
    """Raise UserError for a loss that does not exist, or has no effect."""
    known = ("task", *(FIELD_LOSSES if task.kind == "field" else ()), *task.losses())
    if training.loss not in known:
        raise UserError(f"setting loss: {task.name} ({task.kind}) has no {training.loss!r}; it has {', '.join(known)}")
    if training.loss != "task" and regime == "finetune":
        raise UserError("setting loss: has no effect with regime finetune, whose loss is a smoothed cross-entropy")


def check_selection(training: Training) -> None:
    """Raise UserError for the best weights of a training without the evaluations that would find them."""
    select, by = training.select, f" by recipe {training.recipe}" if training.recipe else ""
    if select == "best" and training.validation == 0:
        raise UserError(f"setting select: best needs a validation set, and validation is 0{by}")
    if select != "last" and training.validation_points == 0:
        raise UserError(f"setting select: {select} needs evaluations, and validation_points is 0")


def _check_training(sweep: Sweep, given: Mapping[str, Sequence[Any]]) -> None:
    """Raise UserError for settings of training that have no effect in any combination of the values given."""
    usual, known = Training(), settings_of(type(sweep))
    said = {name: value for name, value in dataclasses.asdict(sweep.training).items() if value != getattr(usual, name)}
    each = {name: (value,) for name, value in said.items()} | {**sweep.axes, **given}
    each = {name: values for name, values in each.items() if known[name].group == "training"}
    deciding = {name: values for name, values in each.items() if len(values) > 1 and name in _DECIDING}
    first = {name: values[0] for name, values in each.items()}
    first |= {name: values[0] for name, values in sweep.tuning.tune.items()}
    names = [*sweep.recipes.values(), *sweep.axes.get("recipe", filter(None, [sweep.training.recipe]))]
    settings = [read(type(sweep), recipe(name).beside({*sweep.given, *first})) for name in names] or [{}]
    failed: UserError | None = None
    for base, *chosen in itertools.product(settings, *deciding.values()):
        try:
            return _check_effects(base | first | dict(zip(deciding, chosen)))
        except UserError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _check_effects(given: Mapping[str, Any]) -> None:
    """Raise UserError for training settings, by name, that have no effect because of another one."""
    defaults: dict[str, Any] = {entry.name: entry.default for entry in dataclasses.fields(Training)} | {**given}
    schedule, select = defaults["schedule"], defaults["select"]
    for name in dict.fromkeys(name for parameters in SCHEDULES.values() for name in parameters):
        if name in given and name not in SCHEDULES[schedule]:
            having = [each for each, parameters in SCHEDULES.items() if name in parameters]
            raise UserError(f"setting {name}: has no effect with schedule {schedule}; it is for {', '.join(having)}")
    warmup = SCHEDULES[schedule]["lr_warmup"] if defaults["lr_warmup"] is None else defaults["lr_warmup"]
    if "lr_start" in given and warmup == 0:
        raise UserError("setting lr_start: has no effect with lr_warmup 0")
    if "validation_points" in given and select != "best-on-test" and defaults["validation"] == 0:
        raise UserError("setting validation_points: has no effect with validation 0")


def _check_tuning(sweep: Sweep) -> None:
    """Raise UserError for settings that are tuned and given."""
    tune = sweep.tuning.tune
    for name in ("tune_budget", "tune_extend", "tune_resolution"):
        if name in sweep.given and not tune:
            raise UserError(f"setting {name}: has no effect without tune")
    for name in tune:
        if name in sweep.given:
            raise UserError(f"setting tune: {name} is given as well; give it or tune it")
