"""The pushforward trick: steps from a module's own predictions without gradients, then one that is trained."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from command import attn_bench
from data_files import save
from torch import nn

import attn_bench as api
from attn_bench.plugin import Problem
from attn_bench.running.train.regimes import pushing_forward
from attn_bench.sweep.groups import Execution
from attn_bench.tasks.fields.task import Fields
from attn_bench.tasks.navier_stokes.task import NavierStokes

CPU = Execution(batch_size=2, device="cpu")


class Doubled(nn.Module):
    """The next state is a times the last one plus b times the one before, in both channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.a * x[:, 2:] + self.b * x[:, :2]


def test_gradients_pass_through_the_last_step_only():
    """States 1 and 5 by hand: then 2 5 + 3 1 = 13, then 2 13 + 3 5 = 41, and the gradients of the latter."""
    module = Doubled()
    inputs = torch.tensor([1.0, 10.0, 5.0, 50.0]).view(1, 4, 1).expand(2, 4, 7)
    targets = torch.arange(6.0).view(1, 6, 1).expand(2, 6, 7)
    push, seen = pushing_forward(module, Problem("field", 4, 2, (7,)), CPU), {}
    for seed in range(40):
        torch.manual_seed(seed)
        steps = int(torch.randint(3, ()))
        torch.manual_seed(seed)
        seen[steps] = push(inputs, targets)
    assert seen.keys() == {0, 1, 2}
    assert torch.equal(seen[0][0], inputs)
    assert [found[0][0, :, 0].tolist() for found in (seen[1], seen[2])] == [[5, 50, 13, 130], [13, 130, 41, 410]]
    assert [seen[steps][1][0, :, 0].tolist() for steps in (0, 1, 2)] == [[0, 1], [2, 3], [4, 5]]
    pushed, target = seen[1]
    prediction = module(pushed)
    assert prediction[0, :, 0].tolist() == [41, 410]
    (prediction - target)[:, 0].sum().backward()
    # For each of 14 points 13 by a, and 5 by b. Without the trick that by a would have 2 * 5 more, of the 13.
    assert (module.a.grad.item(), module.b.grad.item()) == (14 * 13, 14 * 5)


def test_fields_and_navier_stokes_give_the_states_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    flow = NavierStokes()
    given = {"n_train": 10, "n_test": 2, "horizon": 6, "history": 2, "fine": 16, "pushforward": 2}
    states = np.random.default_rng(0).normal(size=(10, 6, 8, 8, 1)).astype(np.float32)
    path = save(tmp_path / "states.npz", {"u": states})
    fields = Fields()
    of_file = fields.resolve((8,), fields.options(data=str(path), axes="nthwc", history=2, pushforward=2, n_test=2))
    for task, options, trajectories in (
        (flow, flow.resolve((8,), flow.options(**given)), 10),
        (fields, of_file, 8),
    ):
        held = task.hold_out(task.splits(8, options), 0.25)
        kept = trajectories - round(0.25 * trajectories)
        assert held.sizes["train"] == kept * 4
        assert len(held.unrolled) == kept * 2
        for trajectory in range(kept):
            for first in range(2):
                inputs, targets = held.unrolled[trajectory * 2 + first]
                parts = [held.train[trajectory * 4 + first + later] for later in range(3)]
                assert torch.equal(inputs, parts[0][0])
                assert torch.equal(targets, torch.cat([target for _, target in parts]))
        assert held.validation[0][1].shape == (1, 8, 8)


def test_a_run_trains_with_it_and_records_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    small = [f"navier-stokes.{name}" for name in ("n_train=4", "n_test=2", "horizon=5", "history=2", "fine=16")]
    given = ("--models", "linear", "--task", "navier-stokes", "--resolutions", "8", "--steps", "6", "--no-measure")
    settings = [part for each in (*small, "navier-stokes.pushforward=0,2") for part in ("--set", each)]
    out = tmp_path / "out"
    done = attn_bench("run", *given, *settings, "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    table = api.load(out)
    assert (table["status"].tolist(), table["rel_l2"].nunique()) == (["ok", "ok"], 2)


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("darcy", ["darcy.pushforward=1"], "pushforward"),
        ("navier-stokes", ["navier-stokes.pushforward=20"], "pushforward=20 needs 21 states after the 10 given"),
        ("fields", ["fields.pushforward=1", "fields.axes=nhw"], "fields.pushforward=1: .* has no time axis"),
        ("fields", ["fields.pushforward=5", "fields.axes=nthw"], "has 6 steps, too few for 7 states 1 apart"),
        (
            "fields",
            ["fields.pushforward=1", "fields.axes=nthw", "fields.target=v"],
            "must have the arrays of the target",
        ),
    ],
)
def test_it_is_refused_where_there_are_no_steps(tmp_path, task, options, said):
    shape = (4, 6, 8, 8) if "fields.axes=nthw" in options else (4, 8, 8)
    numbers = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    data = save(tmp_path / "file.npz", {"u": numbers[0], "v": numbers[1]})
    named = ("fields.input=u", "fields.target=u") if "fields.target=v" not in options else ("fields.input=u",)
    more = ("--data", data) if task == "fields" else ()
    given = [part for each in (*options, *(named if more else ())) for part in ("--set", each)]
    done = attn_bench("run", "--models", "linear", "--task", task, *more, *given, "--out", tmp_path / "out")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert re.search(said, line), line
