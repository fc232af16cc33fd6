"""Models that misbehave in every way we could think of, in one sweep with a good one, through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pandas as pd
import psutil
import pytest

import attn_bench

ENDS = {
    "rogue:build-raises": ("crashed", "RuntimeError: boom in two lines"),
    "rogue:forward-raises": ("crashed", "ValueError: no forward pass today"),
    "rogue:segfault": ("crashed", "ended by SIGSEGV: last words"),
    "rogue:exit": ("crashed", "exit code 0 without a result: last words"),
    "rogue:loop": ("timeout", "ended after 3 s (--timeout)"),
    "rogue:hungry": ("oom", "took more than 900 MiB (--memory-limit)"),
    "toy-nan": ("diverged", "the loss is nan at step 1, epoch 1"),
    "rogue:shape": (
        "crashed",
        "ValueError: the model returned (2, 1, 12, 1) for an input (2, 1, 12, 12); field asks for (2, 1, 12, 12)",
    ),
    "rogue:children": ("ok", ""),
    "rogue:flood": ("ok", ""),
    "rogue:stderr": ("crashed", "RuntimeError: said without a standard error"),
    "rogue:handlers": ("timeout", "ended after 3 s (--timeout)"),
    "toy-unfit": ("unsupported", "grid (12, 12) is above 8"),
    "toy": ("ok", ""),
}
TIMES = ["cell_seconds", "started", "train_seconds"]


def run(models: str, out: Path) -> tuple[subprocess.CompletedProcess[str], pd.DataFrame, list[psutil.Process]]:
    """Run a sweep; return how it ended, its table, and the processes it left behind."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "attn_bench", "run", "--models", models, "--task", "toy-task", "--device", "cpu"]
    command += ["--resolutions", "12", "--steps", "2", "--no-measure", "--no-plots", "--out", str(out)]
    command += ["--timeout", "3", "--memory-limit", "900"]
    done = subprocess.run(
        command, env={**os.environ, "TEST_MARK": mark}, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    return done, attn_bench.load(out), [process for process in psutil.process_iter() if _marked(process, mark)]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("TEST_MARK") == mark
    except psutil.Error:
        return False


def values(table: pd.DataFrame) -> dict[str, object]:
    """Return the one row of a table, without times and what is missing."""
    (row,) = table.drop(columns=TIMES).to_dict("records")
    return {name: value for name, value in row.items() if not pd.isna(value)}


@pytest.mark.slow
def test_every_way_to_fail_is_a_row_and_the_good_model_is_untouched(tmp_path):
    done, table, left = run(",".join(ENDS), tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not left
    assert dict(zip(table.model, zip(table.status, table.error.fillna("")))) == ENDS
    assert len(table) == len(ENDS)
    assert max(log.stat().st_size for log in (tmp_path / "r" / "logs").iterdir()) <= 16 << 20

    _, alone, _ = run("toy", tmp_path / "alone")
    assert values(table[table.model == "toy"]) == values(alone)
