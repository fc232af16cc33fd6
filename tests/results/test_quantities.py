"""A quantity is one row: what measures it aside, nothing else has to know it to show it and to compare it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_results import METRICS, Folder

from attn_bench.files import read_json, write_json
from attn_bench.gate.compare import compare
from attn_bench.gate.thresholds import read_thresholds
from attn_bench.plugins.registry import TASKS
from attn_bench.report import console_table, summarise, write_report
from attn_bench.results import quantities
from attn_bench.results.quantities import LATENCY, Quantity, of_metric
from attn_bench.results.store import Store
from attn_bench.results.table import columns

DECODE = Quantity(
    column="latency_decode_ms", where="latency.decode.median_ms", group=LATENCY, label="Decode", short="dec ms",
    axis="decode latency", shown=frozenset({"report", "terminal", "figures"}), summary="median latency of one token",
)  # fmt: skip


def measured(path: Path, ms: float) -> Store:
    """Return results of which each record has a further latency."""
    folder = Folder(path)
    for resolution in (16, 32, 64):
        folder.add("mano", resolution)
    for file in (path / "cells").iterdir():
        record = read_json(file, 1 << 20)
        scaled = ms * record["cell"]["resolution"]
        record["latency"]["decode"] = record["latency"]["forward"] | {
            "median_ms": scaled, "low_ms": 0.9 * scaled, "high_ms": 1.1 * scaled,
            "samples_ms": [scaled * (1 + 0.001 * (i % 7)) for i in range(60)],
        }  # fmt: skip
        write_json(file, record)
    return folder.store


def test_a_new_quantity_is_in_the_table_the_page_and_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "MEASURED", (*quantities.MEASURED, DECODE))
    base, new = measured(tmp_path / "base", 1.0), measured(tmp_path / "new", 2.0)

    table = base.table()
    assert table.latency_decode_ms.tolist() == [16, 32, 64]
    assert table.latency_decode_high_ms.tolist() == pytest.approx([17.6, 35.2, 70.4])

    summary = summarise(table, METRICS)
    write_report(tmp_path / "base", summary)
    page = (tmp_path / "base" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Decode (ms)" in page
    assert "32.0<small>28.8 to 35.2</small>" in page
    assert "Decode latency" in page  # its exponent
    assert "dec ms" in [column.header for column in console_table(summary).renderables[0].columns]  # type: ignore[union-attr]

    found = {f.metric: f for f in compare(base, new, read_thresholds("latency_decode=5%")).findings}
    assert found["latency_decode"].verdict == "worse"
    assert {f.metric for f in compare(base, new, read_thresholds("latency=5%")).regressions} == {"latency_decode"}


def test_quantities_are_distinct() -> None:
    found = quantities.quantities()
    for each in ({q.column for q in found}, {q.name for q in found}, {q.axis for q in found}):
        assert len(each) == len(found)
    for task in TASKS.entries():
        if not task.startswith("toy"):
            names = [column.column for column in columns(TASKS.load(task).metrics)]
            assert len(set(names)) == len(names)


def test_a_name_is_the_column_without_its_unit() -> None:
    names = [quantity.name for quantity in quantities.quantities() if quantity.unit]
    parts = ["latency_train_forward", "latency_backward", "latency_optimizer"]
    judged = ["latency_forward", "latency_train_step", "peak_memory_forward", "peak_memory_train"]
    energy = ["energy_forward", "energy_train_step"]
    assert names == [*judged[:2], *parts, "latency_token", "state", *judged[2:], *energy]
    assert not set(energy) & quantities.judged().keys()
    assert not set(parts) & quantities.judged().keys()
    assert of_metric("rel_l2", METRICS["rel_l2"]).name == "rel_l2"
