"""What a report says about how models were trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from made_results import TRAINING, Folder

from attn_bench.plugin import TrainingDefaults
from attn_bench.report.origin import read_origin
from attn_bench.results.store import Store


def facts(folder: Any, **settings: Any) -> dict[str, str]:
    made = Folder(folder)
    made.add("mano", 16, 0)
    (record,) = made.store.records()
    training = replace(TRAINING, **settings).completed(TrainingDefaults(resolutions=(16,)))
    made.store.path("cells", record.id).unlink()
    made.store.write(replace(record, id="", cell=replace(record.cell, training=training)))
    return dict(read_origin(Store(folder)).training["darcy"])


def test_the_usual_schedule_is_only_named(tmp_path: Any) -> None:
    found = facts(tmp_path)
    assert found["Learning rate"] == "0.002 at its peak, one cycle"
    assert found["Gradients clipped to"] == "1"
    assert "Weights evaluated" not in found
    assert "Moving average of the weights" not in found


def test_what_a_recipe_changes_is_said(tmp_path: Any) -> None:
    settings = {"schedule": "cosine", "lr_end": 0.1, "select": "best-on-test", "ema": 0.99, "clip_norm": 0.0}
    found = facts(tmp_path, optimizer="lion", **settings)
    assert found["Optimizer"] == "lion"
    assert found["Learning rate"] == "0.002 at its peak, cosine with lr_end 0.1"
    assert found["Gradients clipped to"] == "not clipped"
    assert found["Moving average of the weights"] == "decay 0.99"
    assert "too good" in found["Weights evaluated"]
