"""One holder at a time, whoever dies, stops or is slow, on this host and on others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attn_bench import lease
from attn_bench.errors import DiskError
from attn_bench.lease import hold, started

HOLDER = """
import sys, time
from pathlib import Path
from attn_bench import lease
lease.BEAT_S = 0.05
with lease.hold(Path(sys.argv[1]), wait=True, processes=[int(pid) for pid in sys.argv[2:]]):
    print("held", flush=True)
    sys.stdin.read()
"""

# Each child takes the lease again and again; some of its turns end with its death.
CROWD = """
import os, random, signal, sys, time
from pathlib import Path
from attn_bench import lease
path, mark, log, hosts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lease.STALE_S, lease.BEAT_S = 1.5, 0.05
def worker(number):
    rng = random.Random(number)
    if hosts > 1:
        lease.this_host = lambda: f"host {number % hosts}"
    for turn in range(5):
        with lease.hold(path, wait=True):
            try:
                handle = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                os.write(1, f"two at once in turn {turn} of {number}\\n".encode())
                os._exit(1)
            time.sleep(rng.uniform(0, 0.01))
            os.close(handle)
            os.unlink(mark)
            with open(log, "a") as file:
                file.write("x")
            if rng.random() < (0.2 if hosts == 1 else 0.08):
                os.kill(os.getpid(), signal.SIGKILL)
children = []
for number in range(12):
    child = os.fork()
    if child == 0:
        worker(number)
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert set(codes) <= {0, -signal.SIGKILL}, codes
assert -signal.SIGKILL in codes
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases" / "cell"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds a lease until its input is closed."""
    running: list[subprocess.Popen[str]] = []

    def begin(path: Path, *processes: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path), *map(str, processes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_one_holds_it_and_nothing_is_left(path):
    with hold(path, wait=False) as mine, hold(path, wait=False) as other:
        assert (mine, other) == (True, False)
        content = json.loads(path.read_text())
        assert content["processes"] == [[os.getpid(), started(os.getpid())]]
    assert not path.parent.exists()
    with pytest.raises(RuntimeError), hold(path, wait=False):
        raise RuntimeError
    assert not path.parent.exists()


def test_who_waits_gets_it_when_its_holder_ends(path, start):
    holder = start(path)
    with hold(path, wait=False) as mine:
        assert not mine
    holder.communicate()
    with hold(path, wait=True) as mine:
        assert mine
    assert not path.parent.exists()


def test_a_holder_that_was_killed_is_followed_at_once(path, start):
    for _ in range(3):  # each continues what the last one left behind
        start(path).kill()
        while len(list(path.parent.iterdir())) == 0:
            time.sleep(0.01)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with hold(path, wait=False) as mine:
            if mine:
                break
    assert mine
    assert not path.parent.exists()


def test_a_holder_whose_cell_still_runs_is_not_followed(path, start):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as cell:
        holder = start(path, cell.pid)
        holder.kill()
        holder.wait()
        with hold(path, wait=False) as mine:
            assert not mine
        cell.kill()
        cell.wait()
        with hold(path, wait=False) as mine:
            assert mine


def test_a_stopped_holder_lives(path, start, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 3600)
    holder = start(path)
    holder.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    with hold(path, wait=False) as mine:
        assert not mine
    holder.send_signal(signal.SIGCONT)


def test_a_process_id_that_was_given_to_another_is_not_its_holder(path, start):
    path.parent.mkdir()
    values = {"host": lease.this_host(), "token": "abc", "processes": [[os.getpid(), "1"]]}
    path.write_text(json.dumps(values))
    with hold(path, wait=False) as mine:
        assert mine


def test_a_zombie_has_ended():
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert started(process.pid) is not None
        assert process.stdout is not None
        process.stdout.read()
        deadline = time.monotonic() + 10
        while started(process.pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert started(process.pid) is None, "not waited for, but over"
    assert started(process.pid) is None


@pytest.mark.parametrize("skew_s", [-1e6, 0, 1e6])
def test_a_lease_of_another_host_is_taken_over_when_its_time_stops(path, monkeypatch, skew_s):
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "token": "abc", "processes": [[os.getpid(), "1"]]}))
    os.utime(path, (time.time() + skew_s,) * 2)
    monkeypatch.setattr(lease, "STALE_S", 0.3)
    with hold(path, wait=False) as mine:
        assert not mine, "its heart has not been watched for long enough"
    began = time.monotonic()
    with hold(path, wait=True) as mine:
        assert mine
    assert time.monotonic() - began >= 0.3
    assert not path.parent.exists()


