"""Settings of training: which of them have an effect together, what a cell holds, and cells of earlier versions."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from attn_bench.errors import UserError
from attn_bench.report.reproduce import sweeps
from attn_bench.sweep.cell import Cell, upgrade_cell
from attn_bench.sweep.groups import SCHEDULES, Optimizer, Schedule
from attn_bench.sweep.settings import Sweep

ONE = {"models": ["mano"], "task": "darcy", "resolutions": [16], "device": "cpu"}


def cell(**settings) -> Cell:
    return Sweep.from_settings(ONE | settings).cells()[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "setting optimizer"),
        ({"optimiser": "adam"}, "did you mean 'optimizer'?"),
        ({"scheduler": "cosine"}, "did you mean 'schedule'?"),
        ({"lr_end": 0.1, "schedule": "step"}, "lr_end: has no effect with schedule step; it is for one-cycle, cosine"),
        ({"lr_factor": 0.1}, "lr_factor: has no effect with schedule one-cycle; it is for step"),
        ({"lr_start": 0.1, "schedule": "cosine"}, "lr_start: has no effect with lr_warmup 0"),
        ({"lr_start": 0.1, "lr_warmup": 0}, "lr_start: has no effect with lr_warmup 0"),
        ({"lr_warmup": 1}, "setting lr_warmup: must be < 1"),
        ({"lr_step": 0, "schedule": "step"}, "setting lr_step: must be > 0"),
        ({"clip_norm": -1}, "setting clip_norm: must be >= 0"),
        ({"select": "best", "validation": 0}, "select: best needs a validation set, and validation is 0"),
        ({"select": "best", "validation": [0.1, 0]}, "select: best needs a validation set, and validation is 0"),
        ({"select": ["last", "best"], "recipe": "lamo"}, "validation is 0 by recipe lamo"),
        ({"select": "best", "validation_points": 0}, "select: best needs evaluations, and validation_points is 0"),
        ({"select": "best-on-test", "validation_points": 0}, "select: best-on-test needs evaluations"),
        ({"validation": 0, "validation_points": 5}, "validation_points: has no effect with validation 0"),
        ({"validation": 1}, "setting validation: must be < 1"),
        ({"train": False, "epochs": None, "ema": 0.9}, "setting ema: has no effect without training"),
    ],
)
def test_settings_without_effect_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError) as caught:
        Sweep.from_settings(ONE | settings).cells()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_leave_out_what_cannot_be_selected():
    settings = ONE | {"select": "best,last", "validation": [0, 0.1], "exclude": "select=best validation=0"}
    found = {(c.training.select, c.training.validation) for c in Sweep.from_settings(settings).cells()}
    assert found == {("last", 0), ("last", 0.1), ("best", 0.1)}


def test_a_cell_holds_the_parameters_of_its_schedule_and_no_others():
    for schedule in get_args(Schedule):
        training = cell(schedule=schedule, lr_warmup=0.2).training
        own = SCHEDULES[schedule] | {"lr_warmup": 0.2}
        for name in {name for parameters in SCHEDULES.values() for name in parameters}:
            assert getattr(training, name) == own.get(name), (schedule, name)
    assert cell().training == cell(schedule="one-cycle", lr_warmup=0.3, lr_start=0.04, lr_end=4e-6).training
    assert cell(schedule="cosine").training.lr_start is None


def test_clipping_can_be_switched_off():
    assert cell(clip_norm=0).training.clip_norm == 0


def test_cells_of_other_recipes_are_others_and_can_be_made_again():
    cells = [
        cell(optimizer=optimizer, schedule=schedule) for optimizer in get_args(Optimizer) for schedule in SCHEDULES
    ]
    cells += [cell(select="best"), cell(select="best-on-test", validation=0), cell(ema=0.9), cell(clip_norm=0)]
    cells += [cell(schedule="cosine", lr_warmup=0.1), cell(schedule="step", lr_step=0.1), cell(loss="h1")]
    assert len({one.id for one in cells}) == len(cells)
    again = [
        one for settings in sweeps([one.to_json() for one in cells]) for one in Sweep.from_settings(settings).cells()
    ]
    assert {one.id for one in again} == {one.id for one in cells}


def test_the_recipe_of_earlier_versions_is_written_into_their_cells():
    new = dataclasses.replace(
        cell(validation=0), regime="finetune", finetuning=Sweep.from_settings(ONE | {"regime": "finetune"}).finetuning
    )
    old = new.to_json()
    kept = ("epochs", "steps", "seconds", "learning_rate", "weight_decay", "clip_norm")
    old["training"] = {name: old["training"][name] for name in kept}
    old["finetuning"] = {"mixup": 0.2, "cutmix": 0.0, "label_smoothing": 0.1, "ema": 0.9, "warm_up": 0.0}
    read = Cell.from_json(upgrade_cell(old))
    assert read.training == dataclasses.replace(new.training, ema=0.9)
    assert upgrade_cell(new.to_json()) == new.to_json()
