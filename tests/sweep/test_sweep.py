"""Settings become cells, and invalid ones give one clear line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from attn_bench.errors import USER_ERRORS, UserError
from attn_bench.plugins.registry import MODELS
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import read_sweep_file


def sweep(**settings):
    return Sweep.from_settings({"models": ["toy"], "task": "toy-task", "device": "cpu", **settings})


def test_a_cell_per_model_resolution_and_seed_with_the_defaults_of_the_task():
    cells = sweep(models=["toy", "toy:wide"], seeds=2).cells()
    assert [(c.model, c.resolution, c.seed) for c in cells] == [
        (model, resolution, seed) for resolution in (8, 12) for seed in (0, 1) for model in ("toy", "toy:wide")
    ]
    assert cells[0].training.budget == 2
    assert cells[0].training.budget_unit == "epochs"
    assert cells[0].execution.batch_size == 4
    assert cells[1].options == {"width": 16}


@pytest.mark.parametrize(
    "settings",
    [
        {"models": "toy, toy:wide", "resolutions": "8..32", "seeds": "4,1", "set": "toy.width=5"},
        {"models": ["toy", "toy:wide"], "resolutions": [8, "16..32"], "seeds": [4, 1], "set": ["toy.width=5"]},
        {"resolutions": "8,16,32", "models": ("toy", {"name": "toy", "preset": "wide"}), "set": {"toy.width": 5},
         "seeds": (4, 1), "epochs": "2"},
    ],
)  # fmt: skip
def test_yaml_python_and_the_command_line_write_the_same(settings):
    usual = {"models": ["toy", "toy:wide"], "resolutions": [8, 16, 32], "seeds": [4, 1]}
    assert sweep(**settings).cells() == sweep(**usual, options={"toy": {"width": 5}}).cells()


def test_one_resolution_and_one_model_need_no_list():
    assert sweep(models="toy", resolutions=16).cells() == sweep(models=["toy"], resolutions=[16]).cells()


def test_a_file_sets_the_resolution_and_a_bad_option_is_the_tasks(tmp_path):
    import numpy as np

    values = np.random.default_rng(0).random((9, 24, 24))
    np.savez(tmp_path / "mine.npz", x=values, y=values)
    settings = {"task": "darcy", "data": tmp_path / "mine.npz", "models": "mean"}
    assert [cell.resolution for cell in sweep(**settings).cells()] == [24]
    with pytest.raises(USER_ERRORS, match="darcy"):
        sweep(**settings, resolutions=7).cells()


def test_the_package_shows_what_it_offers():
    import attn_bench

    assert {name for name in dir(attn_bench) if not name.startswith("_")} == {"run", "measure", "load", "load_model"}


def test_options_reach_the_model_the_label_and_the_task():
    models = ["toy", {"name": "toy", "label": "mine", "preset": "wide", "options": {"act": "tanh"}}]
    options = {"toy": {"width": 5}, "mine": {"width": "7"}, "toy-task": {"n": 8}}
    one, two = sweep(models=models, options=options, resolutions=[8]).cells()
    assert (one.options, two.options) == ({"width": 5}, {"width": 7, "act": "tanh"})
    assert two.model == "mine"
    assert one.task_options == {"n": 8}


def test_the_id_is_the_same_in_every_process_and_changes_with_every_part():
    (cell,) = sweep(resolutions=[8]).cells()
    code = f"from attn_bench.sweep.settings import Cell; print(Cell.from_json({cell.to_json()!r}).id)"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()
    assert other == cell.id
    changes = {
        "seed": 1, "resolution": 12, "options": {"width": 5}, "task_options": {"n": 3}, "model_version": "2",
        "eval_resolutions": (4,), "training": dataclasses.replace(cell.training, epochs=3.0),
        "measuring": dataclasses.replace(cell.measuring, cuda_graph=True),
    }  # fmt: skip
    ids = {dataclasses.replace(cell, **{name: value}).id for name, value in changes.items()}
    how = {"precision": "bf16", "compile": True, "device": "cuda", "batch_size": 9}
    changed = [dataclasses.replace(cell.execution, **{name: value}) for name, value in how.items()]
    ids |= {dataclasses.replace(cell, execution=execution).id for execution in changed}
    assert len(ids | {cell.id}) == len(changes) + len(how) + 1


def test_a_cell_survives_json():
    (cell,) = sweep(resolutions=[8], eval_resolutions=[12]).cells()
    assert Cell.from_json(cell.to_json()) == cell


def test_cells_of_every_model_and_preset_survive_json():
    own = [name for name, claims in MODELS.entries().items() if claims[0].package == "attn-bench"]
    models = [label for name in own for label in (name, *(f"{name}:{preset}" for preset in MODELS.load(name).presets))]
    assert "fno:paper" in models  # its n_modes is a tuple
    cells = Sweep.from_settings({"models": models, "task": "darcy", "resolutions": 16, "device": "cpu"}).cells()
    assert [Cell.from_json(cell.to_json()) for cell in cells] == cells


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "no models given"),
        ({"cuda_graph": True}, "--cuda-graph needs a GPU"),
        ({"task": ""}, "no task given"),
        ({"models": ["tooy"]}, "did you mean 'toy'"),
        ({"models": ["toy:wied"]}, "unknown preset of toy 'wied'; did you mean 'wide'"),
        ({"models": ["toy", "toy"]}, "listed twice"),
        ({"models": [{"nam": "toy"}]}, "unknown key of a model"),
        ({"models": [{"label": "toy"}]}, "has no name"),
        ({"models": [{"name": "toy", "options": 5}]}, "options of model toy in the sweep: 5 is not a mapping"),
        ({"task": "toy-tusk"}, "did you mean 'toy-task'"),
        ({"options": {"toy": {"widht": 3}}}, "unknown option of toy 'widht'; did you mean 'width'"),
        ({"options": {"toy": {"width": "wide"}}}, "toy.width must be a valid integer (given: 'wide')"),
        ({"options": {"toy": {"act": "gelu"}}}, "toy.act must be 'relu' or 'tanh' (given: 'gelu')"),
        ({"options": {"fno": {"width": 3}}}, "unknown model or task of this sweep"),
        ({"options": {"toy-task": {"m": 3}}}, "unknown option of toy-task"),
        ({"resolutions": [0]}, "must be >= 2"),
        ({"resolutions": [-3]}, "must be >= 2"),
        ({"resolutions": []}, "at least one"),
        ({"resolutions": ["a"]}, "setting resolutions"),
        ({"seeds": 0}, "must be >= 1"),
        ({"seeds": 10**30}, "must be <= 1000"),
        ({"seeds": [3, -1]}, "a seed must be >= 0 and < 2^32 (given: -1)"),
        ({"seeds": [2**40]}, "a seed must be >= 0 and < 2^32"),
        ({"batch_size": 10**30}, "must be a number of at most 64 bits"),
        ({"epochs": 1, "steps": 3}, "only one training budget"),
        ({"epochs": -1}, "must be > 0"),
        ({"batch_size": 0}, "must be > 0"),
        ({"precision": "fp8"}, "setting precision"),
        ({"color": 1}, "unknown setting 'color'"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(USER_ERRORS) as caught:
        sweep(**settings).cells()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cuda_without_cuda_is_one_line():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--device cuda: no CUDA device found"):
        sweep(device="cuda").cells()


@pytest.mark.parametrize(
    "text", ["[1, 2", "- a\n- b", "!!python/object:os.system {}", "", "models: " + "[" * 5000, "seeds: 2\nseeds: 3"]
)
def test_an_invalid_sweep_file_gives_one_line_error(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml"):
        read_sweep_file(path)
