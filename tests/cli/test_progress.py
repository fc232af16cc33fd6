"""Progress without a terminal: the data being made and how far a run is, without a line per step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attn_bench.cli import progress
from attn_bench.cli.progress import Screen
from attn_bench.results.record import Evaluation, Record
from attn_bench.sweep.settings import Sweep


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def cells():
    options = {"toy-task": {"n": 8}}
    settings = {"models": ["toy", "toy:wide"], "task": "toy-task", "device": "cpu", "options": options}
    return Sweep.from_settings({**settings, "resolutions": [8]}).cells()


def test_data_are_announced_with_their_options_and_then_now_and_then(clock, cells, capsys):
    with Screen(Path("r")) as screen:
        screen.on_cells(cells, [])
        screen.on_source("data of toy-task n=8")
        for done in range(200):
            clock[0] = done
            screen.on_data(done, 200)
    assert capsys.readouterr().err.splitlines() == [
        "2 cells into r",
        *(f"data of toy-task n=8: {done}/200" for done in (0, 60, 120, 180)),
    ]


def test_a_long_training_prints_progress_and_a_short_one_does_not(clock, cells, capsys):
    event = {"event": "progress", "stage": "training", "epoch": 1.0, "loss": 0.5}
    with Screen(Path("r")) as screen:
        screen.on_cells(cells[:1], [])
        screen.listen(cells[0], {"event": "start"})
        for clock[0] in (1.0, 59.0, 61.0):
            screen.listen(cells[0], {**event, "fraction": clock[0] / 100})
    assert capsys.readouterr().err.splitlines()[1:] == ["toy at 8, seed 0: 61% of training, epoch 1.0, loss 0.5000"]


def test_what_is_measured_later_is_said_to_be_trained(cells, capsys):
    trained = replace(cells[0], measuring=replace(cells[0].measuring, measure=False))
    with Screen(Path("r")) as screen:
        screen.on_cells(cells, [])
        for cell in (trained, cells[0]):
            screen.listen(cells[0], {"event": "start"})
            record = Record(cell, "ok", environment="e", parameters=2, seconds=9.0)
            screen.listen(cells[0], {"event": "done", "status": "ok", "record": record})
    assert capsys.readouterr().err.splitlines()[1:] == [
        "[trained]  toy at 8, seed 0:  ok  9 s",
        "[1/2]  toy at 8, seed 0:  ok  9 s",
    ]


def test_existing_cells_are_counted(cells, capsys):
    Screen(Path("r")).on_cells(cells, ["ok"])
    Screen(Path("r")).on_cells(cells, ["timeout", "skipped"])
    Screen(Path("r")).on_cells(cells, ["unsupported", "ok"])
    assert capsys.readouterr().err.splitlines() == [
        "2 cells into r, 1 already there",
        "2 cells into r, all already there (2 not ok: --retry failed runs them again)",
        "2 cells into r, all already there",
    ]


def test_interrupted_before_a_cell_was_finished_no_table_is_promised(cells, capsys):
    with pytest.raises(KeyboardInterrupt), Screen(Path("r")) as screen:
        screen.on_cells(cells, [])
        raise KeyboardInterrupt
    assert "no cell was finished" in capsys.readouterr().err


def test_missing_parts_of_an_ok_cell_are_reported(cells, capsys):
    refused = Evaluation(12, "unsupported", "Input height (12)")
    why = "ValueError: one value"
    record = Record(
        cells[0], "ok", seconds=2.0, evaluations=(Evaluation(8, "ok", metrics={"rel_l2": 0.25}), refused),
        errors={"latency_train_step": why, "peak_memory_train": why},
    )  # fmt: skip
    with Screen(Path("r")) as screen:
        screen.on_cells(cells[:1], [])
        screen.listen(cells[0], {"event": "done", "record": record})
    line = capsys.readouterr().err.splitlines()[1]
    assert line.startswith("[1/1]  toy at 8, seed 0:  ok")
    assert "(at 12: unsupported, Input height (12))" in line
    assert "(missing: latency_train_step, peak_memory_train: ValueError: one value)" in line
