"""A runner that is killed again and again loses nothing and repeats nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil
import pytest
from marked import MARK, marked_processes

import attn_bench
from attn_bench.lease import hold


def finished(folder: Path) -> dict[int, bytes]:
    """What the records hold, by seed; each must be whole."""
    return {json.loads(text)["cell"]["seed"]: text for text in map(Path.read_bytes, folder.glob("cells/*.json"))}


def built(file: Path) -> Counter[str]:
    return Counter(file.read_text(encoding="utf-8").split()) if file.exists() else Counter()


def test_a_cell_is_not_taken_over_before_its_process_has_ended(tmp_path):
    """The runner is killed, and the server that has to end the cell's process is stopped."""
    folder, mark = tmp_path / "r", uuid.uuid4().hex
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy-slow", "--task", "toy-task", "--out", folder]
    command += ["--device", "cpu", "--resolutions", "8", "--steps", "1", "--no-measure", "--no-plots"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runner = subprocess.Popen(command, env={**os.environ, MARK: mark}, **quiet)
    deadline = time.monotonic() + 60
    while not list(folder.glob("logs/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (lease,) = folder.glob("leases/*")
    (server,) = psutil.Process(runner.pid).children()
    server.suspend()
    runner.kill()
    runner.wait()
    with hold(lease, wait=False) as mine:
        assert not mine
    server.resume()
    psutil.wait_procs(marked_processes(mark), timeout=20)
    with hold(lease, wait=False) as mine:
        assert mine
    assert not lease.parent.exists()


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path):
    kills, cells = 20, 70
    folder, file, mark, rng = tmp_path / "r", tmp_path / "built", uuid.uuid4().hex, random.Random(0)
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy-counted", "--task", "toy-task"]
    command += ["--device", "cpu", "--resolutions", "8", "--steps", "1", "--seeds", str(cells), "--jobs", "1"]
    command += ["--no-measure"]
    command += ["--no-plots", "--out", str(folder), "--set", f"toy-counted.file={file}"]
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    before: dict[int, bytes] = {}
    for kill in range(kills):
        starts = built(file)
        runner = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Most kills while cells run, which is after some two seconds; some while everything starts.
        if kill % 3:
            deadline = time.monotonic() + 30
            while built(file) == starts and runner.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.8))
        else:
            time.sleep(rng.uniform(0, 2.5))
        assert runner.poll() is None, "all cells were finished before the last kill"
        runner.kill()
        runner.wait()
        now = finished(folder)
        assert before.items() <= now.items()
        again = built(file) - starts
        assert not [seed for seed in before if again[str(seed)]], "a finished cell ran again"
        before = now
        # The next starts at once, half of the time; what the killed one left ends by itself.
        if kill % 2:
            psutil.wait_procs(marked_processes(mark), timeout=10)
            assert not marked_processes(mark)
    starts = built(file)
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not marked_processes(mark)
    table = attn_bench.load(folder)
    assert sorted(table.seed) == list(range(cells))
    assert set(table.status) == {"ok"}
    assert table.cell.is_unique
    assert (folder / "table.csv").read_text().count("\n") == cells + 1
    assert before.items() <= finished(folder).items()
    assert not [seed for seed in before if (built(file) - starts)[str(seed)]]
    assert len(before) > kills // 2


@pytest.mark.slow
def test_of_two_runs_in_one_folder_one_is_killed_and_the_other_finishes(tmp_path):
    folder, file, mark, cells = tmp_path / "r", tmp_path / "built", uuid.uuid4().hex, 24
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "toy-counted", "--task", "toy-task"]
    command += ["--device", "cpu", "--resolutions", "8", "--steps", "1", "--seeds", str(cells), "--jobs", "1"]
    command += ["--no-measure"]
    command += ["--no-plots", "--out", str(folder), "--set", f"toy-counted.file={file}"]
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runners = [subprocess.Popen(command, env=environment, **quiet) for _ in range(2)]

    def held_by():
        holders = (json.loads(text)["processes"][0][0] for text in _texts(folder / "leases") if text)
        return {each.pid for each in runners} & set(holders)

    # Each has been seen at work.
    seen, deadline = set[int](), time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < deadline:
        seen |= held_by()
        time.sleep(0.005)
    assert len(seen) == 2, "one run had all the cells"
    killed, other = runners
    while killed.pid not in held_by() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert killed.poll() is None, "all cells were finished before the kill"
    killed.kill()
    killed.wait()
    before = finished(folder)
    assert other.wait(120) == 0
    table = attn_bench.load(folder)
    assert sorted(table.seed) == list(range(cells))
    assert set(table.status) == {"ok"}
    assert table.cell.is_unique
    assert (folder / "table.csv").read_text().count("\n") == cells + 1
    assert before.items() <= finished(folder).items(), "a finished row was changed"
    # Only what the killed one was at was run twice.
    twice = {seed: number for seed, number in built(file).items() if number > 1}
    assert list(twice.values()) in ([], [2])
    assert not {*twice} & {str(seed) for seed in before}
    assert not marked_processes(mark)
    assert not (folder / "leases").exists()


def _texts(folder: Path) -> list[str]:
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            found.append(path.read_text())
    return found
