"""Checkouts of revisions and work trees from repositories in all kinds of states, and their removal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from repositories import git

from attn_bench.errors import UserError
from attn_bench.gate.ab.checkouts import PREFIX, Repository


def made(folder: Path) -> Path:
    """Return a repository with a branch, a tag and two commits."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "-b", "main")
    (folder / "a.py").write_text("A = 1\n")
    (folder / "b.py").write_text("B = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1")
    git(folder, "checkout", "--quiet", "-b", "feature")
    (folder / "a.py").write_text("A = 2\n")
    git(folder, "commit", "--quiet", "-am", "two")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return made(tmp_path / "proj")


def clean(folder: Path) -> bool:
    """Tell whether a repository has no worktree but its own, nothing of one, and no change."""
    listed = git(folder, "worktree", "list", "--porcelain").count("worktree ")
    return listed == 1 and not (folder / ".git" / "worktrees").exists() and not git(folder, "status", "--short")


@pytest.mark.parametrize("revision", ["main", "v1", "HEAD~1"])
def test_a_revision_is_checked_out_and_gone_afterwards(repository: Path, revision: str) -> None:
    with Repository(repository).checkout(revision) as source:
        assert (source / "a.py").read_text() == "A = 1\n"
        assert len(git(repository, "worktree", "list").splitlines()) == 2
    assert not source.parent.exists()
    assert clean(repository)


def test_a_work_tree_is_copied_as_it_is(repository: Path) -> None:
    (repository / "a.py").write_text("A = 3\n")
    (repository / "b.py").unlink()
    (repository / "new folder").mkdir()
    (repository / "new folder" / "dä.py").write_text("D = 1\n")
    (repository / ".gitignore").write_text("data/\n")
    for name, file in (("data", "large.bin"), ("env", "pyvenv.cfg")):
        (repository / name).mkdir()
        (repository / name / file).write_text("")
    (repository / "link").symlink_to("a.py")
    (repository / "gone").symlink_to("nowhere")
    before = git(repository, "status", "--short")
    with Repository(repository).checkout(None) as source:
        assert (source / "a.py").read_text() == "A = 3\n"
        assert not (source / "b.py").exists()
        assert (source / "new folder" / "dä.py").exists()
        assert (source / "link").is_symlink()
        assert (source / "gone").is_symlink()
        assert not (source / "data").exists()
        assert not (source / "env").exists()
        (source / "build").mkdir()  # what a build leaves behind stays here
    assert git(repository, "status", "--short") == before


