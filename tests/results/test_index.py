"""The index of a folder says what its files say, whoever changed them, and whatever was done to the index."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import Folder
from pandas.testing import assert_frame_equal
from test_merge import cell, record

from attn_bench.results import index, known
from attn_bench.results.brief import Brief
from attn_bench.results.record import Interval, Record, Weights
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
    for each in expected:
        assert Store(folder.store.folder).read(each.id) == each
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
    assert index.read(tmp_path / "r", whole=True) == {}
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 120 * 10**9)
    Store(tmp_path / "r").each()
    assert len(index.read(tmp_path / "r", whole=True)) == 4


def test_an_index_of_another_version_or_kind_is_not_used(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "r")
    folder.add("mano", 16)
    path = tmp_path / "r" / index.NAME
    Store(tmp_path / "r").each()
    assert len(index.read(tmp_path / "r", whole=True)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(index, "_version", lambda: b"another")
        assert index.read(tmp_path / "r", whole=True) == {}
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


def odd_records() -> list[dict[str, Any]]:
    """Records as they are in files, of every kind that a table has a row for."""
    made = record(cell(), 1.0, 1, errors={"latency_backward": 'späte \u2028 "Zeile"', "flops": "x" * 25_000})
    found = [
        made,
        record(cell(seed=1, eval_resolutions=(32, 64), options={"dim": 8, "name": "é"}), 0.1, 2),
        record(cell(seed=2, options={"dim": None}), 1e-320, 3, effective={"threads": 2, "changed_by_model": ["a\nb"]}),
        record(cell(model="m\\odel", resolution=32), 2.0, 4, "oom", error='"none" left\\', environment=None),
        record(cell(task="other", task_options={"n": 1}, measure=False), 5e300, 5, reference=True, imported={"a": "b"}),
        record(cell(weights="0" * 64, eval_resolutions=(128,)), 3.0, 6, weights=Weights("k", "0" * 64, folder="där")),
        # Two of one trained model, which are one row.
        replace(record(cell(seed=7, measure=False), 4.0, 7), id="1" * 16),
        replace(record(cell(seed=7, eval_resolutions=(8,)), 6.0, 8), id="2" * 16),
    ]
    interval = Interval(0.5, None, 0.1, 9)
    found[0] = replace(made, evaluations=(replace(made.evaluations[0], intervals={"rel_l2": interval}),))
    return [json.loads(json.dumps(each.to_json())) for each in found]


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in JSON: the container and the key."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], dict | list):
            yield from places(values[key])


ODD = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=6) | st.just({"a": [1]})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 10**6), ODD), max_size=8))
def test_a_table_from_the_index_is_that_from_the_records(tmp_path_factory, monkeypatch, changed):
    folder, each = Folder(tmp_path_factory.mktemp("f") / "r").store.folder, odd_records()
    for number, place, value in changed:
        container, key = (found := list(places(each[number])))[place % len(found)]
        container[key] = value
    (folder / "cells").mkdir()
    for number, values in enumerate(each):
        name = values.get("id") if re.fullmatch("[0-9a-z]+", str(values.get("id"))) else number
        (folder / "cells" / f"{name}.json").write_text(json.dumps(values))
    with monkeypatch.context() as patch:
        patch.setattr(index, "FEWEST", 10**9)
        expected, briefs = Store(folder).table(), [short.brief for short in Store(folder).shorts()]
    Store(folder).table()
    assert (folder / index.NAME).exists() == bool(Store(folder).each())
    found = Store(folder).table()
    assert_frame_equal(found, expected, check_exact=True)
    for name in expected:
        assert list(map(type, found[name])) == list(map(type, expected[name])), name
    assert [short.brief for short in Store(folder).shorts()] == briefs


def test_a_table_and_a_resumed_run_parse_no_record_that_is_in_the_index(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "r")
    for number in range(3):
        folder.add("mano", 16, number, tested=(32,))
    expected = Store(tmp_path / "r").table()
    parsed = []
    real = Record.from_text.__func__
    monkeypatch.setattr(Record, "from_text", classmethod(lambda cls, text: parsed.append(text) or real(cls, text)))
    assert Store(tmp_path / "r").table().equals(expected)
    assert [short.brief.status for short in Store(tmp_path / "r").each_short().values()] == ["ok"] * 3
    assert parsed == []
    # What is new is read alone, and what else is asked of the records that are in the index.
    folder.add("mano", 16, 3)
    store = Store(tmp_path / "r")
    assert len(store.table()) == 7
    assert len(parsed) == 1
    assert len(store.records()) == 4
    assert len(parsed) == 4


@pytest.mark.parametrize("whose", ["brief", "lines"])
@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "3", "null", '["a"]', "[[]]", '[[1, {"rel_l2": 3}]]', '"\\u001b[31m"', "[" * 10**5, '{"id": "x"}'],
)
def test_an_index_that_is_not_ours_changes_nothing(tmp_path, whose, text):
    """Whoever can write the folder can make the checksums match."""
    folder = Folder(tmp_path / "r")
    folder.add("mano", 16)
    expected = Store(tmp_path / "r").table()
    ((id, of),) = index.read(tmp_path / "r", whole=True).items()
    index.write(tmp_path / "r", {id: of._replace(**{whose: text})})
    assert len(index.read(tmp_path / "r", whole=True)) == 1
    assert Store(tmp_path / "r").table().equals(expected)
    assert Store(tmp_path / "r").short(id).brief == Brief.of(Store(tmp_path / "r").read(id))


def test_small_folders_have_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "FEWEST", 3)
    folder = Folder(tmp_path / "r")
    folder.add("mano", 16)
    folder.add("fno", 16)
    Store(tmp_path / "r").table()
    assert not (tmp_path / "r" / index.NAME).exists()
