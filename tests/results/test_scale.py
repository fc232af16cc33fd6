"""What costs of a large folder grow with: not with the cells what is the same for many of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from made_results import METRICS, Folder
from places import ROOT

import attn_bench
from attn_bench.plugins.registry import MODELS
from attn_bench.plugins.undo import undone
from attn_bench.report import summary as report
from attn_bench.report.html import html_page
from attn_bench.report.origin import NOWHERE
from attn_bench.report.page import extent
from attn_bench.report.pictures import draw
from attn_bench.results import index, known, labels, record, table, varied
from attn_bench.results.quantities import Row, at
from attn_bench.results.store import Store, loaded
from attn_bench.running import work
from attn_bench.running.runner import _due
from attn_bench.running.work import Work

SHIPPED = sorted(path.parent for path in (ROOT / "results").glob("*/run.json"))


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Counter[str]:
    """Count the calls of a function."""
    calls: Counter[str] = Counter()
    real = getattr(owner, name)

    def counted(*args: Any, **named: Any) -> Any:
        calls[name] += 1
        return real(*args, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_columns_of_all_records_hold_what_each_record_says(folder: Path) -> None:
    store = Store.open(folder)
    records, metrics = store.records(), store.run_info().metrics
    by_id = {record.id: record for record in records}
    found = table.column_values(table.in_brief(records), {}, metrics)
    for i, (id, resolution) in enumerate(zip(found["cell"], found["eval_resolution"])):
        row = Row(by_id[id], resolution, by_id[id].evaluated_at(resolution))
        for column in table.of_record():
            expected = at(row.record, column.where) if isinstance(column.where, str) else column.where(row)
            assert found[column.column][i] == (expected if row.own or not column.own else None)
        for name in metrics:
            assert found[name][i] == (row.evaluation.metrics.get(name) if row.evaluation else None)
            interval = row.evaluation.intervals.get(name) if row.evaluation else None
            ends = (interval.low, interval.high) if interval else (None, None)
            assert (found[f"{name}_low"][i], found[f"{name}_high"][i]) == ends


def test_settings_are_compared_once_for_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    for seed in range(10):
        folder.add("mano", 16, seed)
        folder.add("mano", 16, seed, options={"dim": 8})
    for module in (labels, varied):
        calls = counting(monkeypatch, module, "_settings")
        loaded = attn_bench.load(tmp_path)
        assert calls["_settings"] == 2
        monkeypatch.undo()
    assert list(loaded["mano.dim"].value_counts()) == [10, 10]


def test_a_resumed_run_opens_no_record_that_is_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))
    folder = Folder(tmp_path)
    for seed in range(5):
        folder.add("mano", 16, seed)
    cells = [record.cell for record in Store(tmp_path).records()]
    opened, parsed = counting(monkeypatch, known, "read_json"), counting(monkeypatch, record, "from_text")
    parts, there = _due(Work.of(cells, Store(tmp_path)))
    assert (parts, there, opened["read_json"], parsed["from_text"]) == ([], ["ok"] * 5, 0, 0)


def test_a_module_is_looked_for_once_for_all_cells_of_one_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    for seed in range(3):
        folder.add("mano", 16, seed)
    for each in folder.store.records():
        for version in ("1", "2"):
            cell = replace(each.cell, model_version=version)
            folder.store.write(replace(each, cell=cell, id="", imported={"one": "a", "two": "b"}))
    monkeypatch.setattr(work, "digest", lambda module, beside: {"one": "a", "two": "b"}[module])
    calls = counting(monkeypatch, work, "digest")
    cells = [each.cell for each in folder.store.records()]
    assert _due(Work.of(cells, Store(tmp_path))) == ([], ["ok"] * 6)
    assert calls["digest"] == 4
    monkeypatch.setattr(work, "digest", lambda module, beside: "changed")
    assert _due(Work.of(cells, Store(tmp_path))) == (cells, [])


def test_a_report_is_of_the_records_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    for seed in range(3):
        folder.add("mano", 16, seed)
    store = Store.open(tmp_path).as_it_is()
    built, listed = counting(monkeypatch, table, "column_values"), counting(monkeypatch, known.Known, "_list")
    before = loaded(store)
    folder.add("mano", 16, 3)
    store.path("cells", before["cell"][0]).unlink()
    assert (len(store.records()), store.read(before["cell"][0])) == (3, store.records()[0])
    assert store.table().equals(before)
    assert (built["column_values"], listed["_list"]) == (1, 1)
    assert list(loaded(Store.open(tmp_path).as_it_is())["seed"]) == [1, 2, 3]


def test_installed_packages_are_listed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    MODELS.load("mean")
    calls = counting(monkeypatch, metadata, "entry_points")
    for _ in range(3):
        MODELS.load("mean")
    assert calls["entry_points"] == 0
    monkeypatch.syspath_prepend(tmp_path)
    MODELS.entries()
    assert calls["entry_points"] == 1


def test_importing_a_plugin_that_changes_nothing_leaves_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # It imports a compiler.
    calls = counting(monkeypatch, torch, "use_deterministic_algorithms")
    with undone():
        pass
    assert not calls


def test_a_page_of_many_models_shows_those_that_rank_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_MODELS", 3)
    folder = Folder(tmp_path / "results")
    for i in range(8):
        for resolution in (16, 32):
            # The best is the slowest.
            folder.add(f"model{i}", resolution, scale=2 + i, rel_l2=0.5 - i / 20)
    folder.add("model8", 16, status="oom", error="OutOfMemoryError")
    whole = attn_bench.load(tmp_path / "results")
    summary = report.summarise(whole, METRICS)
    assert {"model0", "model7"} < set(summary.models)
    assert (len(summary.models), summary.left_out, dict(summary.statuses)) == (3, 6, {"ok": 16, "oom": 1})
    assert extent(summary) == (
        "3 models at 2 resolutions (16, 32). 6 more, which rank lower in rel_l2 and forward latency at every "
        "resolution, are in table.csv only."
    )
    drawn = draw(folder.store, summary, tmp_path)
    page = html_page([(summary, drawn)], NOWHERE, [], tmp_path)
    assert "6 more, which" in page
    assert "model4" not in page
    assert report.summarise(whole[whole["model"].isin(summary.models)], METRICS).selection == ""
