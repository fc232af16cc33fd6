"""The store of a history: nothing is lost, changed or counted twice, and foreign files do no harm."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from made_history import kept
from made_results import Folder
from pyarrow import parquet

from attn_bench.errors import UserError
from attn_bench.history.kept import History, of_results
from attn_bench.results.store import Store

ONE, TWO = "1" * 40, "2" * 40


def test_what_is_added_is_read(tmp_path: Path):
    rows = [kept(ONE, 10.0), kept(ONE, 11.0, seed=1), kept(ONE, 9.0, "Other CPU", dirty=True)]
    assert len(History(tmp_path).add(rows)) == 2  # one for each machine
    found = {each.run: each for each in History(tmp_path).read()}
    assert found == {each.run: each for each in rows}


def test_the_same_results_are_there_once_and_new_ones_are_added(tmp_path: Path):
    history = History(tmp_path)
    history.add([kept(ONE, 10.0)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert history.add([kept(ONE, 10.0)]) == []
    (new,) = history.add([kept(ONE, 10.0), kept(ONE, 10.5)])  # measured again: both are kept
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path != new} == before
    assert len(history.read()) == 2
    history.add([kept(TWO, 10.0)])
    assert len(history.read()) == 3


def test_writers_at_once_lose_nothing(tmp_path: Path):
    rows = [kept(ONE, 10.0 + i) for i in range(8)]
    threads = [threading.Thread(target=History(tmp_path).add, args=([row, rows[0]],)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.run for each in History(tmp_path).read()} == {each.run for each in rows}
    assert all(path.suffix == ".parquet" for path in tmp_path.iterdir())


def test_damaged_and_foreign_files_are_skipped_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (whole,) = History(tmp_path).add([kept(ONE)])
    (tmp_path / f"damaged-{whole.name}").write_bytes(whole.read_bytes()[:-40])
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    (tmp_path / "README.md").write_text("a page")
    assert len(History(tmp_path).read()) == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert any("foreign.parquet: skipped, not of a history" in line for line in said)


@pytest.mark.parametrize("changed", [{"revision": "main"}, {"record": "{}"}, {"environment": "[1]"}, {"record": "{"}])
def test_a_row_that_is_not_one_is_skipped(tmp_path: Path, changed: dict[str, str]):
    (path,) = History(tmp_path).add([kept(ONE)])
    table = parquet.read_table(path)
    for name, value in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array([value]))
    parquet.write_table(table, path)
    with pytest.raises(UserError, match="no history in it"):
        History(tmp_path).read()


def test_a_newer_store_is_refused(tmp_path: Path):
    (path,) = History(tmp_path).add([kept(ONE)])
    table = parquet.read_table(path)
    parquet.write_table(table.replace_schema_metadata({b"attn_bench.history": b"9"}), path)
    with pytest.raises(UserError, match="newer version of attn-bench"):
        History(tmp_path).read()


def test_wrong_folders_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder; 'attn-bench history add"):
        History(tmp_path / "none").read()
    Folder(tmp_path / "results").add("mano", 16)
    with pytest.raises(UserError, match="is a results folder"):
        History(tmp_path / "results")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        History(tmp_path / "file")


def test_results_without_a_latency_are_refused(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.add("mano", 16, status="oom", error="too large")
    with pytest.raises(UserError, match="no cell has a latency to keep"):
        of_results(Store.open(tmp_path))


def test_samples_are_left_out(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.add("mano", 16)
    folder.add("mano", 32, status="crashed", error="boom")
    (row,) = of_results(Store.open(tmp_path))
    assert row.record.latency["forward"].samples_ms == ()
    assert row.record.latency["forward"].median_ms > 0
