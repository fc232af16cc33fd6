"""Several values of settings, options and tasks become cells for each combination, less what rules leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from attn_bench.errors import USER_ERRORS
from attn_bench.plugins.values import Text
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.expansion import expanded
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import overridden

TOY = {"models": "toy", "task": "toy-task", "device": "cpu", "resolutions": 8}


def cells(**settings: Any) -> list[Cell]:
    return Sweep.from_settings({**TOY, **settings}).cells()


def places(found: list[Cell], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(cell.execution, name, getattr(cell, name, None)) for name in names) for cell in found]


def test_every_combination_of_settings_has_a_cell() -> None:
    found = cells(precision=Text("float32,bf16"), batch_size=[1, 8], learning_rate="0.001,0.01", compile=[False, True])
    values = {
        (c.execution.precision, c.execution.batch_size, c.training.learning_rate, c.execution.compile) for c in found
    }  # type: ignore[union-attr]
    assert len(found) == len(values) == 2**4
    assert len({cell.id for cell in found}) == 2**4


def test_the_values_of_an_option_are_variants_of_a_model_and_of_a_task() -> None:
    found = cells(models="toy,toy:wide", set=[Text("toy.width=2,4"), Text("toy-task.n=3,5")])
    variants = [(c.model, c.options["width"], c.task_options["n"]) for c in found]
    # Every model appears before any appears again.
    assert variants == [(m, w, n) for n in (3, 5) for w in (2, 4) for m in ("toy", "toy:wide")]
    assert [cell.title for cell in found[:3:2]] == [
        "toy [n=3, width=2] at 8, seed 0",
        "toy [n=3, width=4] at 8, seed 0",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"set": Text("toy.width=2,4"), "precision": Text("float32,bf16")},
        {"set": "toy.width=2,4", "precision": "float32,bf16"},
        {"options": {"toy": {"width": [2, 4]}}, "precision": ["float32", "bf16"]},
        {"models": [{"name": "toy", "options": {"width": [2, 4]}}], "precision": ("float32", "bf16")},
        {"tasks": {"toy-task": {"options": {"toy": {"width": [2, 4]}}, "precision": ["float32", "bf16"]}}},
    ],
)
def test_command_line_yaml_and_python_write_the_same_axes(settings: Mapping[str, Any]) -> None:
    usual = cells(set=[Text("toy.width=2,4")], precision=["float32", "bf16"])
    assert len(usual) == 4
    assert cells(**settings) == usual


def test_small_resolutions_come_first_then_seeds_then_combinations_with_every_task_and_model() -> None:
    found = cells(models="toy,mean", task="toy-task,darcy", resolutions="16,32", seeds=2, batch_size="1,2")
    assert places(found, "resolution", "seed", "batch_size", "task", "model") == [
        (resolution, seed, batch, task, model)
        for resolution in (16, 32)
        for seed in (0, 1)
        for batch in (1, 2)
        for task in ("toy-task", "darcy")
        for model in ("toy", "mean")
    ]


def test_a_task_has_its_own_settings_and_defaults() -> None:
    tasks = {"toy-task": {"steps": 7, "batch_size": [1, 2]}, "darcy": {"resolutions": "16,32", "models": "mean"}}
    sweep = Sweep.from_settings({"models": "toy", "device": "cpu", "tasks": tasks, "epochs": 3, "seeds": 1})
    found = sweep.cells()
    toys, darcy = ([cell for cell in found if cell.task == name] for name in ("toy-task", "darcy"))
    assert places(toys, "resolution", "batch_size") == [(8, 1), (8, 2), (12, 1), (12, 2)]
    assert {(cell.training.steps, cell.training.epochs) for cell in toys if cell.training} == {(7, None)}
    assert places(darcy, "model", "resolution", "batch_size") == [("mean", 16, 8), ("mean", 32, 8)]
    assert {cell.training.epochs for cell in darcy if cell.training} == {3.0}


def test_flags_override_the_file_and_what_it_says_of_a_task() -> None:
    own = {"steps": 5, "seeds": 2, "set": "toy.width=9"}
    file = {"models": "toy", "device": "cpu", "batch_size": 4, "tasks": {"toy-task": own, "darcy": None}}
    given = {"task": Text("toy-task"), "epochs": Text("1"), "set": [Text("toy.width=2")]}
    found = Sweep.from_settings(overridden(file, given)).cells()
    assert {(c.task, c.options["width"], c.execution.batch_size) for c in found} == {("toy-task", 2, 4)}
    assert {(c.training.epochs, c.training.steps, c.seed) for c in found if c.training} == {(1, None, 0), (1, None, 1)}


def test_models_that_are_given_are_those_of_the_file_with_their_options() -> None:
    toys = [
        {"name": "toy", "options": {"width": 9}},
        {"name": "toy", "label": "wide toy", "options": {"width": 64}},
        "mean",
    ]
    file = {"models": toys, "task": "toy-task", "device": "cpu"}
    for given, expected in {
        "toy": {"toy": 9},
        "wide toy, toy": {"wide toy": 64, "toy": 9},
        "linear,wide toy": {"linear": None, "wide toy": 64},
    }.items():
        found = Sweep.from_settings(overridden(file, {"models": Text(given), "task": "darcy"})).cells()
        assert {cell.model: cell.options.get("width") for cell in found} == expected


@pytest.mark.parametrize(
    ("given", "unmet"),
    [
        ({}, ["typo"]),
        ({"models": Text("mean")}, []),
        ({"models": Text("toy")}, ["typo"]),
        ({"models": Text("big")}, ["typo"]),  # rules mean models by label and by name
        ({"resolutions": Text("8")}, []),
        ({"resolutions": Text("12..24")}, ["typo"]),
        ({"resolutions": Text("12"), "exclude": [Text("model=typo")]}, ["typo"]),
        ({"task": Text("darcy")}, []),
    ],
)
def test_what_a_file_excludes_of_what_flags_leave_out_is_no_mistake(given: dict[str, Any], unmet: list[str]) -> None:
    models = ["toy", {"name": "toy", "label": "big", "options": {"width": 64}}, "mean"]
    file = {"models": models, "task": ["toy-task", "darcy"], "resolutions": [8, 12], "device": "cpu"}
    file["exclude"] = {"model": "toy", "task": "toy-task", "resolution": 12, "toy.width": "typo"}
    notes = expanded(Sweep.from_settings(overridden(file, given))).notes
    assert len(notes) == len(unmet)
    assert all(word in note for word, note in zip(unmet, notes))


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"exclude": {"precision": "bf16", "toy.width": [2]}}, {(2, "float32"), (4, "float32"), (4, "bf16")}),
        ({"exclude": "toy.width=2,4 precision=bf16"}, {(2, "float32"), (4, "float32")}),
        ({"include": [{"precision": "float32"}, "toy.width=4"]}, {(2, "float32"), (4, "float32"), (4, "bf16")}),
        ({"include": {"width": 4}} | {"include": {"toy.width": 4}, "exclude": {"precision": "bf16"}}, {(4, "float32")}),
        ({"exclude": {"models": "toy", "resolutions": 8, "seed": 0, "toy.width": "2"}}, {(4, "float32"), (4, "bf16")}),
    ],
)
def test_rules_choose_among_combinations(rules: Mapping[str, Any], left: set[Any]) -> None:
    found = cells(set="toy.width=2,4", precision="float32,bf16", **rules)
    assert {(cell.options["width"], cell.execution.precision) for cell in found} == left


def test_a_rule_knows_the_default_of_an_option() -> None:
    found = cells(models=["toy", {"name": "toy", "label": "big", "options": {"width": 64}}], exclude={"toy.width": 4})
    assert [cell.model for cell in found] == ["big"]


def test_a_rule_that_means_no_cell_is_named() -> None:
    sweep = Sweep.from_settings(
        {**TOY, "exclude": [{"seed": 3}, {"model": "toy", "resolution": 12}], "resolutions": "8,12"}
    )
    assert expanded(sweep).notes == ('exclude {"seed": 3}: no cell of this sweep is like that',)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exclude": {"precison": "bf16"}}, "unknown axis in exclude 'precison'; did you mean 'precision'?"),
        ({"include": {"fno.modes": 3}}, "unknown model or task of this sweep in include 'fno'"),
        ({"exclude": {"model": "toy"}}, "include and exclude leave no cell to run"),
        ({"exclude": "toy"}, "'toy' is not a rule; write e.g. 'model=fno resolution=64'"),
        ({"exclude": [{}]}, "{} is not a rule"),
        ({"tasks": {"toy-task": {"epochs": -1}}}, "tasks: toy-task: setting epochs: must be > 0"),
        ({"tasks": {"toy-task": {"task": "darcy"}}}, "tasks: toy-task: setting task: not for a single task"),
        ({"tasks": {"toy-task": 3}}, "setting tasks: 3 is not a mapping"),
        ({"task": "toy-task,toy-tusk"}, "unknown task 'toy-tusk'; did you mean 'toy-task'?"),
        ({"measure": [True, False]}, "setting measure: must be a valid boolean"),
        ({"batch_size": "2,x"}, "setting batch_size: must be a valid integer or 'auto' or a number of tokens such"),
        ({"precision": Text("float32,fp8")}, "--precision: must be 'float32', 'tf32' or 'bf16' (given: 'fp8')"),
        ({"set": "toy.width=2,100.5"}, "toy.width must be a valid integer"),
        ({"epochs": [1, 2], "steps": 3}, "only one training budget is allowed"),
        ({"regime": "scratch,finetune"}, "regime finetune: needs a task of kind image"),
        ({"task": "toy-task,darcy", "root": "nowhere"}, "toy-task and darcy do not read such files"),
    ],
)
def test_wrong_axes_are_one_line(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        cells(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_fine_tuning_make_no_second_cell_where_it_is_not_done() -> None:
    found = cells(task="digits", models="vit", regime="scratch,finetune", mixup="0,0.5")
    assert [(c.regime, c.finetuning and c.finetuning.mixup) for c in found] == [
        ("scratch", None), ("finetune", 0.0), ("finetune", 0.5)
    ]  # fmt: skip
