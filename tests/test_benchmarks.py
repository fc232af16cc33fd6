"""The scripts in benchmarks/, which no other test runs, fit the code that they measure."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

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


@pytest.mark.parametrize(
    ("call", "numbers"),
    [
        (lambda x, rows: x + x, 200),
        (lambda x, rows: x + x[:1].expand(10, 10), 210),
        (lambda x, rows: x.t()[None], 0),
        (lambda x, rows: torch.zeros_like(x), 100),
        (lambda x, rows: x.zero_(), 100),
        (lambda x, rows: x.mul_(2), 200),
        (lambda x, rows: x @ x, 200),
        (lambda x, rows: x.index_select(0, rows), 20 + 2 * 2 + 20),
        (lambda x, rows: x.index_add_(0, rows, x[:2].clone()), 3 * 20 + 2 * 2 + 2 * 20),
    ],
)
def test_what_an_operation_moves(call: Any, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    cost = importlib.import_module("mixers_cost")
    parts = cost.Parts(cost.Rates(4.0, math.inf))
    x, rows = torch.ones(10, 10), torch.tensor([3, 5])
    parts(lambda: call(x, rows))()
    assert parts.least_s == numbers


def test_the_cost_of_mixers_by_definition_and_what_is_left_of_an_interrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    cost = importlib.import_module("mixers_cost")
    bandwidth, matrix = 1e12, 1e9
    monkeypatch.setattr(cost, "machine_rates", lambda device: (bandwidth, matrix))
    assert cost.own_mixers()[0] == "full"
    assert {"fma", "fma:linear", "mano", "window"} < set(cost.own_mixers())
    assert not {"nystrom", "htransformer", "fno"} & set(cost.own_mixers())

    usual = cost.measure

    def interrupted(variant: Any, *rest: Any) -> Iterator[dict[str, Any]]:
        yield from usual(variant, *rest)
        if variant.label == "linear":
            raise KeyboardInterrupt

    monkeypatch.setattr(cost, "measure", interrupted)
    given = ["--dim", "8", "--heads", "2", "--rounds", "1", "--sizes", "64", "16", "--out", str(tmp_path)]
    cost.main([*given, "--only", "full", "linear", "galerkin"])
    assert "interrupted" in capsys.readouterr().out
    left = pd.read_csv(tmp_path / "table.csv")
    assert [tuple(row) for row in left.groupby(["layout", "mixer"], sort=False).size().items()] == [
        *(((layout, "full"), 4) for layout in ("causal sequence", "sequence", "grid")),
        (("causal sequence", "linear"), 4),
    ]

    monkeypatch.setattr(cost, "measure", usual)
    cost.main([*given, "--only", "full", "galerkin", "--layouts", "sequence", "grid"])
    found = pd.read_csv(tmp_path / "table.csv").set_index(["layout", "mixer", "tokens", "pass"]).sort_index()
    measured = {(layout, mixer) for layout in ("sequence", "grid") for mixer in ("full", "galerkin")}
    assert set(found.index.droplevel(["tokens", "pass"])) == measured
    row = found.loc["grid", "full", 64, "forward"]
    assert row["batch"] == 256
    # Maps to Q, K, V and back take 4 dim^2 multiply-adds for a token, scores and products of values 2 N dim.
    assert row["gflop"] == pytest.approx(2 * 256 * 64 * (4 * 8**2 + 2 * 64 * 8) / 1e9, abs=1e-4)
    assert row["bound_by"] == "operations"
    assert row["share_of_limit"] == pytest.approx(1e12 * row["gflop"] / matrix / row["median_ms"], rel=0.01, abs=1e-4)
    assert row["times_exact"] == 1
    # Without parameters of its own to move, exact attention is its products, all but the softmax inside.
    assert row["share_of_limit"] <= row["share_of_parts"] < 1.1 * row["share_of_limit"]
    faster = found.loc["grid", "galerkin", 64, "forward"]
    assert faster["times_exact"] == pytest.approx(row["median_ms"] / faster["median_ms"], abs=1e-3)
    assert "## grid" in capsys.readouterr().out
    assert (tmp_path / "cost.png").stat().st_size > 1e4
