"""Cells train side by side and are measured one after another, and several runners share a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

import attn_bench
from attn_bench.errors import UserError
from attn_bench.lease import hold
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.running import attempt
from attn_bench.running.executors import sequential, shares
from attn_bench.running.executors.choice import executor_of
from attn_bench.running.machine_share import Machine
from attn_bench.running.runner import Watcher, run_sweep
from attn_bench.sweep.execution import Running
from attn_bench.sweep.settings import Sweep

TWO_CPUS = pytest.mark.skipif(len(shares.usable_cores()) < 2, reason="needs two CPUs")


def sweep(models, **settings):
    settings = {"resolutions": [8], "steps": 2, "device": "cpu", **settings}
    return Sweep.from_settings({"models": models, "task": "toy-task", **settings})


@TWO_CPUS
def test_the_table_is_that_of_one_cell_after_another_and_what_is_timed_runs_alone(tmp_path):
    settings = {"models": ["toy", "toy-nan", "toy-raises"]}
    going, together = set(), []

    def listen(cell, event):
        if event["event"] == "start":
            going.add(cell.id)
        if event.get("stage") == "measuring":
            together.append(len(going))
        if event["event"] == "done":
            going.remove(cell.id)

    beside = run_sweep(sweep(**settings), tmp_path / "beside", Running(jobs=2), Watcher(listen=listen))
    after = run_sweep(sweep(**settings), tmp_path / "after")
    for column in ("model", "status", "error", "rel_l2", "parameters", "flops", "peak_memory_forward_mib"):
        assert beside[column].fillna(0).tolist() == after[column].fillna(0).tolist(), column
    timed = beside.latency_forward_ms.notna()
    assert timed.tolist() == after.latency_forward_ms.notna().tolist()
    assert timed.sum() == 2
    assert together == [1] * 2
    assert set(beside.trained_under) == {"2 side by side"}
    assert set(beside[timed].measured_under) == {"alone"}
    assert set(after.trained_under) == set(after.measured_under) == {"alone"}
    assert not list((tmp_path / "beside").glob("machines/*"))


def test_what_cannot_be_divided_is_refused(monkeypatch):
    (cell,) = sweep(["toy"]).cells()
    monkeypatch.setattr(shares, "usable_cores", lambda: [0, 1, 4, 5, 6])
    found = shares.shares_of([cell], Running(jobs=2))
    assert [share.cores for share in found] == [(0, 1), (4, 5)]
    threaded = replace(cell, execution=replace(cell.execution, threads=3))
    for given, jobs, message in (
        (cell, 6, "--jobs 6: must be <= 5, as 5 CPUs can be used here"),
        (threaded, 2, "--jobs 2 with --threads 3: each job has 2 of 5 CPUs; use --jobs 1 or --threads 2"),
    ):
        with pytest.raises(UserError, match=message):
            shares.shares_of([given], Running(jobs=jobs))
    with pytest.raises(UserError, match="--jobs 2: nothing is trained"):
        executor_of(Running(jobs=2), [cell.only_measured()], [cell.only_measured()])
    # Of a sweep that trains, all may be trained already.
    assert executor_of(Running(jobs=2), [cell], [cell.only_measured()]) is sequential.run
    assert executor_of(Running(jobs=2), [cell], []) is sequential.run
    for running in (Running(jobs=1), Running()):
        assert shares.shares_of([threaded], running) == [shares.Share()]


def test_each_gpu_gets_one_cell_and_its_part_of_the_cpus(monkeypatch):
    (cell,) = sweep(["toy"]).cells()
    cell = replace(cell, execution=replace(cell.execution, device="cuda"))
    monkeypatch.setattr(shares, "usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(shares, "usable_gpus", lambda: ["3", "GPU-ab"])
    found = shares.shares_of([cell], Running())
    assert [(share.cores, share.variables["CUDA_VISIBLE_DEVICES"]) for share in found] == [
        ((0, 1), "3"), ((2, 3), "GPU-ab"),
    ]  # fmt: skip
    assert shares.shares_of([cell], Running(jobs=1)) == [shares.Share()]
    with pytest.raises(UserError, match="must be <= 2, as 2 GPUs can be used here"):
        shares.shares_of([cell], Running(jobs=3))


def test_as_many_train_at_a_time_as_keep_the_cpus_busy_unless_a_share_of_the_machine_changes_a_result(monkeypatch):
    cells = sweep(["toy"], seeds=3).cells()
    monkeypatch.setattr(shares, "usable_cores", lambda: list(range(8)))
    monkeypatch.setattr(shares, "MEMORY_EACH_MIB", 4096)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = 5 * 4096

    def jobs(cells, **running):
        monkeypatch.setattr(shares, "host_room_mib", lambda *given: free)
        return len(shares.shares_of(cells, Running(**running)))

    def having(**execution):
        return [replace(cell, execution=replace(cell.execution, **execution)) for cell in cells]

    assert jobs(cells) == 3
    assert [share.cores for share in shares.shares_of(cells, Running())] == [(0, 1), (2, 3), (4, 5)]
    assert jobs(having(threads=3)) == 2
    assert jobs(having(threads=16)) == jobs(cells[:1]) == 1
    assert jobs([cell.only_measured() for cell in cells]) == 1
    assert jobs(having(batch_size="auto")) == jobs(cells, timeout=60) == 1
    assert jobs(sweep(["toy"], seeds=3, steps=None, seconds=1).cells()) == 1
    free = 2 * 4096 + 100
    assert jobs(cells) == 2
    free = 100
    assert jobs(cells) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    free = 5 * 4096
    assert jobs(cells) == 2


@pytest.mark.slow
@TWO_CPUS
def test_what_ran_out_of_memory_beside_others_is_trained_again_alone(tmp_path, monkeypatch):
    """The system ends the first training of a model; its larger resolution was skipped because of that."""
    usual, ended = attempt.Attempt._run, []

    def run(self, cell, part):
        if cell.model == "toy-means" and self.server.share.cores and cell.resolution == 8:
            ended.append(cell.resolution)
            return Record(part, "oom", error="ended by the system")
        return usual(self, cell, part)

    monkeypatch.setattr(attempt.Attempt, "_run", run)
    given = sweep(["toy-means", "toy"], resolutions=[8, 16], measure=False)
    table = run_sweep(given, tmp_path / "r", Running(jobs=2))
    assert set(table.status) == {"ok"}
    assert ended == [8]
    under = dict(zip(zip(table.model, table.resolution), table.trained_under))
    assert under["toy-means", 8] == "alone"
    assert under["toy", 8] == "2 side by side"


def test_one_measures_while_none_trains(tmp_path):
    """Three take turns; whoever waits to measure lets nobody else begin to train."""
    now, seen, lock = Counter(), [], threading.Lock()

    def turn(kind):
        for _ in range(4):
            with getattr(Machine(tmp_path), kind)():
                with lock:
                    now[kind] += 1
                    seen.append(dict(now))
                time.sleep(0.02)
                with lock:
                    now[kind] -= 1

    threads = [threading.Thread(target=turn, args=(kind,)) for kind in ("training", "training", "measuring")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 12
    assert not any(each.get("measuring") and each.get("training") for each in seen)


COMMAND = [sys.executable, "-m", "attn_bench", "run", "--models", "toy-counted", "--task", "toy-task", "--no-plots"]
COMMAND += ["--device", "cpu", "--resolutions", "8", "--steps", "1", "--jobs", "1"]


@pytest.mark.slow
def test_two_runs_in_one_folder_share_the_work(tmp_path):
    """Each cell is trained once; one of the runs is killed, and its lease on another host goes stale."""
    folder, file, seeds = tmp_path / "r", tmp_path / "built", 6
    command = [*COMMAND, "--seeds", str(seeds), "--no-measure", "--out", str(folder), "--set"]
    command += [f"toy-counted.file={file}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first, second = (subprocess.Popen(command, **quiet) for _ in range(2))
    assert [first.wait(240), second.wait(240)] == [0, 0]
    table = attn_bench.load(folder)
    assert sorted(table.seed) == list(range(seeds))
    assert set(table.status) == {"ok"}
    assert set(table.trained_under) <= {"alone", "beside another run"}
    # Each cell builds its model once.
    assert Counter(file.read_text().split()) == Counter(map(str, range(seeds)))


def test_a_lease_of_another_host_that_went_stale_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("attn_bench.lease.STALE_S", 0.5)
    given = sweep(["toy"], measure=False)
    (cell,) = given.cells()
    Store.create(tmp_path / "r").write_run_info(RunInfo({"toy-task": {}}))
    path = tmp_path / "r" / "leases" / cell.id
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"host": "elsewhere", "token": "abc", "processes": [[1, "1"]]}))
    assert run_sweep(given, tmp_path / "r").status.tolist() == ["ok"]
    assert not path.exists()


@pytest.mark.slow
def test_a_second_run_with_retry_does_not_repeat_what_the_first_repeated(tmp_path):
    given = sweep(["toy-raises", "toy-nan"], measure=False)
    run_sweep(given, tmp_path / "r")
    ran = []

    def listen(cell, event):
        if event["event"] == "done":
            ran.append(cell.model)
            if len(ran) == 1:  # another run does the next cell meanwhile
                again = sweep(["toy-nan"], measure=False)
                run_sweep(again, tmp_path / "r", Running(retry="failed"), Watcher(listen=listen))

    run_sweep(given, tmp_path / "r", Running(retry="failed"), Watcher(listen=listen))
    assert ran == ["toy-raises", "toy-nan"]


@TWO_CPUS
def test_an_interruption_ends_every_job(tmp_path):
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy-slow", "--task", "toy-task", "--seeds", "3"]
    command += ["--device", "cpu", "--resolutions", "8", "--steps", "1", "--no-measure", "--jobs", "2"]
    run = subprocess.Popen([*command, "--out", tmp_path / "r"], stderr=subprocess.PIPE, encoding="utf-8")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "r" / "logs").glob("*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "rerun the same command to resume" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "r").glob("cells/*"))
    for lease in (tmp_path / "r").glob("leases/*"):
        with hold(lease, wait=False) as mine:
            assert mine
