"""A run with tuning, from its trials to its table."""

from __future__ import annotations

import json
import math
import os

import pytest
from toy_tuning import READ

import attn_bench
from attn_bench.errors import UserError
from attn_bench.results.record import Evaluation, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.running.tuning import trial_of
from attn_bench.sweep.settings import Sweep

RATES = [1e-4, 0.1, 1e38]
SETTINGS = {
    "task": "toy-sealed", "device": "cpu", "threads": 1, "measure": False, "steps": 40, "schedule": "constant",
    "tune_budget": 0.5,
}  # fmt: skip


def test_tuning_finds_the_planted_rate_once_for_all_seeds_and_never_reads_the_test_set(tmp_path):
    settings = {**SETTINGS, "tune": {"learning_rate": RATES}, "out": tmp_path}
    sealed = attn_bench.run("toy-scale", seeds=2, validation=0, **settings)
    # The test set says when it is read, which is after all trials and only in the final evaluation.
    assert all(READ in error for error in sealed["error"])
    assert sealed["tuned"].tolist() == ["learning_rate 0.1 of 0.0001, 0.1, 1e+38"] * 2
    trials = Store(tmp_path / "tuning").records()
    assert {record.status for record in trials} == {"ok", "diverged"}
    assert all(record.data["samples"] == {"train": 36, "validation": 4, "test": 8} for record in trials)
    final = Store(tmp_path).records()
    assert [record.training.steps for record in final] == [40, 40]
    assert final[0].data["samples"]["train"] == 40
    tried = [(trial.values["learning_rate"], trial.budget, trial.status) for trial in final[0].trials]
    assert tried[:3] == [(1e-4, 10, "ok"), (0.1, 10, "ok"), (1e38, 10, "diverged")]
    assert sorted(tried[3:]) == [(1e-4, 20, "ok"), (0.1, 20, "ok")]
    assert final[0].trials == final[1].trials
    assert sealed["tuning_seconds"].tolist() == [sum(trial.seconds for trial in final[0].trials)] * 2
    assert (sealed["cell_seconds"] > sealed["tuning_seconds"]).all()
    kept = json.loads((tmp_path / "cells" / f"{final[0].id}.json").read_text())
    assert kept["cell"]["training"]["learning_rate"] == 0.1

    # Again: nothing is left to do. With one seed more, only that is run.
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tuning/cells").iterdir()}
    assert attn_bench.run("toy-scale", seeds=3, validation=0, **settings)["learning_rate"].tolist() == [0.1] * 3
    assert made == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tuning/cells").iterdir()}


@pytest.mark.slow
def test_trials_run_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr("attn_bench.running.executors.shares.usable_cores", lambda: sorted(os.sched_getaffinity(0)) * 2)
    settings = {**SETTINGS, "tune": {"learning_rate": [1e-4, 0.1]}, "set": "toy-sealed.sealed=false", "out": tmp_path}
    (row,) = attn_bench.run("toy-scale", jobs=2, **settings).to_dict("records")
    assert (row["status"], row["tuned"]) == ("ok", "learning_rate 0.1 of 0.0001, 0.1")
    assert {record.trained_under for record in Store(tmp_path / "tuning").records()} == {"2 side by side"}


