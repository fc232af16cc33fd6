"""Whole runs on files: test sets on several grids, and every model that serves fields."""

from __future__ import annotations

import numpy as np
import pytest
from command import attn_bench
from data_files import save

import attn_bench as api
from attn_bench.plugin import OptionError
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

QUICK = ("--steps", "2", "--device", "cpu", "--no-measure")


def smooth(samples, h, w, seed=0):
    """Return sums of a few waves, (samples, h, w)."""
    amplitudes = np.random.default_rng(seed).normal(size=(samples, 3))
    x, y = np.meshgrid(np.arange(h) / h, np.arange(w) / w, indexing="ij")
    waves = [np.sin(2 * np.pi * (k * x + m * y)) for k, m in ((1, 0), (1, 1), (2, -1))]
    return np.tensordot(amplitudes, waves, 1).astype(np.float32)


def pair(samples, size, seed):
    x = smooth(samples, size, size, seed)
    return {"x": x > 0, "y": x * x + 0.1}


@pytest.fixture
def files(tmp_path):
    """As in neuraloperator's demonstration: trained at 16, tested at 16 and at 32, on files of their own."""
    named = (("train_16", 20, 16, 0), ("test_16", 6, 16, 1), ("test_32", 5, 32, 2))
    return [save(tmp_path / f"darcy_{name}.pt", pair(samples, size, seed)) for name, samples, size, seed in named]


def test_test_files_say_where_a_model_is_evaluated(files):
    settings = {"models": ["fno"], "task": "fields", "data": files[0], "device": "cpu"}
    (cell,) = Sweep.from_settings({**settings, "test_data": files[1:]}).cells()
    assert (cell.resolution, cell.eval_resolutions) == (16, (32,))
    assert Cell.from_json(cell.to_json()).id == cell.id
    assert Cell.from_json(cell.to_json()) == cell
    (cell,) = Sweep.from_settings({**settings, "test_data": files[1]}).cells()
    assert cell.eval_resolutions == ()
    # What the user says goes before.
    (cell,) = Sweep.from_settings({**settings, "test_data": files[1:], "eval_resolutions": 8}).cells()
    assert cell.eval_resolutions == (8,)
    with pytest.raises(OptionError, match="nothing to train at resolution 32"):
        Sweep.from_settings({**settings, "test_data": files[1:], "resolutions": 32}).cells()


@pytest.mark.slow
def test_trained_at_one_grid_and_tested_at_several(tmp_path, files):
    out = tmp_path / "out"
    given = ("--data", files[0], "--test-data", files[1], "--test-data", files[2], "--out", out)
    done = attn_bench("run", "--models", "mean,linear", "--task", "fields", *given, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "20 samples of 16 x 16 from darcy_train_16.pt: train; 6 from darcy_test_16.pt: test" in done.stderr
    table = api.load(out).set_index(["model", "eval_resolution"])
    # The mean of the training set is a field on its grid.
    assert table["status"].to_dict() == {
        ("mean", 16): "ok", ("mean", 32): "unsupported", ("linear", 16): "ok", ("linear", 32): "ok",
    }  # fmt: skip
    rows = np.setdiff1d(np.arange(20), np.random.RandomState(0).permutation(20)[:2])
    target = pair(6, 16, 1)["y"].astype(np.float64)
    error = (target - pair(20, 16, 0)["y"][rows].mean(0, dtype=np.float64)).reshape(6, -1)
    expected = np.linalg.norm(error, axis=1) / np.linalg.norm(target.reshape(6, -1), axis=1)
    assert table.loc[("mean", 16), "rel_l2"] == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("line", [False, True])
def test_every_model_of_fields(tmp_path, line):
    import json

    models = json.loads(attn_bench("list", "models", "--kind", "field", "--format", "json").stdout)
    names = [model["name"] for model in models if model["origin"].startswith("attn-bench ")]
    if line:
        states = np.stack([np.roll(smooth(12, 32, 1)[..., 0], shift, 1) for shift in range(4)], 1)
        options = ("--set", "fields.axes=nth")
        path = save(tmp_path / "line.h5", {"u": states})
    else:
        a, b = smooth(12, 16, 24), smooth(12, 16, 24, 1)
        options = ("--set", "fields.input=K:nchw", "--set", "fields.target=p:nhwc")
        path = save(tmp_path / "two.npz", {"K": np.stack([a, b, a * b], 1), "p": np.stack([a * a, b + 1], -1)})
    out = tmp_path / "out"
    done = attn_bench(
        "run", "--models", ",".join(names), "--task", "fields", "--data", path, *options, *QUICK, "--out", out
    )
    table = api.load(out)
    assert set(table["model"]) == set(names), done.stderr
    served = table[table["status"] == "ok"]
    others = table[table["status"] != "ok"]
    assert (others["status"] == "unsupported").all(), done.stdout
    assert np.isfinite(served["rel_l2"]).all()
    least = {"full", "transolver", "fma", "linear"}
    if not line:
        least |= {"mano", "fno", "swinv2", "vit", "galerkin", "tfno", "uno", "flare", "linearno"}
    assert least <= set(served["model"])
