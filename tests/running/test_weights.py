"""Kept weights make the trained module again, or are refused in a line; evaluating them elsewhere trains nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn
from toy_plugins import ToyTask

import attn_bench
from attn_bench.errors import UserError
from attn_bench.report import summarise, write_report
from attn_bench.results.store import Store
from attn_bench.running import runner, weights
from attn_bench.running.reuse import Reevaluation
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.runner import separated
from attn_bench.sweep.cell import Cell
from attn_bench.tasks.navier_stokes.task import NavierStokes
from attn_bench.tasks.shared.normalise import normalise

TRAINED = {"task": "toy-task", "resolutions": 8, "steps": 3, "measure": False, "device": "cpu", "threads": 1}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Run cells in this process: what is tested is what they make, not how they are isolated."""

    def execute(work):
        for cell in work.cells:
            if work.due(cell) is not None:
                record, environment = run_cell(Cell.from_json(cell.to_request()), Files.of(cell, work.store))
                work.store.write_environment(environment)
                work.store.write(record)

    monkeypatch.setattr(runner, "executor_of", lambda running, cells, parts: execute)
    # What a test changes of a toy is not an edit of its file.
    monkeypatch.setattr("attn_bench.running.run_cell.check_loaded", lambda sources: {})


@pytest.fixture
def train(tmp_path):
    def run(models="toy", folder="trained", **settings):
        return attn_bench.run(models, **{**TRAINED, "keep_weights": True, "out": tmp_path / folder, **settings})

    return run