def test_where_every_rate_diverges_the_row_says_so(tmp_path):
    table = attn_bench.run(
        "toy-scale", **SETTINGS, tune={"learning_rate": [1e38, 2e38]}, set="toy-sealed.sealed=false", out=tmp_path
    )
    (row,) = table.to_dict("records")
    assert row["status"] == "diverged"
    assert row["error"].startswith("no trial of --tune succeeded (learning_rate 1e+38: ")
    assert row["tuned"] is None or math.isnan(row["tuned"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": "learning_rate=1e-3"}, "learning_rate has one value; there is nothing to choose"),
        ({"tune": "learning_rate=1e-3,0.001,3e-3"}, "learning_rate has the value 0.001 twice"),
        ({"tune": ["learning_rate=1,2", "learning_rate=3,4"]}, "learning_rate is given twice; give all its values at"),
        ({"tune": "learning_rate"}, "is not SETTING=VALUE,VALUE; write e.g. learning_rate=1e-3,3e-3"),
        ({"tune": "learning_rate=1e-3,x"}, r"setting tune: learning_rate: must be a valid number \(given: 'x'\)"),
        ({"tune": "learning_rate=1e-3,-1"}, "setting tune: learning_rate: must be > 0"),
        ({"tune": {"lr_step": [0.1, None]}, "schedule": "step"}, "tune: must be a valid number"),
        ({"tune": "epochs=1,2"}, "unknown setting to tune 'epochs'"),
        ({"tune": "optimizer=adam,lion"}, "setting tune: unknown setting to tune 'optimizer'; there are: clip_norm, "),
        ({"tune": "lr=1,2"}, "unknown setting to tune 'lr'; did you mean 'learning_rate'"),
        ({"tune": "learning_rate=1,2", "learning_rate": 1}, "learning_rate is given as well; give it or tune it"),
        ({"tune": "lr_step=0.1,0.2"}, "lr_step: has no effect with schedule one-cycle"),
        ({"tune": "learning_rate=1,2", "train": False}, "tune: has no effect without training"),
        ({"tune_budget": 0.5}, "tune_budget: has no effect without tune"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        Sweep.from_settings({"models": "toy-scale", "task": "toy-sealed", **settings}).cells()


class Cluster:
    """An executor that waits for nothing unless ``waits``: then each cell has a record, trials the better the higher
    their rate."""

    def __init__(self):
        self.waits, self.submitted = False, []

    def __call__(self, work):
        due = [cell for cell in work.cells if work.due(cell)]
        self.submitted.append([(cell.is_trial, cell.training.learning_rate, cell.seed) for cell in due])
        for cell in due if self.waits else ():
            evaluation = Evaluation(cell.resolution, "ok", metrics={"mse": 1 - cell.training.learning_rate})
            work.store.write(Record(cell, "ok", evaluations=(evaluation,), training=TrainingResult(steps=1)))
        return None if self.waits or not due else f"{len(due)} jobs"


def test_trials_that_are_not_waited_for_end_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr("attn_bench.running.runner.executor_of", lambda *_: cluster)
    settings = {**SETTINGS, "tune": {"learning_rate": [0.1, 0.2]}, "seeds": 2, "set": "toy-sealed.sealed=false"}
    table = attn_bench.run("toy-scale", **settings, out=tmp_path)
    assert (len(table), table.attrs["left"]) == (0, "2 jobs")
    assert cluster.submitted == [[(True, 0.1, 0), (True, 0.2, 0)], []]
    cluster.waits = True
    table = attn_bench.run("toy-scale", **settings, out=tmp_path)
    assert cluster.submitted[2:] == [[(True, 0.1, 0), (True, 0.2, 0)], [(False, 0.2, 0), (False, 0.2, 1)]]
    assert table["tuned"].tolist() == ["learning_rate 0.2 of 0.1, 0.2"] * 2
    assert "left" not in table.attrs


def test_a_model_is_trained_right_after_its_own_trials(tmp_path, monkeypatch):
    cluster, at_a_time = Cluster(), [1]
    cluster.waits = True
    monkeypatch.setattr("attn_bench.running.runner.executor_of", lambda *_: cluster)
    monkeypatch.setattr("attn_bench.running.runner.searches_at_a_time", lambda *_: at_a_time[0])
    settings = {**SETTINGS, "tune": {"learning_rate": [0.1, 0.2]}, "seeds": 2, "set": "toy-sealed.sealed=false"}
    trials, rows = [(True, 0.1, 0), (True, 0.2, 0)], [(False, 0.2, 0), (False, 0.2, 1)]
    for at_a_time[0], submitted in ((1, [trials, rows] * 3), (2, [2 * trials, 2 * rows, trials, rows])):
        cluster.submitted.clear()
        table = attn_bench.run("toy-scale", resolutions=[8, 12, 16], **settings, out=tmp_path / str(at_a_time[0]))
        assert cluster.submitted == submitted
        assert table["tuned"].tolist() == ["learning_rate 0.2 of 0.1, 0.2"] * 6


def test_cells_whose_search_is_over_do_not_wait_for_others(tmp_path, monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr("attn_bench.running.runner.searches_at_a_time", lambda *_: None)
    monkeypatch.setattr("attn_bench.running.runner.executor_of", lambda *_: cluster)
    settings = {**SETTINGS, "tune": {"learning_rate": [0.1, 0.2]}, "set": "toy-sealed.sealed=false", "out": tmp_path}
    cluster.waits = True
    attn_bench.run("toy-scale", resolutions=[8], **settings)
    cluster.waits = False
    table = attn_bench.run("toy-scale", resolutions=[8, 12], **{**settings, "seeds": 2})
    assert cluster.submitted[-2:] == [[(True, 0.1, 0), (True, 0.2, 0)], [(False, 0.2, 1)]]
    assert table.attrs["left"] == "2 jobs; 1 jobs"


def test_status_counts_trials_and_cancel_ends_their_jobs(tmp_path, monkeypatch, capsys):
    from attn_bench.cli import jobs
    from attn_bench.running.executors.slurm import follow, states

    store = Store.create(tmp_path / "r")
    store.write_run_info(RunInfo({"toy-task": {}}))
    trials = Store.create(store.folder / "tuning")
    (cell,) = Sweep.from_settings(
        {"models": "toy", "task": "toy-task", "resolutions": 8, "device": "cpu", "tune": "learning_rate=1,2"}
    ).cells()
    trial = trial_of(cell, {"learning_rate": 1.0}, 0.5)
    seen = {store.folder: [], trials.folder: [follow.Followed("7", states.State("RUNNING", "n1"), [trial])]}
    monkeypatch.setattr(follow, "follow", lambda store: seen[store.folder])
    monkeypatch.setattr(follow, "live_names", lambda store, followed: [f"of {store.folder.name}" for _ in followed])
    cancelled = []
    monkeypatch.setattr(states, "cancel", cancelled.extend)
    jobs.status(store.folder)
    said = capsys.readouterr().out
    assert "tuning: 0 trials with a record" in said
    assert "  7  running  n1  toy [learning_rate=1] at 8, seed 0" in said
    jobs.cancel(store.folder)
    assert cancelled == ["of tuning"]
    assert "cancelled 1 Slurm job; 1 cell" in capsys.readouterr().out
