"""The processes in which the models of two revisions take turns expect anything from a model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from places import TOYS

from attn_bench.errors import UserError
from attn_bench.gate.ab.turns import ModelFailed, Side
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

PLUGINS = str(TOYS)


def cell(model: str) -> Cell:
    settings = {"models": [model], "task": "toy-task", "resolutions": [8], "train": False, "device": "cpu"}
    (one,) = Sweep.from_settings(settings).cells()
    return one


@pytest.fixture(scope="module")
def side():
    with Side("base", [PLUGINS]) as started:
        yield started


def test_output_of_a_model_among_answers_is_skipped(side):
    for model in ("rogue:write", "rogue:patch", "rogue:move"):
        assert side.open(cell(model)) == ["forward", "train_step"]
        assert side.time(step="forward", calls=1, lead=0) > 0
        side.close()


def test_the_end_of_a_model_process_is_reported_and_the_next_runs(side):
    for model, reason in (
        ("rogue:abort", "^ended by SIGABRT$"),
        ("rogue:system-exit", "SystemExit: 3"),
        ("rogue:alarm", "^ended by SIGALRM$"),
    ):
        with pytest.raises(ModelFailed, match=reason):
            side.open(cell(model))
        side.close()
    assert side.open(cell("toy"))
    side.close()


def test_an_answer_without_a_time_is_a_failure_of_the_model(side, monkeypatch):
    for answer in ({}, {"ms": "1"}, {"ms": 0}, {"ms": float("inf")}, {"ms": float("nan")}, {"ms": None}):
        monkeypatch.setattr(side, "ask", lambda answer=answer, **request: answer)
        with pytest.raises(ModelFailed, match="no measurable time"):
            side.time(step="forward")


def test_a_side_that_a_model_ends_is_one_line_and_leaves_nothing():
    with Side("base", [PLUGINS]) as side:
        with pytest.raises(UserError, match=r"base: its worker process ended \(ended by SIGKILL\)"):
            side.open(cell("rogue:kill-server"))
    assert side.process.returncode is not None
    assert not Path(side.temporary).exists()


@pytest.mark.slow
def test_a_hanging_model_ends_with_whoever_asked_for_it():
    """Its process reads no requests, so it cannot see that there are none."""
    code = (
        "import json, sys\nfrom attn_bench.gate.ab.turns import Side\nfrom attn_bench.sweep.settings import Cell\n"
        f"with Side('base', [{PLUGINS!r}]) as side:\n"
        "    print('ready', flush=True)\n"
        f"    side.open(Cell.from_json(json.loads({json.dumps(cell('toy-slow').to_request())!r})))\n"
    )
    asked = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE)
    assert asked.stdout is not None
    with asked.stdout:
        assert asked.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while len(family := psutil.Process(asked.pid).children(recursive=True)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(family) == 2
        asked.kill()
        asked.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
