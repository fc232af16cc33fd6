"""What ``--dry-run`` prints."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from attn_bench.cli.dry_run import MOST_LINES, duration, shown, size
from attn_bench.running.executors import shares
from attn_bench.running.plan import Plan, Planned, plan
from attn_bench.sweep.execution import Running
from attn_bench.sweep.settings import Sweep


def cells(**settings):
    return Sweep.from_settings(
        {"models": "toy", "task": "toy-task", "device": "cpu", "resolutions": 8} | settings
    ).cells()


def printed(plan, width=120, **how):
    file = io.StringIO()
    Console(file=file, width=width).print(shown(plan, Path("r"), **how))
    return file.getvalue()


def test_each_cell_has_a_line_with_what_is_there_and_what_is_to_run() -> None:
    there, measured, run = cells(seeds=3)
    said = printed(
        Plan((Planned(there, "ok"), Planned(measured, None, True, 5, 100), Planned(run, None, False, 60, 4096)))
    )
    lines = [line.split() for line in said.splitlines()]
    assert lines[0] == ["model", "resolutions", "seeds", "cells", "there", "to", "run", "time", "disk"]
    assert lines[1] == ["toy", "8", "0", "1", "1", "ok", "-", "-", "-"]
    assert lines[2] == ["toy", "8", "1", "1", "-", "1", "(1", "only", "measured)", "5.0", "s", "0", "KiB"]
    assert lines[3] == ["toy", "8", "2", "1", "-", "1", "60", "s", "4", "KiB"]
    assert "3 cells into r: 1 there already (1 ok), 2 to run. Estimated from earlier cells: 65 s, 4 KiB." in said
    assert said.strip().endswith("Nothing was run or written.")


def test_times_of_cells_that_train_side_by_side_add_up_to_more_than_the_run_takes(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(shares, "usable_cores", lambda: [0, 1])
    monkeypatch.setattr(shares, "MEMORY_EACH_MIB", 1)
    sweep = Sweep.from_settings({"models": "toy", "task": "toy-task", "resolutions": 8, "seeds": 3, "device": "cpu"})
    found = plan(sweep, tmp_path, Running())
    assert found.at_a_time == 2
    known = tuple(replace(each, seconds=60, disk=1) for each in found.cells)
    said = printed(replace(found, cells=known), width=300)
    assert "Estimated from earlier cells: 3.0 min one after another (2 train side by side), 0 KiB." in said
    assert plan(sweep, tmp_path, Running(jobs=1)).at_a_time == 1


def test_many_cells_are_brought_together_and_every_axis_is_counted() -> None:
    many = cells(seeds=10, precision="float32,bf16", set="toy.width=2,4,8", resolutions="8..64")
    said = printed(Plan(tuple(Planned(cell, None, False, 1, 1) for cell in many)))
    lines = said.splitlines()
    assert len(lines) < MOST_LINES
    assert "toy [bf16, width=8]" in said
    assert "8, 16, 32, 64" in said
    assert "0 to 9 (10)" in said
    assert "240 cells into r: 240 to run." in " ".join(said.split())
    more = cells(batch_size=",".join(map(str, range(1, 40))))
    assert "toy (39 variants)" in printed(Plan(tuple(map(Planned, more))))


def test_trials_of_tuning_are_named_as_in_a_run(tmp_path) -> None:
    tuned = Sweep.from_settings(
        {"models": "toy", "task": "toy-task", "device": "cpu", "resolutions": 8, "tune": "learning_rate=0.01,0.1"}
    )
    lines = printed(plan(tuned, tmp_path, Running()), width=300).splitlines()
    names = [line[: line.index("8 ")].strip() for line in lines if "toy" in line]
    assert names == ["[tuning] toy [learning_rate=0.01]", "[tuning] toy [learning_rate=0.1]", "toy"]


def test_tasks_have_a_column() -> None:
    said = printed(Plan(tuple(map(Planned, cells(task="toy-task,darcy", resolutions=16)))))
    assert [line.split()[:2] for line in said.splitlines()[:3]] == [
        ["model", "task"],
        ["toy", "toy-task"],
        ["toy", "darcy"],
    ]


def test_what_is_not_known_is_said_and_how_to_learn_it() -> None:
    known, other = cells(models="toy,toy-slow")
    said = " ".join(printed(Plan((Planned(known), Planned(other)))).split())
    assert (
        "Time and disk are unknown: no cell of these models and tasks has been run in this folder; --time-steps" in said
    )
    said = " ".join(printed(Plan((Planned(known, None, False, 60, 1), Planned(other)))).split())
    assert "60 s, 0 KiB for 1 of them; nothing is known of the others. --time-steps times a few" in said
    assert "unknown" in said
    said = " ".join(printed(Plan((Planned(known, None, False, 60, 1),), ("a note",)), timed=True).split())
    assert "a note" in said
    assert "Estimated from earlier cells and timed steps: 60 s, 0 KiB. Nothing was written to it." in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4 s"),
        (40, "40 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (720, "12 min"),
        (5400, "1.5 h"),
        (181_440, "2.1 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(100, "0 KiB"), (4096, "4 KiB"), (3 << 20, "3.0 MiB"), (5 << 29, "2.5 GiB")]
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text
