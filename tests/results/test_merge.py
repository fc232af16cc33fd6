"""One row is one thing: what is known of one model, trained once with one seed, is in one row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_results import EXECUTION, METRICS, TRAINING
from places import ROOT

import attn_bench
from attn_bench.plugin import Metric
from attn_bench.report.summary import summarise
from attn_bench.results.merge import completed, merged, renewed
from attn_bench.results.record import Evaluation, Flops, Latency, Memory, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Measuring


def cell(**settings: Any) -> Cell:
    values = {
        "model": "mano", "plugin": "mano", "model_version": "1", "options": {}, "task": "darcy", "task_version": "1",
        "task_options": {}, "resolution": 16, "seed": 0, "execution": EXECUTION, "training": TRAINING,
    }  # fmt: skip
    if "measure" in settings:
        settings["measuring"] = Measuring(measure=settings.pop("measure"))
    return Cell(**{**values, **settings})


def record(of: Cell, number: float, day: int, status: Any = "ok", **values: Any) -> Record:
    """A record whose every number is ``number``."""
    tested = (of.resolution, *of.eval_resolutions)
    made: dict[str, Any] = {
        "environment": f"env{day}",
        "evaluations": tuple(Evaluation(r, "ok", metrics={"rel_l2": number}) for r in tested),
        "training": TrainingResult(loss=number),
        "latency": {"forward": Latency(number, number, number, number, number)} if of.measuring.measure else {},
        "memory": {"forward": Memory(number, number)} if of.measuring.measure else {},
        "flops": Flops(number) if of.measuring.measure else None,
        "started": f"2026-01-{day:02}T10:00:00+00:00",
    }
    return Record(of, status, **{**made, **values})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.write_run_info(RunInfo({"darcy": {"rel_l2": Metric("lower", "")}}))
    return made


def old(store: Store, one: Record, number: int) -> None:
    """Keep a record as an earlier version did, which gave a cell that is not measured a name of its own."""
    store.write(replace(one, id=f"{number:016x}"))


def test_measuring_is_not_part_of_a_cell_id():
    assert cell(measure=False).id == cell(measure=True).id
    assert cell(measure=False).to_json()["measuring"]["measure"] is False
    assert cell(seed=1).id != cell().id


def test_a_cell_has_the_name_that_it_always_had():
    """Another name would mean that every cell of every results folder is run again: say so in the changelog."""
    assert cell().id == "a99c5220105f74b5"


def test_a_cell_of_an_earlier_version_is_read_in_the_form_of_this_one():
    path = next((ROOT / "results" / "quick" / "cells").glob("*.json"))
    stored = Store(path.parents[1]).read(path.stem)
    assert stored is not None
    read = stored.cell
    assert (read.training.budget, read.training.budget_unit, read.execution.batch_size) == (10.0, "epochs", 8)
    assert Cell.from_json(read.to_json()) == read


def test_records_that_differ_in_what_else_was_asked_are_one_row_with_one_seed(store):
    old(store, record(cell(measure=False), 3.0, day=3), 1)
    old(store, record(cell(eval_resolutions=(32,)), 2.0, day=2), 2)
    old(store, record(cell(eval_resolutions=(64, 32), measure=False), 1.0, day=1), 3)
    table = attn_bench.load(store.folder)
    # Each number from the newest that holds it: trained on day 3, measured on day 2.
    assert table[["eval_resolution", "rel_l2"]].values.tolist() == [[16, 3.0], [32, 2.0], [64, 1.0]]
    assert table.train_loss.tolist() == [3.0] * 3
    assert table.latency_forward_ms[0] == table.peak_memory_forward_mib[0] == table.flops[0] == 2.0
    assert table.model.tolist() == ["mano"] * 3
    summary = summarise(table, METRICS)
    assert all(entry.seeds == 1 for entry in summary.entries)
    (one,) = store.records()
    assert one.environment == "env2", "where it was measured"
    assert one.cell.measuring.measure is True


def test_a_row_is_a_seed_and_other_settings_are_other_rows(store):
    cells = [cell(seed=seed, measure=seed == 1) for seed in (0, 1)]
    cells += [
        cell(training=replace(TRAINING, epochs=20.0)),
        cell(model_version="2"),
        cell(execution=replace(EXECUTION, batch_size=4)),
    ]
    for number, one in enumerate(cells):
        old(store, record(one, 1.0, day=number + 1), number)
    assert len(store.records()) == len(cells)


@pytest.mark.parametrize("first", [0, 1])
def test_what_ended_ok_counts_before_what_did_not(store, first):
    good = record(cell(measure=False), 1.0, day=1)
    bad = record(
        cell(eval_resolutions=(32,)), 9.0, 2, "oom", error="none left", evaluations=(), latency={}, memory={},
        flops=None, training=None,
    )  # fmt: skip
    for number, one in enumerate([good, bad] if first else [bad, good]):
        old(store, one, number)
    table = attn_bench.load(store.folder)
    assert table.status.tolist() == ["ok", "oom"]
    assert table.error.fillna("").tolist() == ["", "none left"]
    assert table.rel_l2.fillna(0).tolist() == [1.0, 0.0]


def test_the_newer_of_two_failures_is_kept_with_the_findings_of_both():
    older = record(cell(), 1.0, 1, "crashed", error="boom", latency={}, memory={}, flops=None)
    newer = record(cell(eval_resolutions=(32,)), 2.0, 2, "timeout", error="late", evaluations=(), training=None)
    (one,) = merged([older, newer])
    assert (one.status, one.error) == ("timeout", "late")
    assert one.evaluations[0].metrics == {"rel_l2": 1.0}
    assert one.training == TrainingResult(loss=1.0)
    assert one.latency["forward"].median_ms == 2.0


def test_a_cell_that_is_trained_again_keeps_what_was_measured():
    before = record(cell(), 1.0, day=1)
    again = renewed(before, record(cell(measure=False), 2.0, day=2))
    assert again.training == TrainingResult(loss=2.0)
    assert again.evaluations[0].metrics == {"rel_l2": 2.0}
    assert again.latency["forward"].median_ms == 1.0
    assert (again.environment, again.cell.measuring.measure, again.id) == ("env1", True, cell().id)
    # What failed says so, and what was measured again is the newer.
    failed = record(cell(measure=False), 2.0, 2, "crashed", error="boom", evaluations=())
    assert renewed(before, failed) == failed
    assert renewed(before, record(cell(), 2.0, day=2)).latency["forward"].median_ms == 2.0


def test_measuring_again_replaces_disturbed_latencies_and_keeps_the_training():
    noisy = Latency(9.0, 9.0, 9.0, 9.0, 9.0, disturbed=True)
    before = replace(record(cell(), 1.0, day=1, seconds=5.0), latency={"forward": noisy})
    measured = record(cell(training=None), 2.0, day=2, evaluations=(), training=None, seconds=1.0)
    again = completed(before, measured)
    assert (before.disturbed, again.disturbed) == (True, False)
    assert again.latency["forward"].median_ms == 2.0
    assert (again.training, again.evaluations, again.cell) == (before.training, before.evaluations, before.cell)
    assert (again.environment, again.seconds, again.id) == ("env2", 6.0, before.id)
