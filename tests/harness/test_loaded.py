"""A cell notices that it did not run the code of its sweep's fingerprint."""

from __future__ import annotations

import sys

import pytest

from attn_bench import fingerprint
from attn_bench.fingerprint import HARNESS, Source, harness
from attn_bench.loaded import AnotherCopy, check_loaded


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
