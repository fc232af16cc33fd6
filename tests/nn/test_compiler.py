"""What is built is kept, whole, and what somebody else could have written is never run."""

import ctypes
import hashlib
import multiprocessing
import os
import stat
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch

from attn_bench.nn.cpp import compiler
from attn_bench.nn.cpp.compiler import BuildError, build
from mano import MultipoleAttention
from mano.tiled import cpp

OTHER_USER = 54321


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A library with a function that returns ANSWER, and a cache of its own with nothing in it."""
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compiler._own_folder.cache_clear()
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return ANSWER; }\n')
    yield path
    compiler._own_folder.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """Lists the runs of the compiler that build something."""
    runs, run = [], compiler._run

    def spy(command, seconds):
        if "-o" in command:
            runs.append(command)
        return run(command, seconds)

    monkeypatch.setattr(compiler, "_run", spy)
    return runs


def answer(source, value=42):
    return build("answer", [source], [f"-DANSWER={value}"]).answer()


def kernels(source):
    return source.parent / "cache/kernels"


def forged(source, path):
    """Put a library with another answer, with a valid sum, where the right one would be."""
    built = source.with_suffix(".so")
    subprocess.run(["c++", *compiler.FLAGS, "-DANSWER=666", str(source), "-o", str(built)], check=True)
    content = built.read_bytes()
    path.unlink(missing_ok=True)
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    path.chmod(0o644)
    return path


def test_a_library_with_a_valid_sum_in_a_safe_folder_is_loaded(source, compilations):
    # So that the tests below mean something.
    answer(source)
    (kept,) = kernels(source).iterdir()
    forged(source, kept)
    assert answer(source) == 666
    assert len(compilations) == 1


def test_only_the_user_can_read_it_with_any_umask(source, compilations):
    before = os.umask(0)
    try:
        assert answer(source) == 42
    finally:
        os.umask(before)
    (kept,) = kernels(source).iterdir()
    assert kernels(source).stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_mode & 0o777 == 0o644
    assert answer(source) == 42
    assert len(compilations) == 1


def writable_folder(folder, file):
    folder.chmod(0o777)


def group_writable_folder(folder, file):
    folder.chmod(0o770)


def shared_folder(folder, file):
    folder.chmod(0o1777)


def writable_file(folder, file):
    file.chmod(0o666)


def group_writable_file(folder, file):
    file.chmod(0o664)


def linked_file(folder, file):
    file.rename(folder.parent / "elsewhere.so")
    file.symlink_to(folder.parent / "elsewhere.so")


def linked_folder(folder, file):
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def folder_of_another(folder, file):
    os.chown(folder, OTHER_USER, OTHER_USER)


def file_of_another(folder, file):
    os.chown(file, OTHER_USER, OTHER_USER)


def pipe(folder, file):
    file.unlink()
    os.mkfifo(file)


ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(
    "exposed",
    [
        writable_folder,
        group_writable_folder,
        shared_folder,
        writable_file,
        group_writable_file,
        linked_file,
        linked_folder,
        pipe,
        pytest.param(folder_of_another, marks=ROOT),
        pytest.param(file_of_another, marks=ROOT),
    ],
)
def test_what_others_could_have_written_is_not_run(source, compilations, exposed):
    assert answer(source) == 42
    (kept,) = kernels(source).iterdir()
    exposed(kernels(source), forged(source, kept))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(source) == 42
    assert len(compilations) == 2
    found = kernels(source).stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid != os.getuid() or kernels(source).is_symlink():
        assert os.listdir(compiler._own_folder().name), "built in a private folder"


def test_the_checked_file_is_loaded_even_if_its_name_is_reused(source, monkeypatch):
    answer(source)
    (kept,) = kernels(source).iterdir()
    load = compiler._loaded

    def swapped(descriptor):
        forged(source, kept)
        return load(descriptor)

    monkeypatch.setattr(compiler, "_loaded", swapped)
    assert answer(source) == 42


def test_libraries_are_not_mistaken_for_each_other_when_a_descriptor_is_used_again(source):
    for value in (1, 2, 3):
        library = build("answer", [source], [f"-DANSWER={value}"])
        assert library.answer() == value
        _close_last_descriptor()


def _close_last_descriptor():
    """Close the descriptor that the loader holds, as a careless plugin does; the next one gets its number."""
    for entry in sorted(os.listdir("/proc/self/fd"), key=int, reverse=True):
        if os.path.realpath(f"/proc/self/fd/{entry}").endswith(".so"):
            os.close(int(entry))
            return


def test_without_names_for_descriptors_a_copy_is_loaded(source, monkeypatch):
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: not str(self).startswith("/proc") and exists(self))
    assert [answer(source, value) for value in (4, 5)] == [4, 5]
    (copy, _) = sorted(Path(compiler._own_folder().name).iterdir())
    assert ctypes.CDLL(str(copy)).answer() in (4, 5)


@pytest.mark.parametrize("left", [0, 10, 0.5, -1])
def test_a_library_cut_short_is_built_anew(source, compilations, left):
    answer(source)
    (kept,) = kernels(source).iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    assert answer(source) == 42
    assert kept.read_bytes() == content
    assert len(compilations) == 2


def test_a_damaged_library_and_one_that_cannot_be_loaded_are_built_anew(source, compilations):
    answer(source)
    (kept,) = kernels(source).iterdir()
    content = kept.read_bytes()
    kept.write_bytes(bytes(100) + content[100:])
    assert answer(source) == 42
    kept.write_bytes(b"of another machine" + hashlib.sha256(b"of another machine").hexdigest().encode())
    assert answer(source) == 42
    assert kept.read_bytes() == content
    assert len(compilations) == 3


def test_where_nothing_in_the_cache_can_be_run_a_private_folder_is_used(source, monkeypatch):
    load = compiler._loaded

    def refuse(descriptor):
        if os.path.realpath(f"/proc/self/fd/{descriptor}").startswith(str(kernels(source))):
            raise OSError("failed to map segment from shared object")
        return load(descriptor)

    monkeypatch.setattr(compiler, "_loaded", refuse)
    assert answer(source) == 42
    assert len(os.listdir(compiler._own_folder().name)) == 1


def test_a_compiler_that_succeeds_without_a_library(source, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(script(tmp_path, 'while [ "$1" ]; do [ "$1" = -o ] && echo x > "$2"; shift; done')))
    with pytest.raises(BuildError, match=r"invalid ELF header|file too short"):
        answer(source)


def script(folder, text):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def test_a_compiler_that_hangs_is_ended_with_what_it_started(source, monkeypatch, tmp_path):
    hanging = script(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 300 & echo $! >> {tmp_path}/pid; wait")
    monkeypatch.setenv("CXX", str(hanging))
    monkeypatch.setattr(compiler, "PROBE_S", 0.5)
    with pytest.raises(BuildError, match=r"compiler did not end within 0\.5 s"):
        answer(source)
    pids = (tmp_path / "pid").read_text().split()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_compiler_that_hangs_or_fails_is_one_warning_and_torch_computes(monkeypatch, tmp_path):
    torch.manual_seed(0)
    monkeypatch.setenv("CXX", str(script(tmp_path, "sleep 300")))
    monkeypatch.setattr(compiler, "PROBE_S", 0.2)
    for cache in (cpp.library, compiler.warn_without_compiler):
        cache.cache_clear()
    try:
        with pytest.warns(UserWarning, match="did not end within") as said:
            found = [MultipoleAttention(dim)(torch.randn(1, 4, 4, dim)) for dim in (16, 32)]
        assert all(y.isfinite().all() for y in found)
        assert len(said) == 1
    finally:
        for cache in (cpp.library, compiler.warn_without_compiler):
            cache.cache_clear()


def test_without_a_cache_folder_that_is_known_a_private_one_is_used(source, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", "~no-such-user/cache")
    assert answer(source) == 42
    assert os.listdir(compiler._own_folder().name)


def _answered(source, barrier, answers):
    barrier.wait()
    answers.put(answer(Path(source)))


def test_processes_that_build_the_same_at_once_all_get_it(source):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_answered, args=(str(source), barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [42] * 3
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [path.suffix for path in kernels(source).iterdir()] == [".so"]
    assert not list(source.parent.glob("attn-bench-building-*"))
