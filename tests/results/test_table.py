"""Labels of the table: each kind of cell has its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from made_results import EXECUTION, TRAINING, Folder

from attn_bench.results.labels import labels
from attn_bench.results.record import Record
from attn_bench.sweep.cell import Cell


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
