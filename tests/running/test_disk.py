"""A full disk and a read-only folder stop a sweep with one line and cost nothing that was finished."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Done
from command import attn_bench as attn_bench_command

import attn_bench
from attn_bench.errors import DiskError, UserError
from attn_bench.files import atomic_write


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=256k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def words(out: Path, models: str) -> list[str]:
    command = ["run", "--models", models, "--task", "toy-task", "--device", "cpu", "--resolutions", "8"]
    return [*command, "--steps", "1", "--no-measure", "--no-plots", "--out", str(out)]


def run(out: Path, models: str) -> Done:
    return attn_bench_command(*words(out, models))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished cell; copy it."""
    folder = tmp_path_factory.mktemp("finished") / "r"
    assert run(folder, "toy").returncode == 0
    return folder


def fill(folder: Path) -> Path:
    """Leave no room at all."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


def one_line(done: Done | subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("attn-bench: ")]
    assert "cannot write" in error
    assert f"({reason})" in error
    assert "rerun the same command to resume" in error
    assert "Traceback" not in done.stderr


def test_a_full_disk_stops_the_sweep_and_the_same_command_resumes_it(small_disk, finished):
    folder = shutil.copytree(finished, small_disk / "r")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ballast = fill(small_disk)
    one_line(run(folder, "toy,toy:wide"), "No space left on device")
    assert {path: path.read_bytes() for path in before} == before
    assert attn_bench.load(folder).status.tolist() == ["ok"]
    ballast.unlink()
    done = run(folder, "toy,toy:wide")
    assert done.returncode == 0, done.stderr
    assert "[1/1]" not in done.stderr
    assert attn_bench.load(folder).status.tolist() == ["ok", "ok"]
    assert {path: path.read_bytes() for path in before if path.parent.name == "cells"}.items() <= {
        path: path.read_bytes() for path in folder.glob("cells/*")
    }.items()


def test_a_disk_that_fills_up_while_cells_run(tmp_path, finished):
    """No file may grow as large as a record: a cell cannot write its own, and no row is made up in its place."""
    folder = shutil.copytree(finished, tmp_path / "r")
    before = {path: path.read_bytes() for path in folder.glob("cells/*")}
    (size,) = (path.stat().st_size for path in folder.glob("cells/*"))
    assert max(path.stat().st_size for path in folder.glob("*.json")) < size, "run.json has to fit under the limit"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))

    command = [sys.executable, "-m", "attn_bench", *words(folder, "toy,toy:wide")]
    limited = subprocess.run(command, preexec_fn=limit, capture_output=True, encoding="utf-8", timeout=120)
    one_line(limited, "File too large")
    assert {path: path.read_bytes() for path in folder.glob("cells/*")} == before
    assert run(folder, "toy,toy:wide").returncode == 0
    assert attn_bench.load(folder).status.tolist() == ["ok", "ok"]


def test_a_read_only_folder(small_disk, finished):
    folder = shutil.copytree(finished, small_disk / "r")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run(folder, "toy,toy:wide")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"attn-bench: --out {folder}: cannot be written (Read-only file system); name another folder"
    ]
    assert attn_bench.load(folder).status.tolist() == ["ok"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert run(folder, "toy,toy:wide").returncode == 0


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(DiskError, match=r"cannot write .*file \(No space left on device\)$"):
        with atomic_write(path):
            raise OSError(28, os.strerror(28))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert issubclass(DiskError, UserError)