def outputs(module, resolution=8):
    x = torch.randn(2, 1, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return module(x)


def test_the_module_that_was_evaluated_is_loaded(tmp_path, train, monkeypatch):
    monkeypatch.setattr(ToyTask, "adapt", lambda self, module, train: normalise(module, train))
    table = train(seeds=2, set=["toy-task.scale=7"])
    assert table.weights.str.fullmatch("[0-9a-f]{64}").all()
    assert table.weights_from.isna().all()
    test = ToyTask().splits(8, ToyTask.Options(scale=7)).test
    modules = []
    for row, named in zip((row for _, row in table.iterrows()), table.itertuples()):
        generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        module = attn_bench.load_model(tmp_path / "trained", row)
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        assert torch.equal(generators[0], after[0])
        assert generators[1:] == after[1:]
        with torch.no_grad():
            scores = ToyTask().evaluate([(module(x), y) for x, y in zip(*(t.split(4) for t in test.tensors))])
        assert scores["rel_l2"] == pytest.approx(row.rel_l2, rel=1e-5)
        assert module.target_std.item() == pytest.approx(7 / 3, rel=0.2)
        assert not module.training
        for same in (row.cell, named, row.to_dict()):
            again = attn_bench.load_model(str(tmp_path / "trained"), same)
            assert torch.equal(outputs(again), outputs(module))
        modules.append(module)
    assert not torch.equal(outputs(modules[0]), outputs(modules[1]))


def test_a_task_that_normalizes_trajectories_keeps_weights(tmp_path, train, monkeypatch):
    """navier-stokes fits its normalization to trajectories; weights that are loaded come with a few random samples."""
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    given = {"n_train": 3, "n_test": 2, "horizon": 4, "history": 2, "fine": 16, "steps": 16}
    (row,) = train("linear", task="navier-stokes", options={"navier-stokes": given}).itertuples()
    assert row.status == "ok"
    module = weights.load_model(tmp_path / "trained", row.cell)
    task = NavierStokes()
    options = task.resolve((8,), task.options(**given))
    known, target = next(iter(torch.utils.data.DataLoader(task.splits(8, options).test, batch_size=2)))
    with torch.no_grad():
        first = module(known)
    error = (first - target[:, :1]).flatten(1).norm(dim=1) / target[:, :1].flatten(1).norm(dim=1)
    assert float(error.mean()) == pytest.approx(row.rel_l2_first, rel=1e-4)


@pytest.mark.parametrize("how", ["plain", "lazy", "batch-buffer", "running-mean", "cached", "double", "in-place"])
def test_modules_with_habits_are_kept(tmp_path, train, how):
    table = train(f"habit:{how}")
    assert table.missing.isna().all()
    assert outputs(attn_bench.load_model(tmp_path / "trained", table.cell[0])).shape == (2, 1, 8, 8)


def test_what_is_not_in_the_state_is_noticed(tmp_path, train, monkeypatch):
    def scaled(self, module, train):
        """Keep the scale of the data where no state_dict has it."""
        whole = nn.Sequential(module)
        scale = train.tensors[1].std().item()
        whole.register_forward_hook(lambda module, inputs, output: output * scale)
        return whole

    monkeypatch.setattr(ToyTask, "adapt", scaled)
    (row,) = train().itertuples()
    assert row.status == "ok"
    assert row.missing.startswith("weights: ValueError: a module built anew with its weights gives other outputs")
    assert not list((tmp_path / "trained").glob("weights/*"))
    with pytest.raises(UserError, match=r"toy at 8, seed 0\): its weights were not kept; ValueError: a module built"):
        attn_bench.load_model(tmp_path / "trained", row.cell)


class Odd(nn.Module):
    """Every kind of tensor that a state may have."""

    def __init__(self, rows: int = 1) -> None:
        super().__init__()
        self.complex64 = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.complex128 = nn.Parameter(torch.randn(3, dtype=torch.complex128))
        self.tied = nn.Linear(3, 3)
        self.again = self.tied
        self.transposed = nn.Parameter(torch.randn(4, 2).t())
        both = torch.randn(6)
        self.register_buffer("part", both[1:4])
        self.register_buffer("other_part", both[2:])
        self.register_buffer("expanded", torch.randn(1).expand(3))
        self.register_buffer("rows", torch.randn(rows, 2))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("also_empty", torch.zeros(0, 3))
        self.register_buffer("count", torch.tensor(rows))
        self.register_buffer("halves", torch.randn(2, dtype=torch.bfloat16))


def cell_of(**settings):
    (cell,) = separated({"models": "toy", **TRAINED, **settings})[0].cells()
    return cell


def test_every_kind_of_tensor_comes_back(tmp_path):
    kept, path = Odd(rows=5), tmp_path / "w" / "odd.safetensors"
    said = weights.keep(path, kept, cell_of(), adapted=False)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        assert "tied.weight" in file.keys()  # noqa: SIM118
        assert "again.weight" not in file.keys()  # noqa: SIM118
        assert Cell.from_json(json.loads(file.metadata()["cell"])) == cell_of()
    back = Odd()
    back.expanded = back.expanded.clone()
    weights.fill(back, path, said.sha256)
    for (name, mine), theirs in zip(back.state_dict().items(), kept.state_dict().values(), strict=True):
        assert mine.dtype == theirs.dtype, name
        assert torch.equal(mine, theirs), name


def test_what_is_no_tensor_is_refused(tmp_path):
    module = nn.Linear(2, 2)
    module.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(ValueError, match="sparse in its state_dict is not a dense tensor"):
        weights.keep(tmp_path / "w", module, cell_of(), adapted=False)
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_used_are_refused_in_a_line(tmp_path, train, monkeypatch):
    folder = tmp_path / "trained"
    (row,) = train().itertuples()
    path = folder / "weights" / f"{row.cell}.safetensors"
    content = path.read_bytes()

    def refused(match, **options):
        with pytest.raises(UserError, match=match) as error:
            attn_bench.load_model(folder, row.cell, **options)
        assert "\n" not in str(error.value)

    path.write_bytes(content[:-1] + b"\xff")
    refused("cannot be read .damaged or replaced: its SHA-256")
    path.write_bytes(content + bytes(weights._SLACK_BYTES))
    refused("cannot be read .larger than 64 MiB")
    path.unlink()
    refused("the weights are gone; train the cell again")
    os.mkfifo(path)
    refused("cannot be read .not a regular file")
    path.unlink()
    path.write_bytes(content)
    attn_bench.load_model(folder, row.cell)
    # A record is no more to be trusted than the file.
    store = Store.open(folder)
    record = store.read(row.cell)
    for broken in (b"", b"not safetensors", (10**15).to_bytes(8, "little") + b"{}"):
        path.write_bytes(broken)
        digest = weights.sha256(broken).hexdigest()
        store.write(dataclasses.replace(record, weights=dataclasses.replace(record.weights, sha256=digest)))
        refused("the weights cannot be read")
    for other in (nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 1, 3))):
        said = weights.keep(path, other, record.cell, adapted=False)
        store.write(dataclasses.replace(record, weights=said))
        refused("the weights do not fit the module", strict=False)
    with pytest.raises(UserError, match=r"unknown cell in .* 'nothing'"):
        attn_bench.load_model(folder, "nothing")
    with pytest.raises(UserError, match="give the id of a cell, or one row of the table"):
        attn_bench.load_model(folder, 3)
    with pytest.raises(UserError, match="no such folder"):
        attn_bench.load_model(tmp_path / "nowhere", row.cell)
    path.unlink()
    path.mkdir()
    refused(r"cannot be read \(Is a directory\)")
    for device in ("gpu", "cuda:0", None, torch.device("cpu")):
        refused("setting device: must be 'auto', 'cpu' or 'cuda'", device=device)
    store.path("cells", row.cell).write_text("{")
    refused(f"cell {row.cell}: its record, .*{row.cell}.json, is damaged; train it again")


