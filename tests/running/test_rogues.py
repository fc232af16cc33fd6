"""Models that misbehave in many ways, in one sweep with a good one, started from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from marked import MARK, marked_processes
from places import ROGUES

import attn_bench

# The status of each, and how its error begins.
ENDS = {
    "rogue:build-raises": ("crashed", "RuntimeError: boom in two lines"),
    "rogue:forward-raises": ("crashed", "ValueError: no forward pass today"),
    "rogue:segfault": ("crashed", "ended by SIGSEGV: last words"),
    "rogue:exit": ("crashed", "exit code 0 without a result: last words"),
    "rogue:loop": ("timeout", "ended after 5 s (--timeout)"),
    "rogue:hungry": ("oom", "took more than 900 MiB (--memory-limit)"),
    "toy-nan": ("diverged", "the loss is nan at step 1, epoch 1"),
    "rogue:shape": (
        "crashed",
        "ValueError: the model returned (2, 1, 12, 1) for an input (2, 1, 12, 12); field requires (2, 1, 12, 12)",
    ),
    "rogue:children": ("ok", ""),
    "rogue:flood": ("ok", ""),
    "rogue:stderr": ("crashed", "RuntimeError: said without a standard error"),
    "rogue:handlers": ("timeout", "ended after 5 s (--timeout)"),
    "toy-unfit": ("unsupported", "grid (12, 12) is above 8"),
    "rogue:system-exit": ("crashed", "SystemExit: 3"),
    "rogue:interrupt": ("crashed", "exit code 1 without a result: "),
    "rogue:abort": ("crashed", "ended by SIGABRT"),
    "rogue:message": ("crashed", "RuntimeError: odd \ufffd text red" + "x" * 100),
    "rogue:alarm": ("crashed", "ended by SIGALRM"),
    "rogue:stop-itself": ("timeout", "ended after 5 s (--timeout)"),
    "rogue:stop-server": ("timeout", "ended after 5 s (--timeout); the worker process did not answer"),
    "rogue:kill-server": ("crashed", "the worker process: ended by SIGKILL"),
    "rogue:kill-group": ("crashed", "ended by SIGKILL"),
    "rogue:close": ("crashed", "its result could not be sent: the model closed the pipe"),
    "rogue:write": ("crashed", "exit code 0 without a result, and it wrote to the harness's pipe"),
    "rogue:write-on": ("timeout", "ended after 5 s (--timeout)"),
    "rogue:fork-on": ("ok", ""),
    "rogue:bomb": ("crashed", "RuntimeError: 32 processes"),
    "rogue:threads": ("ok", ""),
    "rogue:patch": ("ok", ""),
    "rogue:patch-builtins": ("crashed", "RuntimeError: replaced by a plugin"),
    "rogue:lose-modules": ("crashed", "RuntimeError: no modules"),
    "rogue:move": ("ok", ""),
    "rogue:leave-files": ("crashed", "ended by SIGABRT"),
    "imports-exits": ("crashed", "SystemExit: 4"),
    "imports-dies": ("crashed", "exit code 5 without a result"),
    "imports-raises": ("crashed", "Odd: not an Exception"),
    "imports-hangs": ("timeout", "ended after 5 s (--timeout)"),
    "imports-computes": ("ok", ""),
    "imports-sets": ("ok", ""),
    "at-import-exits": ("crashed", "plugin 'at-import-exits'"),
    "at-import-dies": ("crashed", "plugin 'at-import-dies'"),
    "at-import-raises": ("crashed", "plugin 'at-import-raises'"),
    "at-import-patches": ("ok", ""),
    "toy": ("ok", ""),
}
SETTINGS = {"device": "cpu", "resolutions": [12], "steps": 2, "measure": False}
TIMES = ["cell_seconds", "started", "train_seconds", "evaluation_seconds"]


def run(models: Iterable[str], out: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], pd.DataFrame]:
    """Run a sweep; return how it ended and its table, once nothing of it is left: no process, no temporary file."""
    mark, temporary = uuid.uuid4().hex, out.with_name(f"{out.name}-temporary")
    temporary.mkdir()
    command = [sys.executable, "-m", "attn_bench", "run", "--models", ",".join(models), "--task", "toy-task"]
    command += ["--device", "cpu", "--resolutions", "12", "--steps", "2", "--no-plots", "--out", str(out), *options]
    paths = os.pathsep.join((str(ROGUES), os.environ["PYTHONPATH"]))
    own = {MARK: mark, "TMPDIR": str(temporary), "PYTHONPATH": paths}
    done = subprocess.run(
        command, env=os.environ | own, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not marked_processes(mark)
    # torch makes the last one, which all processes of a user share.
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")] == []
    return done, attn_bench.load(out)


def values(table: pd.DataFrame) -> dict[str, object]:
    """Return the one row of a table, without times and what is missing."""
    (row,) = table.drop(columns=TIMES).to_dict("records")
    return {name: value for name, value in row.items() if not pd.isna(value)}


# One of each status and some that reach for the processes around them, none of which waits for the time limit.
FEW = (
    "rogue:segfault", "rogue:hungry", "toy-nan", "toy-unfit", "rogue:exit", "rogue:kill-server", "rogue:close",
    "rogue:children", "at-import-dies", "toy",
)  # fmt: skip


@pytest.mark.parametrize("models", [FEW, pytest.param(tuple(ENDS), marks=pytest.mark.slow)], ids=["few", "all"])
def test_every_way_to_fail_is_a_row_and_the_good_model_is_untouched(tmp_path, models):
    expected = {model: ENDS[model] for model in models}
    limit = "60" if models is FEW else "5"  # enough on a busy machine, where nothing waits for it
    done, table = run(models, tmp_path / "r", "--no-measure", "--timeout", limit, "--memory-limit", "900")
    found = dict(zip(table.model, zip(table.status, table.error.fillna(""))))
    assert {model: status for model, (status, _) in found.items()} == {name: end[0] for name, end in expected.items()}
    for model, (_, begin) in expected.items():
        assert found[model][1].startswith(begin), (model, found[model])
        assert bool(found[model][1]) == bool(begin), (model, found[model])
        assert len(found[model][1]) <= 1000
    assert len(table) == len(expected)
    assert table.cell.is_unique
    assert not {"\x1b", "\x00", "\ud800"} & {*"".join(table.error.dropna()), *done.stdout, *done.stderr}
    assert max(log.stat().st_size for log in (tmp_path / "r" / "logs").iterdir()) <= 16 << 20

    beside = table[table.model == "toy"]
    if models is FEW:  # in this process, which does not see the other plugins; they are part of the environment
        alone = attn_bench.run(["toy"], "toy-task", out=tmp_path / "alone", **SETTINGS)
        assert (beside.rel_l2.item(), beside.train_loss.item()) == (alone.rel_l2.item(), alone.train_loss.item())
    else:
        assert values(beside) == values(run(["toy"], tmp_path / "alone", "--no-measure")[1])


@pytest.mark.slow
def test_rogues_do_not_change_later_measurements(tmp_path):
    rogues = ["rogue:bomb", "rogue:close", "rogue:lose-modules", "rogue:message", "rogue:write", "imports-exits"]
    tables = [run(models, tmp_path / models[0], "--threads", "1")[1] for models in ([*rogues, "toy"], ["toy"])]
    beside, alone = (values(table[table.model == "toy"]) for table in tables)
    exact = ["parameters", "flops", "rel_l2", "rel_mse", "peak_memory_forward_mib", "peak_memory_train_mib"]
    assert {name: beside[name] for name in exact} == {name: alone[name] for name in exact}
    assert beside["environment"] == alone["environment"]
    assert (tmp_path / "toy" / "logs" / f"{alone['cell']}.txt").read_bytes() == b""
