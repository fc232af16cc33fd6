"""The cache holds only whole entries, and damaged ones are not used."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from attn_bench.plugin import DataError
from attn_bench.tasks.shared import cache
from attn_bench.tasks.shared.cache import Entry, cache_folder, exclusive, sha256_of, temporary, users_folder


@pytest.fixture
def entry(tmp_path):
    return Entry(tmp_path, "train-16", {"recipe": "fno", "n": 3}, "make them again")


def test_what_is_stored_is_loaded(entry):
    assert entry.load() is None
    entry.store({"a": np.arange(6).reshape(2, 3), "b": np.ones(2, bool)})
    arrays, manifest = entry.load()
    assert (arrays["a"] == [[0, 1, 2], [3, 4, 5]]).all()
    assert arrays["b"].dtype == bool
    assert manifest["sha256"] == sha256_of(entry.folder / manifest["file"])
    assert manifest["parameters"] == {"recipe": "fno", "n": 3}
    assert sorted(path.suffix for path in entry.folder.iterdir()) == [".json", ".npz"]


def test_other_parameters_are_another_entry(entry, tmp_path):
    entry.store({"a": np.zeros(1)})
    assert Entry(tmp_path, "train-16", {"recipe": "fno", "n": 4}, "").load() is None


def test_storing_again_replaces(entry):
    entry.store({"a": np.zeros(1)})
    entry.store({"a": np.ones(1)})
    assert entry.load()[0]["a"] == 1
    assert len(list(entry.folder.iterdir())) == 2


def data_file(entry):
    return entry.folder / entry.manifest()["file"]


def cut_short(entry):
    path = data_file(entry)
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(entry):
    path = data_file(entry)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_content(entry):
    manifest = json.loads(entry.manifest_path.read_text())
    entry.manifest_path.write_text(json.dumps(manifest | {"parameters": {"recipe": "neuralop"}}))


DAMAGE = [
    cut_short,
    flip_a_bit,
    other_content,
    lambda entry: data_file(entry).unlink(),
    lambda entry: entry.manifest_path.write_text("{"),
    lambda entry: entry.manifest_path.write_text("[]"),
    lambda entry: entry.manifest_path.write_bytes(b"\xff\xfe"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_with_the_remedy_and_can_be_repaired(entry, damage):
    entry.store({"a": np.arange(100)})
    damage(entry)
    with pytest.raises(DataError, match=r"cached data are damaged: \S+train-16.* make them again, or delete") as error:
        entry.load()
    assert "\n" not in str(error.value)
    entry.store({"a": np.arange(100)})
    assert (entry.load()[0]["a"] == np.arange(100)).all()


def test_nothing_is_left_of_a_store_that_fails(entry, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        entry.store({"a": np.zeros(1)})
    assert list(entry.folder.iterdir()) == []


def _store_often(entry, value):
    for _ in range(30):
        entry.store({"a": np.full(2000, value)})


def test_two_writers_leave_a_valid_entry_and_a_reader_never_sees_half_of_one(entry):
    entry.store({"a": np.full(2000, 0)})
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_store_often, args=(entry, value)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    values = set(entry.load()[0]["a"])
    assert len(values) == 1
    assert values <= {1, 2}


@pytest.mark.parametrize("ask", ["manifest", "load"])
def test_an_entry_that_is_replaced_while_it_is_read_is_read_again(entry, monkeypatch, ask):
    entry.store({"a": np.zeros(3)})
    replaced = []

    def replace_first(path):
        if not replaced:
            replaced.append(path)
            entry.store({"a": np.ones(3)})
        return sha256_of(path)

    monkeypatch.setattr(cache, "sha256_of", replace_first)
    manifest = getattr(entry, ask)()
    assert replaced
    assert not replaced[0].exists()
    if ask == "load":
        assert manifest[0]["a"].tolist() == [1, 1, 1]


def test_a_data_file_is_beside_its_manifest(entry, tmp_path):
    entry.store({"a": np.zeros(3)})
    outside = tmp_path.parent / "outside.npz"
    np.savez(outside, a=np.ones(3))
    manifest = json.loads(entry.manifest_path.read_text())
    entry.manifest_path.write_text(json.dumps(manifest | {"file": str(outside), "sha256": sha256_of(outside)}))
    with pytest.raises(DataError, match="cached data are damaged"):
        entry.load()


def test_a_cache_that_can_only_be_read_serves(entry, monkeypatch):
    entry.store({"a": np.arange(3)})

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert entry.load()[0]["a"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"cannot write to the cache .*ATTN_BENCH_CACHE"):
        entry.store({"a": np.arange(3)})


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    assert cache_folder("darcy") == tmp_path / "darcy"
    monkeypatch.delenv("ATTN_BENCH_CACHE")
    assert cache_folder("darcy").parts[-2:] == ("attn-bench", "darcy")


def test_temporary_files_go(tmp_path):
    with temporary(tmp_path, "x") as path:
        path.write_text("x")
    assert list(tmp_path.iterdir()) == []


def _fetch_alone(folder, log):
    with exclusive(folder):
        with log.open("a") as file:
            file.write("begin ")
        time.sleep(0.05)
        with log.open("a") as file:
            file.write("end ")


def test_two_processes_fetch_one_after_the_other(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_fetch_alone, args=(tmp_path / "set", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text().split() == ["begin", "end"] * 3
    assert list((tmp_path / "set").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line_that_names_the_variable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*ATTN_BENCH_CACHE") as error:
        with exclusive(tmp_path / "file/set"):
            pass
    assert "\n" not in str(error.value)


def test_unusable_home_folders_give_one_line_error():
    with pytest.raises(DataError, match="no such home folder: ~no-such-user/x"):
        users_folder("~no-such-user/x")
