"""A new setting takes one field: its flag, help, key, check, record and documentation follow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from places import ROOT

FIELD = """
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of the test.")] = 0.5
"""
CODE = """
import runpy, sys
from attn_bench import cli
from attn_bench.errors import UserError
from attn_bench.results.record import Record
from attn_bench.running.runner import separated
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

toy = {"models": "toy", "task": "toy-task", "resolutions": 8, "device": "cpu"}
usual, = Sweep.from_settings(toy).cells()
(given,) = separated(toy | {"momentum": "0.9"})[0].cells()
assert (usual.training.momentum, given.training.momentum) == (0.5, 0.9)
assert usual.id != given.id
try:
    Sweep.from_settings(toy | {"momentum": 1})
except UserError as error:
    assert str(error) == "setting momentum: must be < 1 (given: 1)", error
else:
    raise AssertionError
record = Record.from_json(Record(given, "ok").to_json())
assert record.cell == given
assert record.to_json()["cell"]["training"]["momentum"] == 0.9
from attn_bench.report.reproduce import steps
assert "--momentum 0.9" in steps([given.to_json()])[0].command.replace("\\\\\\n    ", "")
tables = runpy.run_path(sys.argv[1])["tables"]()
assert "| `momentum` | float | `0.5` | >= 0, < 1 | Momentum of the test. |" in tables
sys.argv = ["attn-bench", "run", "--help"]
cli.main()
"""


def test_a_new_field_is_a_flag_a_key_a_check_a_record_and_a_row_of_the_page(tmp_path: Path) -> None:
    for package in ("attn_bench", "docs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    groups = tmp_path / "attn_bench" / "sweep" / "groups.py"
    before, training, after = groups.read_text(encoding="utf-8").partition("    epochs: ")
    groups.write_text(before + FIELD + training + after, encoding="utf-8")
    paths = [str(tmp_path), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, str(tmp_path / "docs" / "list_settings.py")],
        env={"PYTHONPATH": ":".join(paths), "HOME": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "--momentum FLOAT" in done.stdout
    assert "Momentum of the test. [default: 0.5]" in done.stdout
