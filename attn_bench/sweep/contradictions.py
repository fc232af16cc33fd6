"""Settings that contradict each other, or that have no effect with others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attn_bench.errors import UserError
from attn_bench.sweep.devices import check_threads
from attn_bench.sweep.fields import misnamed, read, settings_of
from attn_bench.sweep.groups import BUDGETS, Training, check_training
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
            return check_training(base | first | dict(zip(deciding, chosen)))
        except UserError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _check_tuning(sweep: Sweep) -> None:
    """Raise UserError for settings that cannot be tuned, or with values that they cannot have."""
    tune, known = sweep.tuning.tune, settings_of(type(sweep))
    if "tune_budget" in sweep.given and not tune:
        raise UserError("setting tune_budget: has no effect without tune")
    numbers = (each for each in known.values() if each.group == "training" and each.type_name == "float")
    possible = {each.name: each for each in numbers if each.name not in (*BUDGETS, "validation")}
    for name, values in tune.items():
        if name not in possible:
            raise UserError(f"setting tune: {misnamed(name, possible.values(), 'setting to tune')}")
        if name in sweep.given:
            raise UserError(f"setting tune: {name} is given as well; give it or tune it")
        for value in values:
            possible[name].read(value)