def test_a_work_tree_without_a_commit_can_be_built(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.py").write_text("")
    with Repository(tmp_path).checkout(None) as source:
        assert (source / "a.py").exists()
    with pytest.raises(UserError, match="no such revision: main; the repository has no commit yet"):
        Repository(tmp_path).commit("main")


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("mian", "no such revision: mian; did you mean 'main'"),
        ("featur", "did you mean 'feature'"),
        ("", "no such revision: ''"),
        ("--all", "no such revision: --all"),
        ("0123456", "no such revision: 0123456; name a branch"),
        ("a\x00b", "no such revision"),
        ("v1\n\x1b[31m", "no such revision: v1"),
    ],
)
def test_an_unknown_revision_is_named_with_existing_ones(repository: Path, revision: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Repository(repository).commit(revision)
    assert "\n" not in str(error.value)


def test_a_branch_of_a_remote_is_suggested(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    with pytest.raises(UserError, match="no such revision: main; did you mean 'origin/main'"):
        Repository(tmp_path / "clone").commit("main")


@pytest.mark.parametrize("revision", ["origin/main", "main"])
def test_a_shallow_clone_says_what_to_fetch(repository: Path, tmp_path: Path, revision: str) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--branch", "feature", f"file://{repository}", "shallow")
    shallow = Repository(tmp_path / "shallow")
    with pytest.raises(UserError, match="is not in this clone, which is shallow") as error:
        shallow.commit(revision)
    assert "'git fetch --unshallow'" in str(error.value)
    command = str(error.value).partition("fetch it with 'git ")[2].partition("'")[0]
    git(tmp_path / "shallow", *command.split())
    assert shallow.commit("origin/main") == git(repository, "rev-parse", "main").strip()


def test_an_ancestor_is_fetched_with_its_history(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--branch", "feature", f"file://{repository}", "shallow")
    with pytest.raises(UserError, match=r"shallow; fetch it with 'git fetch --unshallow'$"):
        Repository(tmp_path / "shallow").commit("HEAD~1")
    git(tmp_path / "shallow", "fetch", "--unshallow")
    assert Repository(tmp_path / "shallow").commit("HEAD~1") == git(repository, "rev-parse", "main").strip()


def test_a_repository_of_another_owner_says_how_to_allow_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaced = repository.rename(repository.with_name("it's a project"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError, match="belongs to another user") as error:
        Repository(spaced)
    command = str(error.value).partition("if you trust it, run ")[2]
    assert command.startswith("git config --global --add safe.directory ")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(spaced))
    assert Repository(spaced).root == spaced  # as a CI may allow it
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    home = repository.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    subprocess.run(command, shell=True, check=True, env=os.environ)
    assert Repository(spaced).root == spaced


def test_no_git_no_repository_and_a_bare_one_are_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "bare", "is in a bare repository, which has no work tree"),
        (repository / ".git", "is in a bare repository, which has no work tree"),
        (tmp_path / "empty", "is not a git repository"),
        (tmp_path / "nowhere", "no such folder"),
    ):
        with pytest.raises(UserError, match=message) as error:
            Repository(folder)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="git is not installed"):
        Repository(repository)


def test_variables_of_a_hook_and_a_language_change_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = made(repository.with_name("other"))
    for name, value in (
        ("GIT_DIR", str(other / ".git")),
        ("GIT_WORK_TREE", str(other)),
        ("GIT_INDEX_FILE", str(other / ".git" / "index.lock")),
        ("GIT_PREFIX", "x/"),
        ("LC_ALL", "de_DE.UTF-8"),
        ("LANGUAGE", "de"),
    ):
        monkeypatch.setenv(name, value)
    found = Repository(repository)
    assert found.root == repository
    with found.checkout("main") as source:
        assert (source / "a.py").read_text() == "A = 1\n"
    with found.checkout(None) as source:
        assert (source / "a.py").read_text() == "A = 2\n"
    assert clean(repository)
    with pytest.raises(UserError, match="not a git repository"):
        Repository(repository.parent)


@pytest.mark.parametrize("name", ["with spaces ", "ünï\u2028cödé", "it's; $(touch x)"])
def test_paths_may_hold_anything(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path / name)
    (folder / "sub folder").mkdir()
    found = Repository(folder / "sub folder")
    assert found.root == folder
    for revision in ("main", None):
        with found.checkout(revision) as source:
            assert (source / "b.py").exists()
    assert clean(folder)


def test_hooks_and_filters_do_not_run_or_are_named(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\nexit 1\n")
    hook.chmod(0o755)
    git(repository, "config", "core.hooksPath", str(hook.parent))
    git(repository, "config", "core.fsmonitor", "false; touch monitored")
    with Repository(repository).checkout("main") as source:
        assert not (source / "hooked").exists()
    assert not (repository / "hooked").exists()
    assert clean(repository)
    (repository / ".gitattributes").write_text("*.py filter=lost\n")
    git(repository, "config", "filter.lost.clean", "cat")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "filtered")
    git(repository, "config", "filter.lost.smudge", "no-such-program")
    git(repository, "config", "filter.lost.required", "true")
    with (
        pytest.raises(UserError, match=r"git: .*smudge filter lost failed") as error,
        Repository(repository).checkout("HEAD"),
    ):
        pass
    assert "\n" not in str(error.value)
    git(repository, "config", "filter.lost.smudge", "cat")
    assert clean(repository)


