"""Rollouts: a model is applied to its own predictions in the test, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_bench.results.store import Store
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.train.batches import rolled_out
from attn_bench.sweep.settings import Sweep
from attn_bench.tasks.shared.rollout_metrics import ROLLOUT_METRICS, step_errors

SMALL = {"n_train": 3, "n_test": 2, "horizon": 5, "history": 2, "fine": 16}


def test_each_state_is_predicted_from_the_last_ones():
    """The next Fibonacci number, of two channels a state."""

    def call(module, inputs):
        assert module is None
        return inputs[:, :2] + inputs[:, 2:]

    inputs = torch.tensor([0.0, 10.0, 1.0, 20.0]).view(1, 4, 1).expand(3, 4, 5)
    found = rolled_out(call, 4, None, inputs)
    assert found[0, :, 0].tolist() == [1, 30, 2, 50, 3, 80, 5, 130]
    assert found.shape == (3, 8, 5)


def test_channels_that_do_not_change_are_given_again_and_masked_points_stay_masked():
    def call(module, inputs):
        state, factor = inputs.split(1, 1)
        return state.nan_to_num(7.0) * factor

    state = torch.tensor([[[1.0, 2.0, torch.nan]]])
    factor = torch.tensor([[[2.0, 3.0, 0.5]]])
    found = rolled_out(call, 3, None, torch.cat((state, factor), 1), fixed=1)
    assert found[0, :, :2].tolist() == [[2, 6], [4, 18], [8, 54]]
    assert found[0, :, 2].tolist() == [3.5, 3.5, 3.5]  # never from what was predicted there


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rollout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTN_BENCH_CACHE", str(folder / "cache"))
        settings = {
            "models": ["window"], "task": "navier-stokes", "resolutions": [8], "eval_resolutions": [16], "steps": 2,
            "batch_size": 4, "measure": False, "device": "cpu", "threads": 1, "options": {"navier-stokes": SMALL},
        }  # fmt: skip
        (cell,) = Sweep.from_settings(settings).cells()
        files = Files.of(cell, Store(folder / "results"))
        record, _ = run_cell(cell, files)
        return record, files


def test_a_record_has_the_metrics_of_whole_rollouts_at_every_resolution(ran):
    record, _ = ran
    assert record.status == "ok", record.error
    assert [(each.resolution, each.status) for each in record.evaluations] == [(8, "ok"), (16, "ok")]
    for each in record.evaluations:
        assert set(each.metrics) == set(each.intervals) == set(ROLLOUT_METRICS)


def test_the_predictions_kept_are_trajectories_with_the_error_of_each_state(ran):
    record, files = ran
    with np.load(files.artifact) as arrays:
        found = dict(arrays)
    assert {name: values.shape for name, values in found.items()} == {
        "input": (2, 2, 8, 8), "target": (2, 3, 8, 8), "prediction": (2, 3, 8, 8), "step_errors": (3,),
    }  # fmt: skip
    errors = step_errors(torch.from_numpy(found["prediction"]), torch.from_numpy(found["target"]), 3).mean(0)
    assert found["step_errors"].tolist() == pytest.approx(errors.tolist())
    own = record.evaluations[0].metrics
    assert [own["rel_l2_first"], own["rel_l2_last"]] == pytest.approx(found["step_errors"][[0, 2]].tolist())
