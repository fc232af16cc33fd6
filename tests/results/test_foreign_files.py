"""A results folder that came by way of other machines, programs and versions is read as far as it can be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import Folder
from places import ROOT

import attn_bench
from attn_bench.errors import UserError
from attn_bench.report.origin import read_origin
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.validation import plain

SHIPPED = ROOT / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Folder(tmp_path / "r")
    made.add("mano", 16)
    made.add("fno", 16)
    return tmp_path / "r"


def record_of(folder: Path, model: str) -> Path:
    """The file of a model's record."""
    return next(p for p in folder.glob("cells/*.json") if json.loads(p.read_text())["cell"]["model"] == model)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("where", ["cells", "environments", "artifacts", "."])
def test_hidden_files_are_ignored(folder, caplog, where):
    before = attn_bench.load(folder)
    (folder / where).mkdir(exist_ok=True)
    for path in [*(folder / where).glob("*"), folder / where / ".DS_Store"]:
        if path.is_file() or path.name == ".DS_Store":
            (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07Mac OS X\xb0")
    (folder / where / ".hidden.json").mkdir()
    assert attn_bench.load(folder).equals(before)
    Store.create(folder)
    assert not caplog.records


def test_a_folder_with_nothing_but_hidden_files_is_new(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"\x00")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("")
    Store.create(tmp_path)


def broken(path: Path, how: str) -> None:
    """Put something else in the place of a record."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    match how:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to(path.parent / "nothing.json")
        case "loop":
            path.symlink_to(path)
        case "deep":
            path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000, encoding="utf-8")
        case "huge":
            with path.open("wb") as file:
                file.truncate(1 << 30)
        case "newer":
            path.write_text(json.dumps(whole | {"schema": 3, "cell": {"new": "form"}}), encoding="utf-8")
        case "misnamed":
            path.write_text(json.dumps(whole | {"id": "0123456789abcdef"}), encoding="utf-8")
        case "climbing":
            path.write_text(json.dumps(whole | {"environment": "../../../secret"}), encoding="utf-8")
        case "types":
            path.write_text(json.dumps(whole | {"latency": {"forward": {"median_ms": "fast"}}}), encoding="utf-8")
        case "half timed":
            path.write_text(json.dumps(whole | {"latency": {"forward": {"samples_ms": [1.0]}}}), encoding="utf-8")
        case "infinite":
            path.write_text(
                json.dumps(whole).replace('"median_ms": ', '"median_ms": Infinity, "was": '), encoding="utf-8"
            )
        case "negative":
            path.write_text(json.dumps(whole | {"parameters": -1}), encoding="utf-8")
        case "status":
            path.write_text(json.dumps(whole | {"status": "excellent"}), encoding="utf-8")
        case "number":
            path.write_text(json.dumps(whole | {"tokens": 10**400}), encoding="utf-8")
        case "lacking":
            path.write_text(
                json.dumps({key: value for key, value in whole.items() if key != "latency"}), encoding="utf-8"
            )
        case "cell":
            path.write_text(json.dumps(whole | {"cell": whole["cell"] | {"resolution": "16"}}), encoding="utf-8")
        case _:
            path.write_text(how, encoding="utf-8")


BROKEN = ["", "{", "[]", "null", '{"schema": 1}', "\x00" * 100, "directory", "pipe", "dangling", "loop", "deep", "huge"]
BROKEN += [
    "newer",
    "misnamed",
    "climbing",
    "types",
    "half timed",
    "infinite",
    "negative",
    "status",
    "number",
    "lacking",
    "cell",
]


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_record_is_skipped_with_a_line_and_stops_nothing(folder, caplog, how):
    path = record_of(folder, "mano")
    broken(path, how)
    assert attn_bench.load(folder).model.tolist() == ["fno"]
    attn_bench.load(folder)
    lines = caplog.messages
    assert len(lines) == (how != "dangling")  # which is no file at all
    assert all(line.startswith(f"{path}: skipped, ") and "\n" not in line and len(line) < 700 for line in lines)
    if how == "newer":
        assert "written by a newer attn-bench (schema 3, this one reads 2)" in lines[0]


@pytest.mark.parametrize("how", BROKEN)
def test_a_record_in_the_place_of_a_broken_one_keeps_what_was_there(folder, how):
    path = record_of(folder, "mano")
    record = Record.from_json(json.loads(path.read_text()))
    broken(path, how)
    store = Store.open(folder)
    store.write(record)
    assert store.read(record.id) is not None
    assert os.path.lexists(path.with_name(path.name + ".unusable"))
    assert sorted(attn_bench.load(folder).model) == ["fno", "mano"]


def test_a_copy_under_another_name_is_not_a_second_record(folder, caplog):
    path = record_of(folder, "mano")
    copy = path.with_name(f"{path.stem} (conflicted copy).json")
    copy.write_bytes(path.read_bytes())
    assert sorted(attn_bench.load(folder).model) == ["fno", "mano"]
    assert caplog.messages == [f"{copy}: skipped, contains the record of another cell, {path.stem}"]


@pytest.mark.parametrize("text", ["", "[]", '{"cpu": 1}', "[" * 50_000, "pipe"])
def test_a_broken_environment_is_skipped(folder, caplog, text):
    path = folder / "environments" / "env.json"
    path.unlink()
    if text == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(text)
    table = attn_bench.load(folder)
    assert table.device_name.isna().all()
    assert [machine.cells for machine in read_origin(Store(folder)).machines] == [2]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path}: skipped, ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "schema None"),
        ('{"schema": 3}', r"written by a newer attn-bench \(schema 3, this one reads 2\)"),
        ('{"schema": 1}', "cannot be read .tasks: Field required"),
        (
            '{"schema": 1, "task": "darcy", "metrics": {"a": {"direction": "up", "summary": ""}}}',
            "tasks.darcy.a.direction",
        ),
        ('{"schema": 1, "task": "darcy", "metrics": ["rel_l2"]}', "tasks.darcy: "),
        ("[" * 50_000, "nested too deeply"),
        ("pipe", "not a regular file"),
    ],
)
def test_a_broken_run_json_is_one_line(folder, text, why):
    (folder / "run.json").unlink()
    if text == "pipe":
        os.mkfifo(folder / "run.json")
    else:
        (folder / "run.json").write_text(text)
    for use in (attn_bench.load, lambda folder: Store.create(folder)):
        with pytest.raises(UserError, match=why) as caught:
            use(folder)
        assert "\n" not in str(caught.value)


def test_text_of_an_older_version_is_cleaned(folder):
    path = record_of(folder, "mano")
    edit(path, status="crashed", error="lone \udc80 and \x1b[31mred\x00\nline", evaluations=[])
    environment = folder / "environments" / "env.json"
    edit(environment, device_name="a \ud800 \x1b[1mCPU")
    table = attn_bench.load(folder)
    assert table.error.dropna().tolist() == ["lone \N{REPLACEMENT CHARACTER} and red line"]
    assert set(table.device_name) == {"a \N{REPLACEMENT CHARACTER} CPU"}
    Store.open(folder).write_table()


def test_what_an_older_version_could_not_measure_is_missing(folder):
    edit(
        record_of(folder, "mano"),
        schema=1,
        latency={"forward": {"error": "boom"}},
        memory={"forward": {"error": "boom"}},
    )
    table = attn_bench.load(folder).set_index("model")
    assert table.latency_forward_ms.isna().to_dict() == {"mano": True, "fno": False}
    assert table.peak_memory_forward_mib.isna().to_dict() == {"mano": True, "fno": False}
    assert table.missing["mano"] == "latency_forward, peak_memory_forward: boom"


def test_every_shipped_record_is_complete(caplog):
    folders = sorted(path.parent for path in SHIPPED.glob("*/run.json"))
    assert folders
    for folder in folders:
        assert len(attn_bench.load(folder)) >= len(list(folder.glob("cells/*.json")))
        store = Store.open(folder)
        used = {record.environment for record in store.records()} - {None}
        assert used
        assert all(store.environment(id) for id in used)
    assert not caplog.messages


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_anything_a_process_sends_is_a_record_or_a_value_error(data):
    """One field, at any depth, is anything at all."""
    (source,) = SHIPPED.glob("quick/cells/28d48b2c64fb12bf.json")
    values = json.loads(source.read_text())
    inside = values
    while True:
        key = data.draw(st.sampled_from(sorted(inside)))
        if not isinstance(inside[key], dict) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(JSON)
    try:
        record = Record.from_json(values)
    except ValueError as error:
        reason = str(error)
        record = None
    if record is None:
        assert "\n" not in reason
        assert len(reason) < 400
        return
    text = json.dumps(plain(record.to_json()), allow_nan=False)
    assert text.encode().decode()
    assert Record.from_json(json.loads(text)) == record


def test_what_is_not_json_is_refused():
    (source,) = SHIPPED.glob("quick/cells/28d48b2c64fb12bf.json")
    values = json.loads(source.read_text())
    for wrong in (np.float64, object(), {1, 2}, b"bytes", list(range(100_001)), [[[[[[[[[[[[[[]]]]]]]]]]]]]]):
        with pytest.raises(ValueError, match=r"not JSON|entries in one list|nested too deeply"):
            Record.from_json(values | {"data": {"x": wrong}})
    for nothing in (None, [], "text", 1):
        with pytest.raises(ValueError, match="instead of a record"):
            Record.from_json(nothing)
