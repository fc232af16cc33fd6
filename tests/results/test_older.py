"""A run says why it trains cells again whose settings have results in the folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_results import Folder

from attn_bench.results.older import why_again
from attn_bench.results.record import Record
from attn_bench.results.table import in_brief
from attn_bench.sweep.cell import Cell


@pytest.fixture
def record(tmp_path) -> Record:
    folder = Folder(tmp_path)
    folder.add("mano", 16)
    (record,) = folder.store.records()
    return replace(record, cell=replace(record.cell, training_version=1))


def cell(record: Record, **changed) -> Cell:
    return replace(record.cell, **changed)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"training_version": 2}, "the training code (version 1, now 2)"),
        ({"model_version": "mano==2"}, "the code of mano"),
        ({"task_version": "darcy==2", "eval_resolutions": (64,)}, "the code of darcy"),
        ({"training_version": 3, "model_version": "x"}, "the training code (version 1, now 3), the code of mano"),
    ],
)
def test_what_changed_is_said_in_one_line(record, changed, why):
    assert why_again([cell(record, **changed)], in_brief([record])) == (
        f"1 cell has a result of other code and runs again; changed: {why}"
    )


def test_cells_are_counted_and_each_reason_is_named_once(record):
    old = [replace(record, cell=cell(record, seed=seed)) for seed in range(3)]
    new = [cell(each, training_version=2) for each in old]
    assert why_again(new, in_brief(old)) == (
        "3 cells have results of other code and run again; changed: the training code (version 1, now 2)"
    )


def test_cells_of_other_settings_and_models_that_were_broken_are_new(record):
    for changed in ({"seed": 5}, {"resolution": 32}, {"options": {"dim": 7}}, {"training": None}):
        assert why_again([cell(record, model_version="2", **changed)], in_brief([record])) is None
    broken = replace(record, cell=cell(record, model_version="broken"))
    assert why_again([record.cell], in_brief([broken])) is None
    assert why_again([cell(record, model_version="2", broken="it is broken")], in_brief([record])) is None