def test_a_detached_head_and_a_linked_worktree(repository: Path, tmp_path: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach", "HEAD")
    with Repository(repository).checkout("main"), Repository(repository).checkout(None) as source:
        assert (source / "a.py").read_text() == "A = 2\n"
    git(repository, "worktree", "add", "--quiet", str(tmp_path / "linked"), "main")
    with Repository(tmp_path / "linked").checkout(None) as source:
        assert (source / "a.py").read_text() == "A = 1\n"
    assert len(git(repository, "worktree", "list").splitlines()) == 2


def test_submodules_come_along_at_their_commit_or_as_they_are(repository: Path, tmp_path: Path) -> None:
    library = made(tmp_path / "library")
    git(repository, "submodule", "--quiet", "add", str(library), "lib")
    git(repository, "commit", "--quiet", "-m", "with a library")
    (repository / "lib" / "a.py").write_text("A = 'dirty'\n")
    (repository / "lib" / "own.py").write_text("")
    with Repository(repository).checkout("HEAD") as source:
        assert (source / "lib" / "a.py").read_text() == "A = 2\n"
    with Repository(repository).checkout(None) as source:
        assert (source / "lib" / "a.py").read_text() == "A = 'dirty'\n"
        assert (source / "lib" / "own.py").exists()
        assert not (source / "lib" / ".git").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    shutil.rmtree(repository / "lib")  # never fetched here
    (repository / "lib").mkdir()
    with Repository(repository).checkout("HEAD") as source:
        assert not list((source / "lib").iterdir())


HOLDS = """
import sys, time
from pathlib import Path
from attn_bench.gate.ab.checkouts import Repository
from attn_bench.running.processes import interrupt_when_told
interrupt_when_told()
with Repository(Path(sys.argv[1])).checkout("main") as source:
    print(source, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(repository: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to have a checkout."""
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDS, str(repository)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing(repository: Path, holder: subprocess.Popen[str], number: int) -> None:
    assert holder.stdout is not None
    source = Path(holder.stdout.readline().strip())
    assert source.is_dir()
    holder.send_signal(number)
    assert holder.wait(20) != 0
    assert not source.parent.exists()
    assert clean(repository)


def test_a_signal_while_a_worktree_is_made_leaves_nothing(repository: Path) -> None:
    (repository / ".gitattributes").write_text("*.py filter=slow\n")
    git(repository, "config", "filter.slow.clean", "cat")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "filtered")
    git(repository, "branch", "--force", "main")
    started = repository.with_name("started")
    git(repository, "config", "filter.slow.smudge", f"touch {started}; sleep 61.5; cat")
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDS, str(repository)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while not started.exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    git(repository, "config", "filter.slow.smudge", "cat")
    assert clean(repository)
    assert "sleep 61.5" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


def test_leftovers_of_a_killed_run_are_removed_by_the_next(repository: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    source = Path(holder.stdout.readline().strip())
    own = repository.with_name(f"{PREFIX}mine") / "source"
    git(repository, "worktree", "add", "--quiet", "--detach", str(repository.with_name("kept")), "main")
    Repository(repository).remove_leftovers()
    assert source.is_dir()  # its process lives
    holder.kill()
    holder.wait()
    git(repository, "worktree", "lock", str(source))
    Repository(repository).remove_leftovers()
    assert not source.parent.exists()
    assert not own.exists()
    assert [line.split()[0] for line in git(repository, "worktree", "list").splitlines()] == [
        str(repository),
        str(repository.with_name("kept")),
    ]


def test_a_leftover_whose_folder_is_gone_is_removed_too(repository: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    source = Path(holder.stdout.readline().strip())
    holder.kill()
    holder.wait()
    shutil.rmtree(source.parent)
    Repository(repository).remove_leftovers()
    assert clean(repository)
