"""The description of the machine, and what it leaves out."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attn_bench.results.environment import Environment, Git
from attn_bench.running.measure.machine import environment


def test_it_is_json_and_says_what_matters() -> None:
    import torch

    values = Environment.from_json(json.loads(json.dumps(environment("cpu").to_json())))
    assert values == environment("cpu")
    assert values.id == environment("cpu").id
    assert values.device_name == values.cpu.model
    assert values.versions["torch"]
    assert values.torch["threads"] == torch.get_num_threads()
    assert values.torch["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert values.cpu.usable_cores is not None
    assert values.cpu.usable_cores >= 1


def test_it_names_no_person_machine_or_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4294967296")
    monkeypatch.setenv("OMP_TOOL_LIBRARIES", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", f"{tmp_path}/libjemalloc.so.2")
    text = json.dumps(environment().to_json())
    secrets = [socket.gethostname(), str(Path.home()), str(Path.cwd()), str(tmp_path)]
    if len(getpass.getuser()) > 4:
        secrets.append(getpass.getuser())
    assert not [secret for secret in secrets if len(secret) > 2 and secret in text]
    assert environment().variables == {"MALLOC_TRIM_THRESHOLD_": "4294967296", "LD_PRELOAD": "jemalloc"} | {
        key: value
        for key, value in environment().variables.items()
        if key not in ("MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")
    }


def test_only_hardware_distinguishes_two_machines() -> None:
    values = environment()
    other = replace(values, versions={**values.versions, "torch": "1.0"})
    assert other.hardware == values.hardware
    assert other.id != values.id
    assert replace(values, cpu=replace(values.cpu, model="abacus")).hardware != values.hardware


def test_git_takes_no_lock_that_it_could_leave_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed with a cell, it would leave a checkout in which every git command is refused."""
    fake, log = tmp_path / "git", tmp_path / "log"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho 0123\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("attn_bench.running.measure.machine.HOME", tmp_path)
    (tmp_path / ".git").mkdir()
    assert environment().git == Git("0123", dirty=True)
    assert all(line.startswith("--no-optional-locks ") for line in log.read_text().splitlines())


def test_it_imports_nothing_heavy() -> None:
    code = "import sys; from attn_bench.running.measure.machine import *; environment(); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert printed.strip() == "False"
