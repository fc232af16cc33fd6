"""Folders are joined without losing, doubling or mixing anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_results import ENVIRONMENT, Folder

import attn_bench
from attn_bench.cli.app import call
from attn_bench.errors import UserError
from attn_bench.results.joining import join
from attn_bench.results.store import Store

OTHER = ENVIRONMENT | {"device_name": "Another CPU"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Folder, Folder, Path]:
    return Folder(tmp_path / "a"), Folder(tmp_path / "b", environment=OTHER), tmp_path / "c"


def test_cells_of_both_are_there_once_each_with_where_it_ran(folders):
    a, b, out = folders
    a.add("mano", 16, fields=True)
    a.add("mano", 32)
    b.add("fno", 16, fields=True)
    joined = join([a.store.folder, b.store.folder], out)
    assert (joined.cells, joined.repeated, joined.conflicts, joined.unusable) == (3, 0, [], [])
    assert joined.taken == {a.store.folder: 2, b.store.folder: 1}
    table = attn_bench.load(out)
    assert dict(zip(table.model, table.device_name)) == {"mano": "Some CPU", "fno": "Another CPU"}
    assert table.environment.nunique() == 2
    assert {path.name for path in out.glob("artifacts/*")} == {
        path.name for folder in (a, b) for path in folder.store.folder.glob("artifacts/*")
    }
    assert table.equals(Store(out).table())
    assert (out / "table.parquet").exists()
    # Again, nothing changes; and the order does not matter.
    again = join([b.store.folder, a.store.folder], out)
    assert (again.cells, again.repeated, again.conflicts) == (3, 3, [])
    assert set(again.taken.values()) == {0}
    assert attn_bench.load(out).equals(table)


def test_conflicts_are_named_and_the_better_record_is_kept(folders, capsys):
    a, b, out = folders
    for folder, status, error in ((a, "oom", "12 GiB"), (b, "ok", None)):
        folder.add("mano", 16, status=status, error=error, fields=status == "ok")
        folder.add("same", 16, status="oom", error="12 GiB")
        folder.add("fno", 16)
    (fno,) = (record for record in b.store.each() if record.cell.model == "fno")
    b.store.write(replace(fno, started="2027-01-01T00:00:00+00:00", parameters=7))
    assert call(["merge", str(a.store.folder), str(b.store.folder), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept_b = f"kept that of {b.store.folder}"
    assert [line for line in lines if "(mano at 16, seed 0): ok of" in line and kept_b in line]
    assert [line for line in lines if "(fno at 16, seed 0)" in line and kept_b in line]
    assert lines[-1].startswith(f"{out}: 3 cells, 3 from {a.store.folder}, 2 from {b.store.folder}")
    assert lines[-1].endswith("3 with different records")
    kept = {record.cell.model: record for record in Store(out).each()}
    assert (kept["mano"].status, kept["fno"].parameters) == ("ok", 7)
    assert len(list(out.glob("artifacts/*"))) == 1
    # The other way round the same are kept.
    join([b.store.folder, a.store.folder], out.with_name("d"))
    assert {record.cell.model: record.status for record in Store(out.with_name("d")).each()} == {
        "mano": "ok", "same": "oom", "fno": "ok"
    }  # fmt: skip


def test_weights_come_along(folders):
    a, b, out = folders
    a.add("mano", 16)
    (record,) = a.store.each()
    a.store.path("weights", record.id).parent.mkdir()
    a.store.path("weights", record.id).write_bytes(b"weights")
    b.add("fno", 16)
    join([a.store.folder, b.store.folder], out)
    assert Store(out).path("weights", record.id).read_bytes() == b"weights"


def test_it_joins_into_one_of_them(folders):
    a, b, _ = folders
    a.add("mano", 16)
    b.add("fno", 16)
    joined = join([a.store.folder, b.store.folder], a.store.folder)
    assert (joined.cells, joined.taken) == (2, {a.store.folder: 0, b.store.folder: 1})
    assert len(attn_bench.load(a.store.folder)) == 2


def test_what_cannot_be_joined_is_refused_in_a_line(folders, tmp_path):
    a, b, out = folders
    a.add("mano", 16)
    b.add("fno", 16)
    next(b.store.folder.glob("cells/*")).write_text("{")
    joined = join([a.store.folder, b.store.folder], out)
    assert joined.cells == 1
    (line,) = joined.unusable
    assert line.endswith("not a valid record, left out")
    with pytest.raises(UserError, match="no such folder"):
        join([a.store.folder, tmp_path / "nowhere"], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_folders_of_several_tasks_are_joined(folders, tmp_path):
    a, _, out = folders
    a.add("mano", 16)
    text = Folder(tmp_path / "text", "text")
    text.add("mano", 16)
    assert join([a.store.folder, text.store.folder], out).cells == 2
    assert list(Store(out).run_info().tasks) == ["darcy", "text"]
    assert set(attn_bench.load(out)["task"]) == {"darcy", "text"}
