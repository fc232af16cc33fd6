"""The scripts in benchmarks/, which no other test runs, fit the code that they measure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
IMPORT = "import runpy, sys; [runpy.run_path(path, run_name='imported') for path in sys.argv[1:]]"


def test_their_imports_are_there() -> None:
    scripts = sorted(map(str, FOLDER.glob("*.py")))
    assert scripts
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *scripts], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_planted_on_a_side_of_the_gate_is_there() -> None:
    code = "from attn_bench.running.measure.steps import Steps; print(Steps.step.__name__, Steps.memory.__name__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER / "planted"), "PLANTED_LATENCY": "0.1"},
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("_worse _with_more_memory", "")
