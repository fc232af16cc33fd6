"""The commands on the page reproduce exactly the cells they are shown for."""

from __future__ import annotations

import random
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_bench import cli
from attn_bench.errors import UserError
from attn_bench.report.reproduce import LINE, steps, sweeps
from attn_bench.running import runner
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

TOY = {"models": ["toy"], "task": "toy-task", "device": "cpu"}
Reads = Callable[[str], list[Cell]]


def cells(*asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a folder holds after these sweeps: a cell that two of them share stands there once."""
    found = {cell.id: cell for one in asked for cell in Sweep.from_settings(TOY | one).cells()}
    return [cell.to_json() for cell in found.values()]


def ids(made: list[dict[str, Any]]) -> Counter[str]:
    return Counter(Cell.from_json(cell).id for cell in made)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reads:
    """Return the cells that a command would run, read by the command line itself."""
    monkeypatch.chdir(tmp_path)
    found: list[Cell] = []

    def run_sweep(sweep: Sweep, *arguments: Any, **options: Any) -> None:
        found.extend(sweep.cells())
        raise UserError("read")

    monkeypatch.setattr(runner, "run_sweep", run_sweep)

    def reads(command: str) -> list[Cell]:
        found.clear()
        monkeypatch.setattr("sys.argv", shlex.split(command.replace("\\\n", "")))
        with pytest.raises(SystemExit):
            cli.main()
        return list(found)

    return reads


@pytest.mark.parametrize(
    ("asked", "commands", "files"),
    [
        ([{}], 1, 0),
        ([{"seeds": 3, "resolutions": [16, 8], "steps": 7, "batch_size": 2, "compile": True, "threads": 3}], 1, 0),
        ([{"seconds": 0.5, "precision": "bf16", "learning_rate": 1e-5, "measure": False}], 1, 0),
        ([{"options": {"toy": {"width": 8, "act": "tanh"}, "toy-task": {"n": 4, "scale": 1e-7}}}], 1, 0),
        ([{"models": ["toy", "toy:wide"]}], 1, 1),  # --set toy:wide is heard by toy:wide alone, but not the other way
        ([{"models": ["toy:wide", "toy-slow"]}], 1, 0),
        ([{"models": [{"name": "toy", "label": "a 'b' \u202e <c>", "options": {"width": 5}}]}], 1, 1),
        ([{"seeds": [4, 1]}], 1, 1),
        ([{"resolutions": [8, 12], "eval_resolutions": [12, 16]}], 1, 0),
        ([{"resolutions": [8, 12], "eval_resolutions": [12, 16]}, {"resolutions": [20]}], 3, 0),
        ([{"train": False, "resolutions": [8, 16, 32], "threads": 1}], 1, 0),
        ([{"train": False, "seeds": 2}], 1, 1),
        # Filled by several commands: other resolutions, other models, other options, other budgets.
        ([{"models": ["toy", "toy-slow"], "resolutions": [8, 12]}, {"resolutions": [16]}], 1, 0),
        ([{"options": {"toy": {"width": 8}}}, {"options": {"toy": {"width": 16}}}], 1, 0),
        # The default of an option that is given makes another cell.
        ([{}, {"options": {"toy": {"width": 8}}}, {"options": {"toy": {"width": 16}}}], 2, 0),
        ([{"epochs": 1}, {"epochs": 2}, {"train": False}], 2, 0),
        # Axes, of settings, of options with a default and of others.
        ([{"models": "toy,toy-slow", "set": "toy.width=2,4", "precision": "float32,bf16", "seeds": 2}], 1, 0),
        (
            [
                {
                    "set": ["toy-task.n=16,4", "toy-task.scale=1,2"],
                    "batch_size": "8,auto,900 tokens",
                    "compile": [True, False],
                }
            ],
            1,
            0,
        ),
        ([{"set": "toy.act=relu,tanh"}, {"set": "toy.act=tanh", "precision": "bf16"}], 1, 0),
        ([{"set": "toy.act=relu,tanh", "models": "toy,toy-slow", "exclude": "toy.act=tanh resolution=8"}], 1, 0),
        ([{"schedule": ["cosine", "step"], "epochs": "1,2", "exclude": "schedule=step epochs=2"}], 2, 0),
        (
            [
                {
                    "task": "toy-task,darcy",
                    "resolutions": 16,
                    "precision": "float32,bf16",
                    "exclude": "task=darcy model=toy precision=bf16",
                    "models": "toy,toy-slow",
                }
            ],
            1,
            1,
        ),
        ([{"recipe": ["fno-2020", "lamo"]}, {"recipe": ["fno-2020", "lamo"], "precision": "bf16"}], 2, 0),
        ([{"precision": "float32,bf16", "exclude": "precision=bf16 resolution=12"}], 1, 0),
        ([{"task": "toy-task,toy-sealed"}], 1, 1),
        ([{"task": "toy-task,darcy,digits", "models": "mano,fno", "set": "mano.dim=8,16", "resolutions": 16}], 1, 1),
        ([{"task": "toy-task,darcy", "tasks": {"darcy": {"train": False}, "toy-task": {"seeds": [4, 1]}}}], 1, 1),
        ([{"task": "toy-task,darcy", "set": ["toy.width=2,4", "toy-task.n=4,8"], "epochs": 2, "batch_size": 4}], 1, 1),
        ([{"seeds": 2, "resolutions": [8, 12]}, {"resolutions": [12, 16], "seeds": 3}], 1, 0),
        ([{"task": "darcy", "resolutions": [16, 32]}, {"task": "darcy", "resolutions": [43]}], 2, 0),
    ],
)
def test_commands_make_the_same_cells(
    read: Reads, tmp_path: Path, asked: list[dict[str, Any]], commands: int, files: int
) -> None:
    wanted = cells(*asked)
    found = steps(wanted)
    assert (len(found), sum(step.file is not None for step in found)) == (commands, files)
    made = []
    for step in found:
        if step.file:
            (tmp_path / step.file).write_text(step.yaml or "")
        made += [cell.to_json() for cell in read(step.command)]
        assert max(map(len, step.command.split("\n"))) <= LINE + 2
    assert ids(made) == ids(wanted)


@pytest.mark.parametrize(
    "asked",
    [
        {"recipe": "fno-2020"},
        {"recipe": "fno-2020", "optimizer": "adamw", "steps": 3},  # a default that the recipe does not have
        {"recipe": "fno-2020", "schedule": "constant", "weight_decay": 0.0},
        {"models": ["toy", "toy:wide"], "recipes": {"toy:wide": "transolver"}},
        {"recipe": ["fno-2020", "lamo"]},
        {"tune": {"learning_rate": [1e-3, 2e-3], "weight_decay": [0, 1]}, "tune_budget": 0.5},
        {"tune": {"learning_rate": [1e-3, 2e-3]}, "tune_resolution": 8, "resolutions": [8, 12, 16]},
        {"tune": {"learning_rate": [1e-3, 2e-3]}, "tune_resolution": 8, "resolutions": 12},
    ],
)
def test_recipes_and_tuning_are_reproduced(asked: dict[str, Any], read: Reads) -> None:
    wanted = cells(asked)
    again = [cell.id for step in steps(wanted) for cell in read(step.command)]
    assert sorted(again) == sorted(ids(wanted))


def test_what_tuning_chose_is_chosen_again() -> None:
    asked = {"tune": {"learning_rate": [1e-3, 2e-3]}, "resolutions": [8, 12]}
    wanted = cells(asked)
    chosen = [
        {**one, "training": {**one["training"], "learning_rate": rate}} for one, rate in zip(wanted, (1e-3, 2e-3))
    ]
    (found,) = sweeps(chosen)
    assert ids([cell.to_json() for cell in Sweep.from_settings(found).cells()]) == ids(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_records_makes_no_difference(seed: int) -> None:
    wanted = cells(
        {"models": "toy,toy-slow", "set": "toy.width=2,4", "precision": "float32,bf16", "resolutions": [8, 12]}
    )
    random.Random(seed).shuffle(wanted)
    (found,) = sweeps(wanted)
    assert "include" not in found
    assert ids([cell.to_json() for cell in Sweep.from_settings(found).cells()]) == ids(wanted)


def test_a_folder_without_records_has_no_command() -> None:
    assert steps([]) == []


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "models": st.lists(st.sampled_from(["toy", "toy:wide", "toy-slow"]), min_size=1, unique=True),
                "resolutions": st.lists(st.sampled_from([8, 12, 16]), min_size=1, unique=True),
                "eval_resolutions": st.lists(st.sampled_from([12, 16]), unique=True),
                "seeds": st.lists(st.integers(0, 2), min_size=1, unique=True),
                "epochs": st.sampled_from([1.0, 0.25]),
                "options": st.sampled_from([{}, {"toy-task": {"n": 4}}]),
            }
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_mixture_of_sweeps_is_taken_apart_into_sweeps(asked: list[dict[str, Any]]) -> None:
    wanted = cells(*asked)
    made = [cell.to_json() for found in sweeps(wanted) for cell in Sweep.from_settings(found).cells()]
    assert ids(made) == ids(wanted)
