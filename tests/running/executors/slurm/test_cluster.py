"""Sweeps on a real Slurm of two nodes: the table of a local run, and no row lost, doubled or broken by kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import attn_bench

SCRIPT = Path(__file__).with_name("cluster.sh")
pytestmark = pytest.mark.slow
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(folder, models="toy", *, seeds=1, steps=1, slurm="time=10", options=()):
    found = [sys.executable, "-m", "attn_bench", "run", "--models", models, "--task", "toy-task", "--resolutions", "8"]
    found += ["--seeds", str(seeds), "--steps", str(steps), "--device", "cpu", "--no-measure", "--no-plots"]
    slurm = ["--executor", "slurm", "--slurm", slurm] if slurm else []
    return [*found, *slurm, "--out", str(folder), *options]


def run(*arguments, status=0, **settings):
    done = subprocess.run(
        command(*arguments, **settings), capture_output=True, encoding="utf-8", timeout=900, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def attn_bench_says(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "attn_bench", *map(str, arguments)],
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def slurm(*arguments):
    return subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=60, check=False).stdout


def wait_for(condition, what, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


def running():
    return slurm("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()


def finished(folder: Path) -> dict[int, bytes]:
    """What the records hold, by seed; each must be whole."""
    return {json.loads(text)["cell"]["seed"]: text for text in map(Path.read_bytes, folder.glob("cells/*.json"))}


def test_forty_cells_end_with_the_table_of_a_local_run(cluster, tmp_path):
    settings = {"models": "toy,toy-raises", "seeds": 20}
    run(tmp_path / "cluster", **settings, options=["--cells-per-job", "10"])
    run(tmp_path / "here", **settings, slurm=None)
    there, here = attn_bench.load(tmp_path / "cluster"), attn_bench.load(tmp_path / "here")
    assert len(there) == 40
    # What depends on when and where something ran.
    differs = {"train_seconds", "evaluation_seconds", "cell_seconds", "started", "environment", "trained_under"}
    columns = [name for name in here.columns if name not in differs]
    assert there[columns].equals(here[columns])
    assert set(there.trained_under.dropna()) == {"shared node"}
    assert not (tmp_path / "cluster" / "slurm").exists()


def test_detached_jobs_are_followed_and_cancelled_by_other_commands(cluster, tmp_path):
    folder = tmp_path / "r"
    told = run(folder, "toy-slow", seeds=3, options=["--detach"]).stdout
    assert "3 Slurm jobs for 3 cells" in told
    wait_for(lambda: "2 running" in attn_bench_says("status", folder), "two jobs")
    said = attn_bench_says("status", folder)
    assert "Slurm jobs: 1 pending, 2 running; 3 cells without a record" in said
    assert "toy-slow at 8, seed 0" in said
    assert "cancelled 3 Slurm jobs; 3 cells have no record" in attn_bench_says("cancel", folder)
    wait_for(lambda: not running(), "the end of the jobs")
    said = attn_bench_says("status", folder)
    assert "0 cells with a record" in said
    assert "no Slurm jobs" in said
    assert "no Slurm jobs" in attn_bench_says("cancel", folder)


def test_trials_of_tuning_are_jobs_too(cluster, tmp_path):
    folder, tune = tmp_path / "r", ["--tune", "learning_rate=1e-3,1e-2"]
    told = run(folder, steps=8, options=[*tune, "--detach"]).stdout
    assert "2 Slurm jobs for 2 trials of tuning" in told
    assert "2 trials" in attn_bench_says("status", folder) or running()
    run(folder, steps=8, options=tune)
    (row,) = attn_bench.load(folder).itertuples()
    assert row.status == "ok"
    assert row.tuned.startswith("learning_rate 0.0")
    assert "2 trials with a record: 2 ok" in attn_bench_says("status", folder)


def test_slurm_refuses_in_one_line(cluster, tmp_path):
    done = run(tmp_path / "r", slurm="time=10,partition=none", status=2)
    assert "Slurm refuses the jobs (" in done.stderr
    assert "invalid partition" in done.stderr.lower()
    assert len(done.stderr.splitlines()) <= 2


def test_a_preempted_job_is_requeued_and_resumes(cluster, tmp_path):
    folder = tmp_path / "r"
    slow = ["--set", "toy-slow.seconds=0.5"]
    sweep = subprocess.Popen(command(folder, "toy-slow", steps=90, options=slow), **QUIET)
    wait_for(lambda: list(folder.glob("checkpoints/*.pt")), "a checkpoint")
    job = slurm("sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    assert job.strip().isdecimal()
    assert sweep.wait(600) == 0
    (row,) = attn_bench.load(folder).itertuples()
    assert (row.status, row.train_steps) == ("ok", 90)
    # Had it begun again, it would have taken this long in one piece.
    restarts = slurm("sacct", "-n", "-D", "-X", "-P", "-o", "State,JobName")
    assert "PREEMPTED|attn-bench" in restarts


def test_the_end_of_a_job_is_the_reason_of_its_row(cluster, tmp_path):
    killed = subprocess.Popen(command(tmp_path / "killed", "toy-slow"), **QUIET)
    (job,) = wait_for(lambda: list((tmp_path / "killed").glob("logs/*")) and running(), "a job")
    for process in processes_of_jobs():
        process.kill()
    assert killed.wait(240) == 1
    (row,) = attn_bench.load(tmp_path / "killed").itertuples()
    assert row.status == "crashed"
    assert row.error.startswith(f"Slurm job {job} on n")
    run(tmp_path / "late", "toy-slow", slurm="time=1", status=1)
    (row,) = attn_bench.load(tmp_path / "late").itertuples()
    assert row.status == "timeout"
    assert "reached its time limit (--slurm time=...)" in row.error
    run(tmp_path / "large", "toy-hungry", options=["--resolutions", "12"], status=1)
    (row,) = attn_bench.load(tmp_path / "large").itertuples()
    assert row.status == "oom"


@pytest.mark.parametrize("kills", [20])
def test_kills_at_random_moments_lose_double_and_break_no_row(cluster, tmp_path, kills):
    """Of the submitting command, of jobs by Slurm and behind its back, and of slurmd."""
    folder, file, rng, cells = tmp_path / "r", tmp_path / "built", random.Random(1), 30
    options = ["--cells-per-job", "3", "--retry", "failed", "--set", f"toy-counted.file={file}"]
    sweep = command(folder, "toy-counted", seeds=cells, steps=1, options=options)
    before: dict[int, bytes] = {}
    ok: set[int] = set()
    submitter = subprocess.Popen(sweep, **QUIET)
    for kill in range(kills):
        time.sleep(rng.uniform(0, 6))
        if kill % 4 == 0:
            submitter.kill()
        elif kill % 4 == 1:
            for job in running()[:1]:
                slurm("scancel", "--signal=KILL", "--full", job)
        elif kill % 4 == 2:
            for process in processes_of_jobs()[:1]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        else:
            node = rng.choice(["n1", "n2"])
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((cluster / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
            time.sleep(rng.uniform(0, 2))
            subprocess.run(["sh", SCRIPT, "node", cluster, node], capture_output=True, timeout=60, check=False)
        now = finished(folder)
        assert before.keys() <= now.keys(), "a row was lost"
        assert all(now[seed] == before[seed] for seed in ok), "a finished row was changed"
        before, ok = now, {seed for seed, text in now.items() if json.loads(text)["status"] == "ok"}
        if submitter.poll() is not None:
            submitter = subprocess.Popen(sweep, **QUIET)
    submitter.wait(900)
    for _ in range(5):
        done = subprocess.run(sweep, capture_output=True, encoding="utf-8", timeout=900, check=False)
        if (table := attn_bench.load(folder)).status.eq("ok").all():
            break
    assert done.returncode == 0, done.stderr
    assert sorted(table.seed) == list(range(cells))
    assert set(table.status) == {"ok"}
    assert table.cell.is_unique
    assert all(finished(folder)[seed] == before[seed] for seed in ok)
    # Only what was killed while it ran was built again.
    assert sum(Counter(file.read_text().split()).values()) <= cells + 2 * kills
    assert not (folder / "slurm").exists() or not list((folder / "slurm").glob("*.json"))


def processes_of_jobs() -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if "submitit.core._submit" in " ".join(_command_of(each))]


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
