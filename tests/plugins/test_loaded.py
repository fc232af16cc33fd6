"""A cell notices that it did not run the code of its sweep's fingerprint."""

from __future__ import annotations

import sys

import pytest
from example_plugin import install, model_code

import attn_bench
from attn_bench.plugins import fingerprint
from attn_bench.plugins.fingerprint import HARNESS, Source, harness
from attn_bench.plugins.loaded import AnotherCopy, check_loaded
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.work import due
from attn_bench.sweep import versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package that is imported, and what its fingerprint is of."""
    folder = tmp_path / "ld_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "model.py").write_text("from ld_plugin import part\n")
    (folder / "part.py").write_text("W = 4\n")
    (folder / "more.py").write_text("W = 5\n")
    (folder / "kernel.cpp").write_text("int a;")
    monkeypatch.syspath_prepend(tmp_path)
    expected = fingerprint.sources("ld_plugin.model")
    yield folder, expected
    for name in [name for name in sys.modules if name.startswith("ld_plugin")]:
        del sys.modules[name]


def load(name: str) -> None:
    __import__(name)


def test_the_code_of_the_fingerprint_is_fine_and_comments_are_too(plugin):
    folder, expected = plugin
    load("ld_plugin.model")
    assert check_loaded(expected) == {}
    (folder / "part.py").write_text("# four\nW = 4\n")
    assert check_loaded(expected) == {}


@pytest.mark.parametrize("file", ["part.py", "kernel.cpp"])
def test_an_edit_during_the_sweep_is_noticed(plugin, file):
    folder, expected = plugin
    load("ld_plugin.model")
    (folder / file).write_text("W = 9\n")
    with pytest.raises(AnotherCopy, match=r"was edited while the sweep ran \(.*; run the same command again"):
        check_loaded(expected)


def test_another_copy_is_named_with_both_places(plugin, tmp_path, monkeypatch):
    folder, expected = plugin
    other = tmp_path / "elsewhere" / "ld_plugin"
    other.mkdir(parents=True)
    for file in folder.glob("*.py"):
        (other / file.name).write_text(file.read_text())
    monkeypatch.syspath_prepend(other.parent)
    load("ld_plugin.model")
    assert check_loaded(expected) == {}  # it says the same
    (other / "part.py").write_text("W = 9\n")
    with pytest.raises(AnotherCopy, match=rf"another copy of ld_plugin.part is on the path: {other}.* of {folder}"):
        check_loaded(expected)


def test_what_else_was_imported_of_the_plugin_is_reported(plugin):
    _, expected = plugin
    load("ld_plugin.more")
    assert check_loaded(expected) == {"ld_plugin.more": fingerprint.digest("ld_plugin.more")}


def test_a_module_beside_a_plugin_of_one_file_is_reported(tmp_path, monkeypatch):
    (tmp_path / "ld_single.py").write_text("")
    (tmp_path / "ld_beside.py").write_text("W = 1")
    monkeypatch.syspath_prepend(tmp_path)
    load("ld_beside")
    assert list(check_loaded(fingerprint.sources("ld_single"))) == ["ld_beside"]


def test_another_harness_is_noticed():
    assert check_loaded({HARNESS: harness()}) == {}
    with pytest.raises(AnotherCopy, match="another copy of attn_bench is on the path"):
        check_loaded({HARNESS: Source("", "/elsewhere/attn_bench/__init__.py")})


WRITES = "if options.edit: import ld_helper, pathlib; pathlib.Path(ld_helper.__file__).write_text('WIDTH = 9')"


@pytest.fixture
def edits(tmp_path, monkeypatch):
    """Install the model in a folder of its own and return that."""
    folder = tmp_path / "edits"
    code = model_code(
        "edits",
        top="from ld_helper import WIDTH",
        option="edit: bool = True",
        first=f"{WRITES}\n        import ld_late",
        channels="WIDTH",
    )
    install(folder, "edits", "ld_edits", {"ld_edits": code, "ld_helper": "WIDTH = 4", "ld_late": ""}, monkeypatch)
    yield folder
    for name in ("ld_edits", "ld_helper", "ld_late"):
        sys.modules.pop(name, None)


def cells(**settings) -> list[Cell]:
    given = {"models": ["edits"], "task": "toy-task", "resolutions": [8], "device": "cpu", "measure": False}
    return Sweep.from_settings({**given, **settings}).cells()


def test_an_edited_helper_makes_other_cells_and_other_comments_do_not(edits):
    (before,) = cells()
    (edits / "ld_helper.py").write_text("WIDTH = 4  # four")
    assert cells() == [before]
    (edits / "ld_helper.py").write_text("WIDTH = 5")
    (after,) = cells()
    assert after.id != before.id
    assert Cell.from_json(after.to_request()).sources == after.sources
    assert Cell.from_json(after.to_json()).sources == {}


def test_a_cell_whose_code_was_edited_is_an_error_and_the_next_sweep_runs_it_anew(edits, tmp_path):
    settings = {"resolutions": [8], "steps": 1, "measure": False, "out": tmp_path / "out", "device": "cpu"}
    table = attn_bench.run(["edits", "toy"], "toy-task", **settings)
    assert table.set_index("model")["status"].to_dict() == {"edits": "crashed", "toy": "ok"}
    (error,) = table["error"].dropna()
    assert "ld_helper was edited while the sweep ran" in error
    table = attn_bench.run(["edits"], "toy-task", **settings, options={"edits": {"edit": False}})
    again = table[table["status"] == "ok"].set_index("model")["parameters"]
    assert sorted(again) == [28, 77]


@pytest.mark.parametrize(
    ("values", "edited", "part"),
    [
        ({}, False, "nothing"),
        ({"measured_version": versions.MEASURING}, False, "nothing"),
        ({"measured_version": versions.MEASURING + 1}, False, "measuring"),
        ({"imported": {"ld_late": fingerprint.Source.of("a.py", b"").digest}}, False, "nothing"),
        ({"imported": {"ld_late": fingerprint.Source.of("a.py", b"").digest}}, True, "all"),
        ({"imported": {"ld_gone": "0"}}, False, "all"),
    ],
)
def test_a_record_of_other_code_is_due_again(edits, tmp_path, values, edited, part):
    (cell,) = cells(measure=True)
    store = Store.create(tmp_path / "out")
    store.write(Record(cell, "ok", **values))
    if edited:
        (edits / "ld_late.py").write_text("WIDTH = 1")
    found = due(store, cell, "none")
    assert part == ("nothing" if found is None else "all" if found == cell else "measuring")
    assert part != "measuring" or found.training is None
