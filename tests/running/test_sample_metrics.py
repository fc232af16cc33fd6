"""Metrics of single samples: means over those that have one, with their intervals, offered the inputs of the task."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from toy_plugins import ToyTask

from attn_bench.plugin import Metric
from attn_bench.results.record import Evaluation
from attn_bench.results.store import Store
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.sample_metrics import SampleMetrics, interval
from attn_bench.sweep.settings import Sweep

METRICS = {**ToyTask.metrics, "of_inputs": Metric("lower", "of the inputs"), "of_none": Metric("lower", "of no sample")}


def by_sample(self, problem, inputs, prediction, target):
    """One metric that evaluate() has too, one of the inputs that every second sample has, and one that none has."""
    error = (prediction - target).square().flatten(1).sum(1) / target.square().flatten(1).sum(1)
    of_inputs = inputs.flatten(1).sum(1)
    of_inputs[::2] = math.nan
    return {"of_inputs": of_inputs, "rel_mse": error, "of_none": torch.full_like(error, math.nan)}


def evaluated(tmp_path) -> Evaluation:
    settings = {"resolutions": [8], "batch_size": 6, "device": "cpu", "threads": 1, "measure": False, "steps": 2}
    (cell,) = Sweep.from_settings({"models": ["habit:in-place"], "task": "toy-task", **settings}).cells()
    record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
    assert record.status == "ok", record.error
    return record.evaluations[0]


def test_the_inputs_are_the_test_set_even_if_the_model_writes_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyTask, "sample_metrics", by_sample)
    monkeypatch.setattr(ToyTask, "metrics", METRICS)
    found = evaluated(tmp_path)
    task = ToyTask()
    inputs = torch.stack([pair[0] for pair in task.splits(8, task.options()).test])
    # Batches of 6, 6 and 4 samples, the second of each two counts.
    expected = inputs.flatten(1).sum(1)[[i for i in range(16) if (i % 6) % 2]].double()
    assert found.metrics["of_inputs"] == pytest.approx(float(expected.mean()))
    assert list(found.metrics) == ["rel_l2", "rel_mse", "of_inputs"]
    known = found.intervals["of_inputs"]
    low, high = stats.t.interval(0.95, 7, expected.mean(), stats.sem(expected))
    assert (known.samples, known.low, known.high) == (8, pytest.approx(low), pytest.approx(high))
    assert found.intervals["rel_mse"].low < found.intervals["rel_mse"].high
    assert "rel_l2" not in found.intervals


def test_a_task_without_them_has_its_metrics_only(tmp_path):
    found = evaluated(tmp_path)
    assert list(found.metrics) == list(ToyTask.metrics)
    assert found.intervals == {}


def test_one_number_a_sample_is_asked_for():
    class Odd(ToyTask):
        def sample_metrics(self, problem, inputs, prediction, target):
            return {"rel_l2": prediction.sum()}

    batches = SampleMetrics(Odd()).watch(None, [(torch.ones(3, 1), torch.ones(3, 1))], lambda: None)
    with pytest.raises(ValueError, match=r"must return rel_l2 of shape \(3,\).*returned: \(\)"):
        list(batches)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2000, 12, generator=generator, dtype=torch.float64)
    covered = [found.low <= 0 <= found.high for found in map(interval, samples)]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.015)


def test_the_interval_of_hits_stays_within_0_and_100_per_cent():
    hits = torch.tensor([100.0] * 20, dtype=torch.float64)
    found = interval(hits, of_hits=True)
    assert (found.low, found.high) == (pytest.approx(83.887, abs=1e-3), 100)  # n / (n + z^2)
    assert interval(hits).low == 100


def test_a_metric_named_as_the_interval_of_another_is_refused():
    with pytest.raises(TypeError, match="metric rel_l2_high: this is the column of the interval of rel_l2"):

        class Odd(ToyTask):
            metrics = {**ToyTask.metrics, "rel_l2_high": Metric("lower", "of high wavenumbers")}


@pytest.mark.parametrize("name", ["parameters", "latency_forward_ms", "latency", "cell", "loss", "train_loss"])
def test_a_metric_named_as_a_column_a_quantity_or_a_setting_is_refused(name):
    with pytest.raises(TypeError, match=f"^metric {name}: {name} is a column or a setting of every run; rename it$"):

        class Odd(ToyTask):
            metrics = {**ToyTask.metrics, name: Metric("lower", "of something")}
