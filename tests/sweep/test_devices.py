"""Devices and threads that this machine does not have are refused in one line, wherever they are named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from attn_bench.errors import UserError
from attn_bench.sweep import devices
from attn_bench.sweep.devices import THREADS_PER_CPU, check_threads
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import read_sweep_file

MOST = THREADS_PER_CPU * (os.cpu_count() or 1)


@pytest.mark.parametrize("threads", [-1, 0, MOST + 1, 99999, 10**18])
def test_threads_that_a_machine_cannot_serve_are_refused(threads):
    with pytest.raises(UserError, match=rf"threads: must be 1 to {MOST} on this machine.*given: {threads}"):
        Sweep.from_settings({"models": ["mean"], "task": "digits", "threads": threads})


def test_possible_threads_are_accepted():
    for threads in (None, 1, MOST):
        check_threads(threads)


def test_threads_in_a_sweep_file_are_refused(tmp_path):
    (tmp_path / "sweep.yaml").write_text("models: [mean]\ntask: digits\nthreads: 99999\n")
    with pytest.raises(UserError, match="threads"):
        Sweep.from_settings(read_sweep_file(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize("value", ["99999", "99999,2", "9" * 5000])
def test_threads_in_the_environment_are_refused(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(UserError, match="environment variable OMP_NUM_THREADS: must be 1 to") as error:
        check_threads(None)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", ["", "1", "2,1", "dynamic", "-3"])
def test_what_the_environment_may_say_is_left_to_openmp(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    check_threads(None)


def test_the_command_line_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "attn_bench", "measure", "--models", "mean", "--threads", "99999", "--out", "x"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "given: 99999" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_driver_torch_is_not_asked_for_cuda(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ("/dev/no-such-driver*",))
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert devices.resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA device found"):
        devices.resolve_device("cuda")
