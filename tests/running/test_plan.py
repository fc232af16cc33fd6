"""A dry run: which cells would be run, and what records and timed steps say of their time and disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attn_bench.errors import UserError
from attn_bench.results.record import Evaluation, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.running import timed_steps
from attn_bench.running.plan import MEASURING_S, plan, total
from attn_bench.running.timed_steps import Known, time_steps
from attn_bench.sweep.execution import Running
from attn_bench.sweep.groups import Measuring
from attn_bench.sweep.settings import Sweep

TOY = {"models": "toy", "task": "toy-task", "device": "cpu", "resolutions": 8, "measure": False}


def sweep(**settings):
    return Sweep.from_settings(TOY | settings)


@pytest.fixture
def store(tmp_path):
    found = Store.create(tmp_path / "r")
    found.write_run_info(RunInfo({"toy-task": {}}))
    return found


def ran(store, seconds=10.0, trained=8.0, **settings):
    """Keep a record of each cell of a sweep, which took so long."""
    for cell in sweep(**settings).cells():
        training = TrainingResult(steps=8, epochs=2.0, seconds=trained)
        done = (Evaluation(cell.resolution, "ok"),)
        store.write(Record(cell, "ok", training=training, seconds=seconds, tokens=64, evaluations=done))


def test_what_is_there_is_not_run_and_failed_cells_only_if_asked(store):
    first, second = sweep(seeds=2).cells()
    store.write(Record(first, "ok", evaluations=(Evaluation(8, "ok"),)))
    store.write(Record(second, "crashed", error="alas"))
    found = plan(sweep(seeds=3), store.folder, Running())
    assert [each.there for each in found.cells] == ["ok", "crashed", None]
    found = plan(sweep(seeds=3), store.folder, Running(retry="failed"))
    assert [each.there for each in found.cells] == ["ok", None, None]
    assert len(found.to_run) == 2


def test_a_trained_cell_that_was_not_measured_is_only_measured(store):
    ran(store, seconds=10.0, trained=8.0)
    (found,) = plan(sweep(measure=True), store.folder, Running()).cells
    assert (found.there, found.only_measured) == (None, True)
    assert found.seconds == pytest.approx(2.0 + MEASURING_S)


def test_nothing_is_written_and_an_empty_folder_knows_nothing(tmp_path):
    (found,) = plan(sweep(), tmp_path / "new", Running()).cells
    assert (found.seconds, found.disk) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_serve_the_kind_takes_no_time_and_is_named(tmp_path):
    found = plan(sweep(models="toy,full", task="text", seeds=2), tmp_path / "new", Running())
    assert found.notes == ("toy serves field; the kind of text is causal-text, so it is not run",)
    assert {(each.cell.model, each.seconds) for each in found.cells} == {("toy", 0.0), ("full", None)}
    assert {cell.model for cell in found.unknown} == {"full"}


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"seeds": [5]}, 10),  # the same cell
        ({"epochs": 4}, 18),  # twice the training
        ({"steps": 16}, 18),  # the same, in steps: 8 of them were two epochs
        ({"seconds": 100.0}, 102),
        ({"learning_rate": 1e-5, "epochs": 1}, 6),
        ({"resolutions": 16}, 40),  # four times the tokens
        ({"resolutions": 16, "options": {"toy": {"width": 8}}}, 40),
        ({"measure": True, "seeds": [5]}, 10 + MEASURING_S),
    ],
)
def test_an_estimate_is_of_the_cell_most_alike(store, asked, seconds):
    ran(store)
    (found,) = plan(sweep(**asked), store.folder, Running()).to_run
    assert found.seconds == pytest.approx(seconds)
    assert found.disk > 0


def test_two_resolutions_make_a_line(store):
    ran(store, seconds=10)
    ran(store, seconds=20, resolutions=16)
    (found,) = plan(sweep(resolutions=32), store.folder, Running()).to_run
    assert found.seconds == pytest.approx(40)


def test_other_models_say_nothing(store):
    ran(store)
    (found,) = plan(sweep(models="toy-slow"), store.folder, Running()).to_run
    assert found.seconds is None


def test_kinds_without_an_estimate_are_those_whose_steps_differ(store):
    ran(store)
    asked = {"models": "toy,toy-slow", "seeds": 3, "resolutions": "8,12", "learning_rate": "1e-3,1e-2"}
    found = plan(sweep(**asked), store.folder, Running())
    assert [(cell.model, cell.resolution) for cell in found.unknown] == [("toy-slow", 8), ("toy-slow", 12)]
    found = plan(sweep(models="toy-slow", batch_size="2,4"), store.folder, Running())
    assert [cell.execution.batch_size for cell in found.unknown] == [2, 4]
    assert plan(sweep(models="toy-slow", train=False, measure=True), store.folder, Running()).unknown == []


def test_timed_steps_are_scaled_to_the_whole_training(store):
    (cell,) = sweep(models="toy-slow", epochs=10).cells()
    short = timed_steps._short(cell)
    assert (short.training.steps, short.training.epochs) == (timed_steps.STEPS, None)
    training = TrainingResult(steps=5, epochs=1.25, seconds=1.0)
    known = Known(cell, Record(short, "ok", training=training, seconds=3.0, tokens=64), 4096)
    asked = {"models": "toy-slow", "epochs": 10, "measure": True, "seeds": 2, "learning_rate": "1e-3,1e-2"}
    found = plan(sweep(**asked), store.folder, Running(), [known])
    assert [each.seconds for each in found.cells] == [pytest.approx(2 + 8 + MEASURING_S)] * 4
    assert {each.disk for each in found.cells} == {4096}


def test_steps_are_timed_in_processes_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = sweep(models="toy,toy-raises", epochs=100).cells()
    said = []
    (known,) = time_steps(cells, Running(), told=said.append)
    assert known.cell == cells[0]
    assert (known.record.status, known.record.training.steps) == ("ok", timed_steps.STEPS)
    assert known.disk > 0
    assert said == ["toy-raises at 8, seed 0: crashed (RuntimeError: boom in two lines); its steps could not be timed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("running", [Running(executor="slurm"), Running(weights_from="r")])
def test_steps_are_not_timed_where_they_say_nothing(running):
    with pytest.raises(UserError, match=r"--time-steps: .*; leave it out"):
        timed_steps.check(running)


def test_trials_of_tuning_come_first(store):
    found = plan(sweep(tune="learning_rate=1e-3,1e-2"), store.folder, Running())
    assert [each.cell.is_trial for each in found.cells] == [True, True, False]
    assert found.notes == ("2 trials of tuning first; the better half get twice the budget in the next round",)
    assert len(found.unknown) == 1


def test_the_sum_says_how_much_it_leaves_out():
    assert total([1.0, None, 2.0]) == (3.0, 1)
    assert replace(Measuring(), measure=False) == Measuring(measure=False)
