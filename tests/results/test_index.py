"""The index of a folder says what its files say, whoever changed them, and whatever was done to the index."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import Folder

from attn_bench.results import index, known
from attn_bench.results.record import Record
from attn_bench.results.store import Store


@pytest.fixture(autouse=True)
def every_folder(monkeypatch):
    """Index folders of any size, and at once."""
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))


def from_files(folder: Path) -> list[Record]:
    """Read each file by itself."""
    paths = (path for path in sorted(folder.glob("cells/*.json")) if not path.name.startswith("."))
    found = []
    for path in paths:
        try:
            record = Record.from_json(json.loads(path.read_text()))
        except ValueError:
            continue
        if record.id == path.stem:
            found.append(record)
    return found


def change(folder: Folder, what: str, number: int) -> None:
    """Change a folder as another process might."""
    paths = sorted(folder.store.folder.glob("cells/*.json"))
    path = paths[number % len(paths)] if paths else None
    if what == "add":
        folder.add(f"model{number % 7}", 16, number)
    elif what == "forget the index":
        (folder.store.folder / index.NAME).unlink(missing_ok=True)
    elif what == "damage the index":
        at = folder.store.folder / index.NAME
        if at.exists():
            content = bytearray(at.read_bytes())
            content[number % len(content)] ^= 0xFF
            at.write_bytes(bytes(content[: -(number % 3)] if number % 3 else content))
    elif path is None:
        return
    elif what == "replace":
        record = folder.store.read(path.stem)
        if record is not None:
            folder.store.write(replace(record, parameters=number))
    elif what == "edit in place":
        text = path.read_text()
        path.write_text(text.replace('"seconds": null', f'"seconds": {number % 10}.25'))
    elif what == "keep the times":
        times = path.stat()
        path.write_text(path.read_text().replace('"ok"', '"no"'))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif what == "remove":
        path.unlink()
    elif what == "break":
        path.write_text(path.read_text()[:-9])
    elif what == "swap":
        other = paths[(number + 1) % len(paths)]
        between = path.with_name(".between")
        path.rename(between)
        other.rename(path)
        between.rename(other)
    elif what == "move the folder":
        moved = folder.store.folder.with_name("moved")
        folder.store.folder.rename(moved)
        shutil.copytree(moved, folder.store.folder)  # with the times of the files
        shutil.rmtree(moved)


CHANGES = [
    "add", "add", "add", "replace", "edit in place", "keep the times", "remove", "break", "swap", "forget the index",
    "damage the index", "move the folder",
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 10**6), st.booleans()), max_size=12))
def test_records_and_table_are_those_of_the_files_after_any_changes(tmp_path_factory, steps):
    folder = Folder(tmp_path_factory.mktemp("f") / "r")
    for number in range(4):
        folder.add("mano", 16, number)
    lasting = Store(folder.store.folder)
    for what, number, look in steps:
        change(folder, what, number)
        if look:
            lasting.each()
            Store(folder.store.folder).each()
    expected = from_files(folder.store.folder)
    assert lasting.each() == expected
    assert Store(folder.store.folder).each() == expected
    for record in expected:
        assert Store(folder.store.folder).read(record.id) == record
    table = Store(folder.store.folder).table()
    (folder.store.folder / index.NAME).unlink(missing_ok=True)
    assert table.equals(Store(folder.store.folder).table())


def test_what_is_indexed_is_not_read_again(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "r")
    for number in range(10):
        folder.add("mano", 16, number)
    Store(tmp_path / "r").each()
    read = []
    monkeypatch.setattr(known, "read_json", lambda path, limit: read.append(path.stem) or json.loads(path.read_text()))
    first = Store(tmp_path / "r")
    assert len(first.each()) == 10
    assert read == []
    folder.add("fno", 16)
    assert len(first.each()) == 11
    assert len(first.each()) == 11
    assert len(read) == 1


def test_what_may_just_have_been_replaced_is_not_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SETTLED_NS", 60 * 10**9)
    folder = Folder(tmp_path / "r")
    for number in range(4):
        folder.add("mano", 16, number)
    Store(tmp_path / "r").each()
    assert index.read(tmp_path / "r") == {}
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 120 * 10**9)
    Store(tmp_path / "r").each()
    assert len(index.read(tmp_path / "r")) == 4


def test_an_index_of_another_version_or_kind_is_not_used(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "r")
    folder.add("mano", 16)
    path = tmp_path / "r" / index.NAME
    Store(tmp_path / "r").each()
    assert len(index.read(tmp_path / "r")) == 1
    with monkeypatch.context() as patch:
        patch.setattr(index, "_version", lambda: b"another")
        assert index.read(tmp_path / "r") == {}
        assert len(Store(tmp_path / "r").each()) == 1
    for content in (b"", b"PAR1", b"x" * 100):
        path.write_bytes(content)
        assert len(Store(tmp_path / "r").each()) == 1
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert len(Store(tmp_path / "r").each()) == 1
    path.unlink()
    path.mkdir()
    assert len(Store(tmp_path / "r").each()) == 1


def test_small_folders_have_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "FEWEST", 3)
    folder = Folder(tmp_path / "r")
    folder.add("mano", 16)
    folder.add("fno", 16)
    Store(tmp_path / "r").table()
    assert not (tmp_path / "r" / index.NAME).exists()
