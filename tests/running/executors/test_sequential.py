"""Every cell ends as a row, and the others still run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from attn_bench.errors import UserError
from attn_bench.running.runner import Watcher, run, run_sweep
from attn_bench.sweep import versions
from attn_bench.sweep.execution import Running
from attn_bench.sweep.settings import Sweep


def sweep(models, **settings):
    settings = {"resolutions": [8], "steps": 2, "measure": False, "device": "cpu", **settings}
    return Sweep.from_settings({"models": models, "task": "toy-task", **settings})


def statuses(table):
    return dict(zip(table.model, zip(table.status, table.error.fillna(""))))


def test_a_second_call_runs_only_what_is_missing(tmp_path):
    ran = []

    def go(models, retry="none", told=lambda cells, there: None, **settings):
        ran.clear()
        done = lambda cell, event: ran.append(cell.model) if event["event"] == "done" else None  # noqa: E731
        watcher = Watcher(listen=done, on_cells=told)
        return run_sweep(sweep(models, **settings), tmp_path / "r", Running(retry=retry), watcher)

    told = []
    tell = lambda cells, there: told.append((len(cells), there))  # noqa: E731
    go(["toy", "toy-raises"])
    assert ran == ["toy", "toy-raises"]
    go(["toy", "toy-raises", "toy:wide"], told=tell)
    assert ran == ["toy:wide"]
    go(["toy", "toy-raises"], retry="failed", told=tell)
    assert ran == ["toy-raises"]
    assert told == [(3, ["ok", "crashed"]), (2, ["ok"])]
    go(["toy", "toy-raises"], retry="all")
    assert ran == ["toy", "toy-raises"]
    table = go(["toy"], steps=3)
    assert ran == ["toy"]
    assert len(table) == 4


def test_a_cell_that_older_code_trained_is_trained_again_and_the_run_says_why(tmp_path, monkeypatch):
    said = []
    run_sweep(sweep(["toy"]), tmp_path, watcher=Watcher(on_warning=said.append))
    was = versions.TRAINING
    monkeypatch.setattr(versions, "TRAINING", was + 1)
    table = run_sweep(sweep(["toy", "toy:wide"]), tmp_path, watcher=Watcher(on_warning=said.append))
    assert said == [
        f"1 cell has a result of other code and runs again; changed: the training code (version {was}, now {was + 1})"
    ]
    assert set(table.model) == {f"toy (training {was})", f"toy (training {was + 1})", "toy:wide"}


def test_after_an_out_of_memory_larger_resolutions_are_skipped(tmp_path):
    table = run_sweep(sweep(["toy-hungry", "toy"], resolutions=[8, 12, 16]), tmp_path / "r")
    assert table[table.model == "toy-hungry"].status.tolist() == ["ok", "oom", "skipped"]
    assert "out of memory at 12 already" in table.error.dropna().tolist()[-1]
    assert set(table[table.model == "toy"].status) == {"ok"}
    again = run_sweep(sweep(["toy-hungry"], resolutions=[16]), tmp_path / "s", Running(skip=False))
    assert again.status.tolist() == ["oom"]


def test_after_a_timeout_larger_resolutions_are_skipped(tmp_path):
    table = run_sweep(sweep(["toy-slow"], resolutions=[8, 12]), tmp_path / "r", Running(timeout=2))
    assert table.status.tolist() == ["timeout", "skipped"]
    assert "out of time at 8 already" in table.error.tolist()[-1]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"timeout": -1}, "setting timeout: must be > 0"),
        ({"timeout": float("nan")}, "setting timeout"),
        ({"memory_limit": 0}, "setting memory_limit"),
    ],
)
def test_limits_under_which_nothing_can_run_are_refused(tmp_path, limits, message):
    with pytest.raises(UserError, match=message):
        run(["toy"], "toy-task", out=tmp_path / "r", **limits)


def test_a_memory_limit_ends_a_cell(tmp_path):
    table = run_sweep(sweep(["toy"]), tmp_path / "r", Running(memory_limit=1))
    assert table.status.tolist() == ["oom"]
    assert "took more than 1 MiB" in table.error[0]


def test_a_killed_runner_leaves_no_process_and_the_next_resumes(tmp_path):
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy,toy-slow", "--task", "toy-task"]
    command += ["--resolutions", "8", "--steps", "2", "--device", "cpu", "--jobs", "1", "--no-measure", "--no-plots"]
    command += ["--out", str(tmp_path / "r")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runner = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)}, **quiet)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "r" / "logs").glob("*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) >= 2
    assert list(temporary.glob("attn-bench-*"))
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not list(temporary.glob("attn-bench-*"))
    before = (tmp_path / "r" / "cells").glob("*.json")
    (finished,) = [(path, path.stat().st_mtime_ns) for path in before]
    table = run_sweep(sweep(["toy", "toy-slow"]), tmp_path / "r", Running(timeout=2))
    assert statuses(table)["toy"][0] == "ok"
    assert statuses(table)["toy-slow"][0] == "timeout"
    assert finished[0].stat().st_mtime_ns == finished[1]


def test_ctrl_c_leaves_a_table_and_says_how_to_resume(tmp_path):
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy,toy-slow", "--task", "toy-task"]
    command += ["--resolutions", "8", "--steps", "2", "--device", "cpu", "--jobs", "1", "--no-measure"]
    command += ["--out", str(tmp_path / "r")]
    runner = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "r" / "logs").glob("*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    runner.send_signal(signal.SIGINT)
    _, errors = runner.communicate(timeout=30)
    assert runner.returncode == 130
    assert "rerun the same command to resume" in errors
    assert "Traceback" not in errors
    assert "toy," in (tmp_path / "r" / "table.csv").read_text()


def test_a_cell_keeps_measurements_predictions_and_environment(tmp_path):
    table = run(
        ["toy"],
        "toy-task",
        out=tmp_path / "r",
        resolutions=[8],
        eval_resolutions=[12],
        steps=2,
        device="cpu",
        threads=1,
    )
    row, other = table.iloc[0], table.iloc[1]
    for column in ("latency_forward_ms", "latency_train_step_ms", "peak_memory_forward_mib", "peak_memory_train_mib"):
        assert row[column] > 0
        assert np.isnan(other[column])
    assert row.latency_forward_low_ms <= row.latency_forward_ms <= row.latency_forward_high_ms
    assert row.parameters == 4 * 9 + 4 + 4 * 9 + 1
    # Two 3 x 3 convolutions over 8 x 8 points, 4 channels between: a multiply-add is two.
    assert row.flops == 2 * (2 * 64 * 9 * 4)
    assert json.loads(row.effective) == {"width": 4}
    assert other.eval_resolution == 12
    assert other.rel_l2 > 0
    record = json.loads((tmp_path / "r" / "cells" / f"{row.cell}.json").read_text())
    assert len(record["latency"]["forward"]["samples_ms"]) >= 20
    assert json.loads((tmp_path / "r" / "environments" / f"{row.environment}.json").read_text())["torch"]
    with np.load(tmp_path / "r" / "artifacts" / f"{row.cell}.npz") as arrays:
        assert arrays["prediction"].shape == arrays["target"].shape == (3, 1, 8, 8)


@pytest.mark.slow
def test_compiling_is_timed_apart_and_must_not_happen_while_timing(tmp_path):
    table = run_sweep(sweep(["toy", "toy-recompiles"], steps=None, train=False, measure=True, compile=True), tmp_path)
    (good,) = table[table.model == "toy"].to_dict("records")
    (bad,) = table[table.model == "toy-recompiles"].to_dict("records")
    assert good["status"] == "ok"
    assert good["compile_seconds"] > 100 * good["latency_train_step_ms"] / 1000
    assert good["latency_forward_ms"] > 0
    assert bad["status"] == "crashed"
    assert "Detected recompile" in bad["error"]
    assert (tmp_path / "logs" / f"{good['cell']}.txt").read_bytes() == b""


def test_other_processes_taking_the_cores_are_seen_in_the_table(tmp_path):
    from attn_bench.results.record import Latency, Record
    from attn_bench.results.run_info import RunInfo
    from attn_bench.results.store import Store

    (cell,) = sweep(["toy"]).cells()
    store = Store.create(tmp_path)
    store.write_run_info(RunInfo({"toy-task": {}}))
    quiet = Latency(1.0, 1.0, 1.0, 1.0, 1.0)
    for step, disturbed in (
        (quiet, False),
        (replace(quiet, disturbed=True), True),
        (replace(quiet, throttled=True), True),
    ):
        store.write(Record(cell, "ok", latency={"forward": quiet, "train_step": step}))
        assert store.table().disturbed.tolist() == [disturbed]


@pytest.mark.parametrize("kind", ["field", "image", "mask", "causal-text"])
def test_random_batches_fit_the_problem(kind):
    from attn_bench.plugin import Problem
    from attn_bench.running.measure.steps import random_batch

    grid = (16,) if kind == "causal-text" else (4, 6)
    inputs, targets = random_batch(Problem(kind, 3, 5, grid), 2, "cpu", 0)
    expected = {
        "field": ((2, 3, 4, 6), (2, 5, 4, 6)),
        "image": ((2, 3, 4, 6), (2,)),
        "mask": ((2, 3, 4, 6), (2, 4, 6)),
        "causal-text": ((2, 16), (2, 16)),
    }[kind]
    assert (tuple(inputs.shape), tuple(targets.shape)) == expected
    assert inputs.float().std() > 0
    if kind != "field":
        assert 0 <= targets.min() <= targets.max() < 5
