"""Files are written whole with the user's mode, and read without trust."""

from __future__ import annotations

import json
import os
import stat
import tempfile

import pytest

from attn_bench.files import atomic_write, read_json, read_yaml, write_json


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_is_what_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "new" / "file.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "file.json").stat().st_mode) == mode


def test_what_a_plugin_patches_does_not_reach_what_is_written(tmp_path, monkeypatch):
    def corrupt(*args, **kwargs):
        return "{}"

    monkeypatch.setattr(json, "dumps", corrupt)
    monkeypatch.setattr(json, "loads", corrupt)
    monkeypatch.setattr(os, "replace", corrupt)
    monkeypatch.setattr(os, "urandom", lambda size: b"same")
    monkeypatch.setattr(tempfile, "mkstemp", corrupt)
    write_json(tmp_path / "file.json", {"a": [1, float("nan")]})
    assert read_json(tmp_path / "file.json", 1 << 20) == {"a": [1, None]}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("\u00fc" * 125 + ".json")
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "file.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "file.json", {})
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "file.json").is_symlink()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "Expecting"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"[" * 50_000 + b"]" * 50_000, "nested too deeply"),
        (b" " * ((1 << 20) + 1), "larger than 1 MiB"),
        (b"1" * 5000, "Exceeds the limit"),
    ],
)
def test_unfit_json_raises_a_value_error(tmp_path, content, why):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_json(tmp_path / "file.json", 1 << 20)


def test_paths_that_are_not_files_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path / "pipe.json", 1 << 20)
    with pytest.raises(OSError, match="directory"):
        read_json(tmp_path, 1 << 20)
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "marked.json", 1 << 20) == {}


def test_a_key_given_twice_in_a_yaml_file_is_named_with_both_lines(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("task: darcy\noptions:\n  mano: {dim: 8}\n  'mano': {dim: 9}\n")
    with pytest.raises(ValueError, match=r"^mano is given twice, in line 3 and in line 4$"):
        read_yaml(path)


def test_yaml_merge_keys_are_not_repetitions(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: [*a, *b], y: 4}\n1: {1: 2, '1': 3}\n")
    found = read_yaml(path)
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 4}, 1: {1: 2, "1": 3}}
