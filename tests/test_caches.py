"""The place of the cache: the user's choice, the platform's, or a private folder where there is no home."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from attn_bench import files
from attn_bench.errors import UserError
from attn_bench.files import cache_folder, private_folder, settle_caches

VARIABLES = ("ATTN_BENCH_CACHE", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A process without variables that say where caches are, in an empty folder, with temporary files of its own."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is as before at the end, whatever is set in between
        monkeypatch.delenv(name)
    for name in ("here", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def homeless(bare, monkeypatch):
    """Nor is the user known to the machine."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return bare


def test_a_relative_choice_and_one_below_home_are_made_absolute(bare, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", "mine")
    assert cache_folder("darcy") == bare / "here/mine/darcy"
    monkeypatch.setenv("HOME", str(bare))
    monkeypatch.setenv("ATTN_BENCH_CACHE", "~/mine")
    assert cache_folder("darcy") == bare / "mine/darcy"
    monkeypatch.setenv("ATTN_BENCH_CACHE", " ")
    assert cache_folder("darcy").parts[-2:] == ("attn-bench", "darcy")


@pytest.mark.parametrize("given", ["", "~/cache", "~no-such-user/cache"])
def test_without_a_home_one_line_names_what_to_set(homeless, monkeypatch, given):
    monkeypatch.setenv("ATTN_BENCH_CACHE", given)
    with pytest.raises(UserError, match="ATTN_BENCH_CACHE") as error:
        cache_folder("darcy")
    assert "\n" not in str(error.value)


def test_without_a_home_all_caches_are_in_a_private_folder(homeless):
    settle_caches()
    private = homeless / f"tmp/attn-bench-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700
    assert all(Path(os.environ[name]).is_relative_to(private) for name in VARIABLES[1:])
    assert cache_folder("darcy").is_relative_to(private)
    assert Path("~").expanduser() == private
    assert list((homeless / "here").iterdir()) == []


def test_where_home_cannot_be_written_it_stays_and_caches_are_elsewhere(bare, monkeypatch):
    monkeypatch.setattr(files, "_can_be_written", lambda folder: not folder.is_relative_to("/sealed"))
    monkeypatch.setenv("HOME", "/sealed/me")
    monkeypatch.setenv("MPLCONFIGDIR", "/chosen")
    settle_caches()
    assert os.environ["HOME"] == "/sealed/me"
    assert os.environ["MPLCONFIGDIR"] == "/chosen"
    assert cache_folder("darcy").is_relative_to(bare / "tmp")


def test_nothing_changes_for_a_usual_user(bare, monkeypatch):
    monkeypatch.setenv("HOME", str(bare / "home"))
    settle_caches()
    assert not any(name in os.environ for name in VARIABLES[2:])
    assert list((bare / "tmp").iterdir()) == []
    assert not (bare / "home").exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_private_folder_that_others_can_write_to_is_not_used(bare, mode):
    first = private_folder()
    assert private_folder() == first
    first.chmod(mode)
    other = private_folder()
    assert other != first
    assert other.stat().st_mode & 0o777 == 0o700


def test_a_private_folder_is_neither_a_link_nor_a_file(bare):
    name = bare / f"tmp/attn-bench-{os.getuid()}"
    name.symlink_to(bare / "here")
    assert private_folder() != name
    name.unlink()
    name.write_text("")
    assert private_folder().is_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_private_folder_of_another_user_is_not_used(bare):
    first = private_folder()
    os.chown(first, 54321, 54321)
    assert private_folder() != first


def test_libraries_of_a_user_without_a_home_leave_nothing_behind(tmp_path):
    code = """
import pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
import attn_bench, matplotlib, huggingface_hub.constants, os
print(matplotlib.get_cachedir(), huggingface_hub.constants.HF_HOME, os.path.expanduser("~/.triton"), sep="\\n")
"""
    given = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"TMPDIR": str(tmp_path)}
    (tmp_path / "here").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env=given,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert ended.stderr == ""
    assert all(Path(line).is_relative_to(tmp_path) for line in ended.stdout.splitlines())
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.slow
def test_a_user_without_a_home_runs_and_leaves_only_results(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    )
    (tmp_path / "here").mkdir()
    given = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join([str(tmp_path), given.get("PYTHONPATH", "")])
    given |= {"TMPDIR": str(tmp_path), "PYTHONPATH": path}
    words = "run --models mean --task darcy --resolutions 16 --no-measure --set darcy.n_train=4 --set darcy.n_test=2"
    command = [sys.executable, "-m", "attn_bench", *words.split(), "--out", "x"]
    ended = subprocess.run(command, cwd=tmp_path / "here", env=given, capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    assert "Matplotlib" not in ended.stderr
    assert os.listdir(tmp_path / "here") == ["x"]
    assert list((tmp_path / f"attn-bench-{os.getuid()}/.cache/attn-bench/darcy").iterdir())
