"""Folders to build from, with a revision of a git repository or with its current work tree.

Git runs with messages in English, without hooks, and without the variables by which a calling hook would point it at
another repository. The leftovers of a killed run in the repository are removed by the next run.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.lease import hold
from attn_bench.running.processes import kill_tree

PREFIX = "attn-bench-ab-"
SOURCE, LEASE = "source", "lease"
# As listed by ``git rev-parse --local-env-vars``, except those with settings, such as trusted folders.
_LOCAL = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
    *("GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_CONFIG", "GIT_CEILING_DIRECTORIES"),
)
_SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "advice.detachedHead=false", "gc.auto=0")
SUGGESTED = 0.6


def surroundings() -> dict[str, str]:
    """Return the environment of git and of builds that use it."""
    kept = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    return {**kept, "LC_ALL": "C", "LANGUAGE": "", "GIT_TERMINAL_PROMPT": "0"}


def run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command to completion; when interrupted, end it and everything it started."""
    # In its own session, so that Ctrl-C does not interrupt the cleanup.
    process = subprocess.Popen(
        command, cwd=folder, env=surroundings(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate()
    except BaseException:
        kill_tree(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


class Repository:
    """The git repository that a folder is in.

    Attributes:
        root: top of the work tree.

    Raises:
        UserError: there is none, it has no work tree, or git does not trust its owner.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"--repository {folder}: no such folder")
        self.folder = folder.resolve()
        inside = self._try(self.folder, "rev-parse", "--is-inside-work-tree")
        if inside.returncode:
            raise self._refused(inside)
        if inside.stdout.strip() != b"true":
            raise UserError(
                f"{self.folder} is in a bare repository, which has no work tree to build from; use a clone of it"
            )
        self.root = Path(self._line("rev-parse", "--show-toplevel", at=self.folder))

    def commit(self, revision: str) -> str:
        """Return the commit that a branch, a tag or a hash names; raises UserError saying how to get it."""
        arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = self._try(self.root, *arguments) if revision and "\0" not in revision else None
        if found is not None and not found.returncode:
            return os.fsdecode(found.stdout).strip()
        shown = clean(revision, 100) or "''"
        if self._line("rev-parse", "--is-shallow-repository") == "true":
            raise UserError(
                f"no such revision: {shown} is not in this clone, which is shallow; "
                f"fetch it with {self._fetching(revision)}"
            )
        names = self.lines("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes", "refs/tags")
        if not names and self._try(self.root, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
            raise UserError(f"no such revision: {shown}; the repository has no commit yet")
        ends = [name for name in names if name.partition("/")[2] == revision]
        close = ends or difflib.get_close_matches(revision, names, n=1, cutoff=SUGGESTED)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else "name a branch, a tag or a commit; 'git fetch' downloads new ones"
        )
        raise UserError(f"no such revision: {shown}; {hint}")

    def _fetching(self, revision: str) -> str:
        """Return the command that gets a revision that a shallow clone does not have."""
        whole = "'git fetch --unshallow'"
        remote, _, branch = revision.partition("/")
        if not branch or remote not in self.lines("remote"):
            remote, branch = "origin", revision
        # An ancestor or a commit is fetched with the history that contains it.
        if not re.fullmatch(r"[\w./-]+", branch) or re.fullmatch(r"[0-9a-f]{7,64}|HEAD", branch):
            return whole
        # A clone of a single branch fetches another one only with an explicit destination.
        return f"'git fetch {remote} {branch}:refs/remotes/{remote}/{branch}', or the whole history with {whole}"

    def lines(self, *arguments: str) -> list[str]:
        """Return the lines that a git command prints; raises UserError if it fails."""
        return [os.fsdecode(line) for line in self._git(*arguments).split(b"\n") if line]

    def has(self, commit: str) -> bool:
        """Tell whether the repository has a commit, named by its whole hash."""
        hash = re.fullmatch(r"[0-9a-f]{40,64}", commit)
        return hash is not None and not self._try(self.root, "cat-file", "-e", f"{commit}^{{commit}}").returncode

    @contextlib.contextmanager
    def checkout(self, revision: str | None) -> Iterator[Path]:
        """Yield a folder with a revision, or with the current work tree, including uncommitted and untracked files.

        Raises:
            UserError: there is no such revision, or the folder cannot be written.
        """
        commit = None
        if revision is not None or self._has_commits():
            commit = self.commit("HEAD" if revision is None else revision)
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)))
            stack.enter_context(hold(folder / LEASE / "ab", wait=False))
            source = folder / SOURCE
            if commit is None:
                source.mkdir()
            else:
                # Before it is created, as that may be interrupted.
                stack.callback(self._remove, source)
                self._git("worktree", "add", "--detach", "--quiet", str(source), commit)
                self._add_submodules(source, commit, lenient=revision is None)
            if revision is None:
                self._copy_work_tree(source)
            yield source

    def remove_leftovers(self) -> None:
        """Remove the worktrees of killed runs whose processes are known to have ended."""
        for entry in self._entries():
            source = self._place(entry)
            if source is None or source.name != SOURCE or not source.parent.name.startswith(PREFIX):
                continue
            with contextlib.ExitStack() as stack:
                gone = not source.parent.exists()
                with contextlib.suppress(UserError):
                    gone = gone or stack.enter_context(hold(source.parent / LEASE / "ab", wait=False))
                if gone:
                    self._remove(source)
            if gone:
                shutil.rmtree(source.parent, ignore_errors=True)

    def _has_commits(self) -> bool:
        return not self._try(self.root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").returncode

    def _add_submodules(self, source: Path, commit: str, *, lenient: bool) -> None:
        """Check out the submodules that exist here at the commits recorded in a revision."""
        for line in self._git("ls-tree", "-r", "-z", commit).split(b"\0"):
            about, _, path = line.partition(b"\t")
            if not about.startswith(b"160000 "):
                continue
            place, there = os.fsdecode(path), about.split()[2].decode()
            if not (self.root / place / ".git").exists():
                continue  # not checked out here either
            packed = self._try(self.root / place, "archive", "--format=tar", there)
            if packed.returncode and not lenient:
                raise UserError(
                    f"submodule {clean(place)}: commit {there[:12]} is missing; fetch it with "
                    f"'git -C {shlex.quote(place)} fetch'"
                )
            if not packed.returncode:
                with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
                    archive.extractall(source / place, filter="data")

    def _copy_work_tree(self, source: Path) -> None:
        """Copy the work tree to ``source``, so that building leaves nothing in the user's folders."""
        for name in filter(None, self._git("ls-files", "-z", "--deleted").split(b"\0")):
            with contextlib.suppress(OSError):
                (source / os.fsdecode(name)).unlink()
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        environments: set[Path] = set()
        for name in filter(None, dict.fromkeys(listed.split(b"\0"))):
            path = Path(os.fsdecode(name))
            if _in_environment(self.root, path, environments):
                continue
            given, taken = self.root / path, source / path
            try:
                if given.is_dir() and not given.is_symlink():
                    shutil.copytree(given, taken, symlinks=True, dirs_exist_ok=True, ignore=_git_folders)
                elif given.is_symlink() or given.is_file():
                    taken.parent.mkdir(parents=True, exist_ok=True)
                    taken.unlink(missing_ok=True)
                    shutil.copy2(given, taken, follow_symlinks=False)
            except (OSError, shutil.Error) as error:
                raise UserError(f"{given}: cannot be copied to be built ({clean(str(error))})") from None

    def _remove(self, source: Path) -> None:
        """Remove a worktree from the repository, even an incomplete one."""
        self._try(self.root, "worktree", "remove", "--force", "--force", str(source))
        for entry in self._entries():
            if self._place(entry) == source:
                shutil.rmtree(entry, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._worktrees().rmdir()  # if it was the last

    def _worktrees(self) -> Path:
        return self.root / self._line("rev-parse", "--git-common-dir") / "worktrees"

    def _entries(self) -> list[Path]:
        """Return the folder in which the repository stores information about each worktree."""
        folder = self._worktrees()
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _place(self, entry: Path) -> Path | None:
        """Return the folder of a worktree."""
        try:
            return Path(os.fsdecode((entry / "gitdir").read_bytes()).removesuffix("\n")).parent
        except OSError:
            return None

    def _line(self, *arguments: str, at: Path | None = None) -> str:
        # Not strip(): a path may end with a space.
        return os.fsdecode(self._git(*arguments, at=at)).removesuffix("\n")

    def _git(self, *arguments: str, at: Path | None = None) -> bytes:
        done = self._try(at or self.root, *arguments)
        if done.returncode:
            raise self._refused(done)
        return done.stdout

    def _try(self, at: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        try:
            return run(["git", "-C", str(at), *settings, *arguments])
        except FileNotFoundError:
            raise UserError("git is not installed; it is needed to get the revisions") from None
        except OSError as error:
            raise UserError(f"git cannot be started ({error.strerror})") from None

    def _refused(self, done: subprocess.CompletedProcess[bytes]) -> UserError:
        said = os.fsdecode(done.stderr)
        if "dubious ownership" in said:
            folder = _owned(said) or str(self.folder)
            return UserError(
                f"git: {folder} belongs to another user, so git does not read it; if you trust it, run "
                f"git config --global --add safe.directory {shlex.quote(folder)}"
            )
        if "not a git repository" in said:
            return UserError(f"{self.folder} is not a git repository; name a folder of the project with --repository")
        lines = [line for line in said.strip().splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
        return UserError(f"git: {clean('; '.join(reasons)) or f'it ended with exit status {done.returncode}'}")


def _owned(said: str) -> str:
    """Return the folder that git says belongs to another user."""
    return said.partition("dubious ownership in repository at '")[2].partition("'\n")[0].removesuffix("'").strip()


def _git_folders(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == ".git"]


def _in_environment(root: Path, path: Path, known: set[Path]) -> bool:
    """Tell whether a file belongs to a virtual environment in the work tree, which is not built."""
    for parent in path.parents:
        if parent in known:
            return True
        if parent.name and (root / parent / "pyvenv.cfg").is_file():
            known.add(parent)
            return True
    return False