def test_code_that_has_changed_is_refused_unless_asked_for(tmp_path, train):
    (row,) = train().itertuples()
    store = Store.open(tmp_path / "trained")
    record = store.read(row.cell)
    cell = dataclasses.replace(record.cell, model_version="toy-plugins==1.0+00000000")
    store.write(dataclasses.replace(record, cell=cell))
    with pytest.raises(UserError, match=r"the code of model toy has changed since \(toy-plugins==1.0\+00000000 then"):
        attn_bench.load_model(store.folder, row.cell)
    assert outputs(attn_bench.load_model(store.folder, row.cell, strict=False)).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match=r"the code of model toy has changed since .*; train the models again"):
        attn_bench.run(weights_from=store.folder, out=tmp_path / "evaluated")


def test_cells_that_kept_no_weights_say_so(tmp_path, train):
    (row,) = train(keep_weights=False).itertuples()
    assert row.weights is None
    with pytest.raises(UserError, match="its weights were not kept; train it with --keep-weights"):
        attn_bench.load_model(tmp_path / "trained", row.cell)
    with pytest.raises(UserError, match="no weights were kept there"):
        attn_bench.run(weights_from=tmp_path / "trained", out=tmp_path / "evaluated")
    with pytest.warns(UserWarning, match="1 finished cell kept no weights; --retry all"):
        train()
    (again,) = train(retry="all").itertuples()
    assert (again.cell, again.rel_l2) == (row.cell, row.rel_l2)
    assert again.weights is not None


def test_the_folder_of_the_weights_is_recorded_as_it_was_given(tmp_path, train, monkeypatch):
    (row,) = train().itertuples()
    monkeypatch.chdir(tmp_path)
    (evaluated,) = attn_bench.run(weights_from="trained", out="evaluated").itertuples()
    assert (evaluated.status, evaluated.weights_from) == ("ok", f"trained/{row.cell}")


def test_kept_models_are_evaluated_elsewhere_without_training(tmp_path, train, monkeypatch):
    trained = train(["toy", {"name": "toy", "label": "wide", "options": {"width": 9}}], seeds=2, eval_resolutions=[12])
    monkeypatch.setattr("attn_bench.running.run_cell.train", None)
    given = {"weights_from": tmp_path / "trained", "out": tmp_path / "evaluated"}
    table = attn_bench.run(**given, eval_resolutions=[8, 12, 16])
    assert len(table) == 12
    assert set(table.status) == {"ok"}
    key = ["model", "seed", "eval_resolution"]
    both = trained.merge(table, on=key)
    assert len(both) == 8
    assert both.rel_l2_x.tolist() == pytest.approx(both.rel_l2_y.tolist())
    assert (both.weights_x == both.weights_y).all()
    assert (both.weights_from_y == f"{tmp_path / 'trained'}/" + both.cell_x).all()
    assert set(both.parameters_y) == set(both.parameters_x)
    assert not (set(table.cell) & set(trained.cell))
    assert not list((tmp_path / "evaluated").glob("weights/*"))

    def told():
        events = []
        attn_bench.running.runner.run_sweep(
            *(lambda s, r: (s, tmp_path / "evaluated", r))(*separated({**given, "eval_resolutions": [8, 12, 16]})),
            runner.Watcher(on_cells=lambda cells, there: events.append((len(cells), there))),
        )
        return events

    assert told() == [(4, ["ok"] * 4)]