def test_a_holder_on_another_host_whose_heart_beats_is_waited_for(path, start, monkeypatch):
    holder = start(path)
    monkeypatch.setattr(lease, "this_host", lambda: "elsewhere")
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    beats = {path.stat().st_mtime_ns for _ in range(20) if time.sleep(0.05) is None}
    assert len(beats) > 5
    chain = lease._chain(path)
    assert [each.gone for each in chain] == [False]
    holder.communicate()


@pytest.mark.parametrize("content", ["", "{", '{"host": "x"}', '{"host": "x", "token": "../../a", "processes": []}'])
def test_a_file_that_says_nothing_is_followed_in_the_end(path, monkeypatch, content):
    path.parent.mkdir()
    path.write_text(content)
    monkeypatch.setattr(lease, "STALE_S", 0.1)
    with hold(path, wait=True) as mine:
        assert mine
    assert not path.parent.exists()


def test_a_lease_that_was_taken_away_is_left_to_who_took_it(path):
    """From a holder that was taken for dead, by a host that did not see its heart beat."""
    with hold(path, wait=False):
        (first,) = lease._chain(path)
        taken = path.with_name(f"{path.name}.{first.token}")
        taken.write_text(json.dumps({"host": "elsewhere", "token": "abc", "processes": []}))
    assert sorted(path.parent.iterdir()) == [path, taken]


def test_taking_over_an_ended_lease_starts_again(path, monkeypatch):
    """Between its look and its grasp, another took the lease over, ended it, and a third made a new one."""
    path.parent.mkdir()
    path.write_text(json.dumps({"host": lease.this_host(), "token": "old", "processes": [[os.getpid(), "1"]]}))
    make, late = lease._make, [True]

    def slow(file: Path, content: object) -> bool:
        if late:
            late.clear()
            assert file.name == "cell.old"
            path.write_text(json.dumps({"host": "elsewhere", "token": "new", "processes": []}))
        return make(file, content)

    monkeypatch.setattr(lease, "_make", slow)
    with hold(path, wait=False) as mine:
        assert not mine
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("hosts", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_many_that_die_while_they_hold_it(tmp_path, path, hosts, monkeypatch):
    mark, log = tmp_path / "mark", tmp_path / "log"
    command = [sys.executable, "-c", CROWD, str(path), str(mark), str(log), str(hosts)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(log.read_text()) >= 12
    monkeypatch.setattr(lease, "STALE_S", 0.1)
    with hold(path, wait=True):
        assert not mark.exists()


def test_a_folder_that_cannot_hold_a_lease_is_named(path):
    path.parent.write_text("")
    with pytest.raises(DiskError, match=r"cannot write .*cell"), hold(path, wait=True):
        pass


def test_the_lease_of_a_job_that_ended_on_another_host_is_taken_over_at_once(path, monkeypatch):
    for name, value in (("SLURM_JOB_ID", "17"), ("SLURM_ARRAY_JOB_ID", "12"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    with hold(path, wait=False):
        assert lease.holding_job(path) == "12_3"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": "elsewhere", "token": "ab", "processes": [[1, "1"]], "job": "12_4"}))
    assert lease.is_held(path)
    with hold(path, wait=0.1, ended={"12_3"}) as mine:
        assert not mine
    with hold(path, wait=False, ended={"12_4"}) as mine:
        assert mine
    assert not path.exists()
    assert lease.holding_job(path) is None


def test_whoever_only_looks_sees_whether_a_process_of_this_host_holds_it(path):
    assert not lease.is_held(path)
    with hold(path, wait=False):
        assert lease.is_held(path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": lease.this_host(), "token": "ab", "processes": [[os.getpid(), "1"]]}))
    assert not lease.is_held(path)
    path.write_text("")
    assert lease.is_held(path)
    long_ago = time.time() - 2 * lease.STALE_S
    os.utime(path, (long_ago, long_ago))
    assert not lease.is_held(path)
