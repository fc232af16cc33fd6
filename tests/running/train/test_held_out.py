"""Cells hold out a validation set, train on the rest, and read the test set only when they are evaluated."""

from __future__ import annotations

import math

import pytest
import torch
from toy_tuning import READ, Sealed

from attn_bench.errors import UserError
from attn_bench.results.store import Store
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.sweep.settings import Sweep
from attn_bench.tasks.images.digits import Digits

BRIEF = {"device": "cpu", "threads": 1, "measure": False, "steps": 3}


def ran(folder, **settings):
    (cell,) = Sweep.from_settings({**BRIEF, **settings}).cells()
    return run_cell(cell, Files.of(cell, Store(folder)))[0]


@pytest.mark.parametrize(
    "settings", [{}, {"select": "best"}, {"validation": 0}, {"ema": 0.9}, {"optimizer": "adam"}, {"loss": "h1"}]
)
def test_training_never_reads_the_test_set(tmp_path, settings):
    record = ran(tmp_path, models=["toy-scale"], task="toy-sealed", **settings)
    assert READ in record.error
    assert record.training.steps == 3
    held = 0 if settings.get("validation") == 0 else 4
    assert record.data["samples"] == {"train": 40 - held, "validation": held, "test": 8}


@pytest.mark.parametrize("regime", ["scratch", "linear-probe", "finetune"])
def test_no_regime_reads_it(tmp_path, monkeypatch, regime):
    splits = Digits.splits

    def sealed(self, resolution, options):
        found = splits(self, resolution, options)
        return type(found)(**{**vars(found), "test": Sealed(len(found.test))})

    monkeypatch.setattr(Digits, "splits", sealed)
    options = {"timm": {"model": "test_vit"}, "digits": {"test_fraction": 0.9}}
    settings = {"models": ["timm"], "resolutions": [32], "batch_size": 32, "regime": regime, "options": options}
    record = ran(tmp_path, task="digits", select="best", **settings)
    assert READ in record.error
    assert record.training.steps == 3
    assert record.training.selected_on == "validation"


def test_what_is_held_out_is_not_trained_on_nor_part_of_the_normalisation(tmp_path, monkeypatch):
    from toy_tuning import SealedTask

    splits = SealedTask.splits

    def poisoned(self, resolution, options):
        found = self.hold_out(splits(self, resolution, options), 0.1)
        # NaN in what is held out of the original must be noticed nowhere but in the validation error.
        whole = splits(self, resolution, options)
        inputs = whole.train.tensors[0].clone()
        held = {tuple(x.flatten()[:2].tolist()) for x, _ in found.validation}
        for x in inputs:
            if tuple(x.flatten()[:2].tolist()) in held:
                x.fill_(math.nan)
        return type(whole)(torch.utils.data.TensorDataset(inputs, inputs), whole.train)

    def adapt(self, module, train):
        assert torch.isfinite(train.tensors[0]).all()
        return module

    monkeypatch.setattr(SealedTask, "splits", poisoned)
    monkeypatch.setattr(SealedTask, "adapt", adapt)
    assert ran(tmp_path, models=["toy-scale"], task="toy-sealed").status == "ok"
    assert ran(tmp_path, models=["toy-scale"], task="toy-sealed", validation=0).status != "ok"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "digits", "models": "vit", "loss": "h1"}, r"loss: digits \(image\) has no 'h1'; it has task"),
        ({"task": "toy-task", "models": "toy", "loss": "h2"}, "has no 'h2'; it has task, rel_l2, mse, h1, derivative"),
        ({"task": "toy-task", "models": "toy", "validation": 1}, "validation: must be < 1"),
        ({"task": "toy-task", "models": "toy", "select": "best", "validation": 0}, "best needs a validation set"),
    ],
)
def test_what_makes_no_sense_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        Sweep.from_settings(settings).cells()
