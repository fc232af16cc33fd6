"""Labels of the table: each kind of cell has its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from made_results import EXECUTION, TRAINING, Folder

import attn_bench
from attn_bench.errors import UserError
from attn_bench.plugin import TrainingDefaults
from attn_bench.results.labels import labels
from attn_bench.results.record import Curve, Record, Series, TrainingResult
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Tuning


def record(model: str = "mano", started: str | None = None, **values: Any) -> Record:
    given = {
        "model": model, "plugin": "mano", "model_version": "attn-bench==0.1.0+18b923ee", "options": {}, "task": "darcy",
        "task_version": "attn-bench==0.1.0+25a0e190", "task_options": {}, "resolution": 16, "seed": 0,
        "execution": EXECUTION, "training": TRAINING,
    }  # fmt: skip
    return Record(Cell(**{**given, **values}), "ok", started=started)


def test_versions_are_distinguished_by_their_packages_or_their_order() -> None:
    new, released = "attn-bench==0.1.0+ab12cd34", "attn-bench==0.2.0+ab12cd34"
    assert labels([record(), record(model_version=released)]) == ["mano (0.1.0)", "mano (0.2.0)"]
    assert labels([record(), record(model_version=new)]) == ["mano (version 1)", "mano (version 2)"]
    swapped = [record(started="2026-01-02"), record(started="2026-01-01", model_version=new)]
    assert labels(swapped) == ["mano (version 2)", "mano (version 1)"]
    assert labels([record(), record(task_version=new)]) == ["mano (task version 1)", "mano (task version 2)"]
    assert labels([record(model_version="1"), record(model_version="2")]) == ["mano (1)", "mano (2)"]
    both = labels([record(training_version=1), record(training_version=2, options={"dim": 8})])
    assert both == ["mano (training 1) [dim=default]", "mano (training 2) [dim=8]"]


def test_settings_of_one_name_are_written_out() -> None:
    other = replace(EXECUTION, batch_size=4)
    pair = labels([record(), record(execution=other, task_options={"batch_size": 2})])
    assert pair == [
        "mano [execution.batch_size=8, task_options.batch_size=default]",
        "mano [execution.batch_size=4, task_options.batch_size=2]",
    ]
    pair = labels([record(), record(training=replace(TRAINING, epochs=None, steps=7))])
    assert pair == ["mano [epochs=10.0]", "mano [steps=7]"]


def test_an_ablation_is_labeled_by_its_changes_from_the_base() -> None:
    base = {"levels": 4, "stride": None, "window_size": 2, "up_sampling": "transposed"}
    changes: list[dict[str, Any]] = [
        {}, {"levels": 1}, {"levels": 2}, {"stride": 1}, {"window_size": 4}, {"window_size": 4, "stride": 2},
        {"up_sampling": "nearest"},
    ]  # fmt: skip
    assert labels([record(options=base | change) for change in changes]) == [
        "mano [levels=4, stride=None, up_sampling=transposed, window_size=2]", "mano [levels=1]", "mano [levels=2]",
        "mano [stride=1]", "mano [window_size=4]", "mano [stride=2, window_size=4]", "mano [up_sampling=nearest]",
    ]  # fmt: skip
    three = [{"a": 0, "b": 0, "c": 0}, {"a": 1, "b": 0, "c": 0}, {"a": 0, "b": 1, "c": 0}, {"a": 0, "b": 0, "c": 1}]
    assert labels([record(options=options) for options in three])[1:] == ["mano [a=1]", "mano [b=1]", "mano [c=1]"]
    three[3] = {"a": 1, "b": 0, "c": 1}
    assert all(label.count("=") == 3 for label in labels([record(options=options) for options in three]))
    # Without the base nothing says what a label leaves out; nor where all combinations are there.
    assert all(label.count("=") == 4 for label in labels([record(options=base | change) for change in changes[1:]]))
    grid = [dict(zip("abcd", values)) for values in product((0, 1), repeat=4)]
    assert all(label.count("=") == 4 for label in labels([record(options=options) for options in grid]))


def test_a_schedule_is_named_without_the_parameters_that_it_always_has() -> None:
    defaults = TrainingDefaults(resolutions=(16,))
    ours = TRAINING.completed(defaults)
    cosine = replace(TRAINING, schedule="cosine").completed(defaults)
    floor = replace(TRAINING, schedule="cosine", lr_end=0.1).completed(defaults)
    assert labels([record(training=ours), record(training=cosine), record(training=floor)]) == [
        "mano [schedule=one-cycle]",
        "mano [schedule=cosine]",
        "mano [lr_end=0.1, schedule=cosine]",
    ]


def test_the_curves_are_a_frame_of_points(tmp_path: Any) -> None:
    store = Folder(tmp_path).store
    curve = Curve(
        Series((2, 4), (0.5, 1.0), (3.0, 2.0)), Series((4,), (1.0,), (0.25,)), metric="rel_l2", part="validation"
    )
    store.write(replace(record(), training=TrainingResult(steps=4, epochs=2.0, curve=curve)))
    store.write(record("fno", plugin="fno"))
    points = attn_bench.load(tmp_path, curves=True)
    assert points[["part", "quantity", "step", "epoch", "seconds", "value"]].values.tolist() == [
        ["train", "loss", 2, 1.0, 0.5, 3.0],
        ["train", "loss", 4, 2.0, 1.0, 2.0],
        ["validation", "rel_l2", 4, 2.0, 1.0, 0.25],
    ]
    assert set(points.model) == {"mano"}


def test_a_folder_without_curves_says_so(tmp_path: Any) -> None:
    folder = Folder(tmp_path)
    folder.add("mano", 16, 0)
    with pytest.raises(UserError, match="no cell has a training curve"):
        attn_bench.load(tmp_path, curves=True)


def test_a_recipe_stands_for_its_settings_and_what_was_chosen_by_tuning_for_nothing() -> None:
    of = {name: replace(TRAINING, recipe=name, learning_rate=rate) for name, rate in (("a", 1e-3), ("b", 2e-3))}
    assert labels([record(training=training) for training in of.values()]) == ["mano [a]", "mano [b]"]
    third = record(training=replace(of["b"], learning_rate=7.0))
    assert labels([record(training=of["a"]), record(training=of["b"]), third])[2] == "mano [learning_rate=7.0, b]"
    tuning = Tuning(tune={"learning_rate": (1e-3, 2e-3)})
    assert (
        labels(
            [
                record(training=training, tuning=tuning, resolution=r)
                for r, training in enumerate(replace(TRAINING, learning_rate=rate) for rate in (1e-3, 2e-3))
            ]
        )
        == ["mano"] * 2
    )


def test_no_label_is_that_of_something_else() -> None:
    """A sweep file may label one model as another's settings would."""
    found = labels([record(options={"dim": 8}), record(options={"dim": 4}), record("mano [dim=8]")])
    assert len(set(found)) == 3
    assert found[1] == "mano [dim=4]"
    assert len(set(labels([record(options={"dim": "default"}), record()]))) == 2


def test_seeds_and_resolutions_share_a_label(tmp_path: Any) -> None:
    folder = Folder(tmp_path)
    for resolution in (16, 32):
        for seed in (0, 1):
            folder.add("mano", resolution, seed)
    assert set(folder.store.table()["model"]) == {"mano"}
