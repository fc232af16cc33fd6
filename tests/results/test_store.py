"""Records and their table: nothing lost, nothing half-written, nothing mixed."""

from __future__ import annotations

import json

import pytest

import attn_bench
from attn_bench.errors import UserError
from attn_bench.files import atomic_write
from attn_bench.plugin import Metric
from attn_bench.results.record import Evaluation, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep.settings import Sweep

METRICS = {"rel_l2": Metric("lower", "")}


def cells(**settings):
    return Sweep.from_settings({"models": ["toy"], "task": "toy-task", "device": "cpu", **settings}).cells()


def store_in(folder) -> Store:
    store = Store.create(folder / "r")
    store.write_run_info(RunInfo({"toy-task": METRICS}))
    return store


def evaluation(resolution, value, status="ok", error=None):
    return Evaluation(resolution, status, error, {"rel_l2": value} if value else {})


def test_every_cell_and_every_resolution_evaluated_at_is_a_row(tmp_path):
    store = store_in(tmp_path)
    one, two = cells(eval_resolutions=[16, 20], resolutions=[8, 12])
    results = (evaluation(8, 0.1), evaluation(16, 0.2), evaluation(20, None, "unsupported", "too large"))
    store.write(Record(one, "ok", evaluations=results, parameters=7, latency={}))
    store.write(Record(two, "crashed", error="boom"))
    table = attn_bench.load(tmp_path / "r")
    columns = ["resolution", "eval_resolution", "status", "error"]
    assert table[columns].fillna("").values.tolist()[:3] == [
        [8, 8, "ok", ""],
        [8, 16, "ok", ""],
        [8, 20, "unsupported", "too large"],
    ]
    assert table.rel_l2.tolist()[:2] == [0.1, 0.2]
    assert table.status.tolist()[3:] == ["crashed"] * 3
    assert table.error.tolist()[3:] == ["boom"] * 3
    assert store.write_table().equals(table)
    assert (tmp_path / "r" / "table.csv").read_text().count("\n") == 7


def test_cells_of_one_model_with_other_settings_are_distinguished(tmp_path):
    store = store_in(tmp_path)
    for epochs in (1, 2):
        for cell in cells(epochs=epochs, resolutions=[8], seeds=2):
            store.write(Record(cell, "ok"))
    (other,) = cells(models=["toy:wide"], resolutions=[8])
    store.write(Record(other, "ok"))
    assert sorted(set(store.table().model)) == ["toy [epochs=1.0]", "toy [epochs=2.0]", "toy:wide"]


def test_non_finite_numbers_become_null(tmp_path):
    store = store_in(tmp_path)
    (cell,) = cells(resolutions=[8])
    store.write(Record(cell, "ok", training=TrainingResult(loss=float("nan"), seconds=float("inf"))))
    written = json.loads(store.path("cells", cell.id).read_text())["training"]
    assert (written["loss"], written["seconds"]) == (None, None)
    assert store.read(cell.id).training == TrainingResult()


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        attn_bench.load(tmp_path / "none")
    with pytest.raises(UserError, match="contains no results"):
        attn_bench.load(tmp_path)
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Store.create(tmp_path / "f")
    with pytest.raises(UserError, match="cannot be written"):
        Store.create(tmp_path / "f" / "below")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="contains no results"):
        Store.create(tmp_path / "full")
    store = store_in(tmp_path)
    (store.folder / "run.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="written by a newer attn-bench \\(schema 99, this one reads 2\\)"):
        attn_bench.load(store.folder)
    (store.folder / "run.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        attn_bench.load(store.folder)


def test_a_record_names_its_cell():
    (cell,) = cells(resolutions=[8])
    record = Record(cell, "ok")
    assert record.id == cell.id
    assert record.to_json()["cell"] == cell.to_json()


def test_metrics_keep_the_order_of_the_task(tmp_path):
    store = Store.create(tmp_path / "r")
    store.write_run_info(RunInfo({"toy-task": {"b": Metric("lower", ""), "a": Metric("lower", "")}}))
    assert list(Store.open(tmp_path / "r").run_info().metrics) == ["b", "a"]