def test_part_of_what_was_kept_is_evaluated_on_other_data(tmp_path, train):
    trained = train(["toy", "toy:wide"], seeds=3, resolutions=[8, 12])
    given = {"weights_from": tmp_path / "trained", "out": tmp_path / "evaluated"}
    table = attn_bench.run("toy:wide", **given, resolutions=8, seeds="1,2", set=["toy-task.scale=3"], batch_size=2)
    assert table[["model", "resolution", "eval_resolution", "seed", "batch_size"]].values.tolist() == [
        ["toy:wide", 8, 8, 1, 2],
        ["toy:wide", 8, 8, 2, 2],
    ]
    chosen = trained.query("model == 'toy:wide' and resolution == 8 and seed > 0")
    assert table.weights.tolist() == chosen.weights.tolist()
    assert table.rel_l2.tolist() != chosen.rel_l2.tolist()
    (cell,) = {record.cell.task_options["scale"] for record in Store.open(tmp_path / "evaluated").records()}
    assert cell == 3
    for settings, message in (
        ({"models": "fno"}, "unknown model with weights in .* 'fno'"),
        ({"resolutions": 16}, "--resolutions: no kept model was trained with resolution 16; there are 8, 12"),
        ({"seeds": 4}, "--seeds: no kept model was trained with seed 3; there are 0, 1, 2"),
        ({"epochs": 3}, "--epochs: has no effect with --from"),
        ({"compile": True}, "--compile: has no effect with --from"),
        ({"set": ["toy.width=3"]}, "--set toy: with --from only options of toy-task can be set"),
        ({"set": ["toy-task.depth=3"]}, "unknown option"),
        ({"task": "darcy"}, "--task darcy: the models in .* were trained on toy-task"),
        ({"keep_weights": True}, "--keep-weights: has no effect with --from"),
        ({"out": tmp_path / "trained"}, "is the folder that --from names"),
        ({"weights_from": tmp_path / "nowhere"}, "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            attn_bench.run(**{**given, **settings})


def test_weights_that_are_gone_are_a_row_each(tmp_path, train):
    table = train(seeds=2).set_index("seed")
    (tmp_path / "trained" / "weights" / f"{table.cell[0]}.safetensors").unlink()
    rows = attn_bench.run(weights_from=tmp_path / "trained", out=tmp_path / "evaluated").set_index("seed").sort_index()
    assert rows.status.tolist() == ["crashed", "ok"]
    assert "the weights are gone; train the cell again" in rows.error[0]
    assert rows.eval_resolution.tolist() == [8, 8]


def test_moving_the_folder_makes_no_other_cells(tmp_path, train):
    train()
    first = [cell.id for cell in Reevaluation.of_folder(str(tmp_path / "trained"), {}).cells()]
    (tmp_path / "trained").rename(tmp_path / "moved")
    assert [cell.id for cell in Reevaluation.of_folder(str(tmp_path / "moved"), {}).cells()] == first


def test_models_that_were_trained_differently_are_told_apart(tmp_path, train):
    train(learning_rate="1e-3,1e-2")
    cells = Reevaluation.of_folder(str(tmp_path / "trained"), {}).cells()
    titles = [f"toy [learning_rate={rate}] at 8, seed 0" for rate in (0.001, 0.01)]
    assert sorted(cell.title for cell in cells) == titles


def test_a_cell_without_kept_weights_is_the_cell_that_it_was():
    cell = cell_of()
    assert "weights" not in cell.to_json()
    assert dataclasses.replace(cell, keep_weights=True).id == cell.id
    assert dataclasses.replace(cell, weights="0" * 64).id != cell.id
    request = dataclasses.replace(cell, keep_weights=True, weights="0" * 64, weights_in=("r", "c")).to_request()
    back = Cell.from_json(json.loads(json.dumps(request)))
    assert (back.keep_weights, back.weights, back.weights_in) == (True, "0" * 64, ("r", "c"))


def test_nothing_is_kept_where_nothing_is_trained(train):
    with pytest.raises(UserError, match="keep_weights: has no effect without training"):
        train(train=False, steps=None, measure=True)


def test_keeping_changes_no_number(tmp_path, train):
    kept = train("habit:plain", seeds=2, eval_resolutions=[12])
    without = train("habit:plain", "without", keep_weights=False, seeds=2, eval_resolutions=[12])
    assert kept.rel_l2.tolist() == without.rel_l2.tolist()
    assert kept.train_loss.tolist() == without.train_loss.tolist()


def test_fields_are_kept_at_every_resolution_evaluated_at_and_shown(tmp_path, train):
    train(["toy", "toy:wide"])
    table = attn_bench.run(weights_from=tmp_path / "trained", out=tmp_path / "evaluated", eval_resolutions=[8, 12])
    with np.load(tmp_path / "evaluated" / "artifacts" / f"{table.cell[0]}.npz") as fields:
        shapes = {name: fields[name].shape for name in fields}
    names = ("input", "target", "prediction")
    assert shapes == {f"{name}{end}": (3, 1, n, n) for end, n in (("", 8), ("_12", 12)) for name in names}
    metrics = Store.open(tmp_path / "evaluated").run_info().tasks["toy-task"]
    written = {path.name for path in write_report(tmp_path / "evaluated", summarise(table, metrics))}
    assert {"toy-task_panel_8.png", "toy-task_panel_8_at_12.png"} <= written
    page = (tmp_path / "evaluated" / "report" / "index.html").read_text()
    assert "Fields at resolution 12, trained at 8" in page
    assert "Not shown" not in page
