"""Builds a revision of a project with pip into a separate folder, and imports plugins from it."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.gate.ab.checkouts import Repository, run

WORKING_TREE = "working tree"
PROJECT_FILES = ("pyproject.toml", "setup.py")
# A line of output of pip, a build backend or Python that says what is wrong.
_ERROR = re.compile(r"(?:ERROR|error|fatal error)\b|[\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b", re.ASCII)
_SUMMARY = re.compile(r"subprocess-exited-with-error|metadata-generation-failed|Failed to build|did not run success")


@contextlib.contextmanager
def built(repository: Path, revision: str | None) -> Iterator[Path]:
    """Build a revision of the project at ``repository``; yield the folder to import it from.

    Args:
        repository: a folder of the project in a git work tree; the project is what the nearest pyproject.toml or
            setup.py at or above it describes, or the whole work tree.
        revision: a branch, tag or commit; None means the current work tree, including uncommitted changes.

    Raises:
        UserError: there is no git repository or no such revision, or it cannot be built.
    """
    where = Repository(repository)
    project = _project(where.folder, where.root)
    name = revision or WORKING_TREE
    with where.checkout(revision) as source, tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        if not any((source / project / name).is_file() for name in PROJECT_FILES):
            raise UserError(f"{name}: {project} has no pyproject.toml or setup.py, so pip cannot build it")
        target = Path(folder) / "built"
        pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = run([*pip, "--no-input", "--target", str(target), str(source / project)], Path(folder))
        if done.returncode:
            if b"No module named pip" in done.stderr:
                raise UserError(f"pip is not installed here; '{sys.executable} -m ensurepip' installs it")
            raise UserError(f"{name}: cannot be built with pip: {_last_meaningful(done)}; full output: {_log(done)}")
        yield target


def _last_meaningful(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the line of pip's output that says what is wrong: the last error, not the advice after it."""
    lines = [line.strip() for line in (done.stdout + b"\n" + done.stderr).decode(errors="replace").splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)] or [f"exit status {done.returncode}"]
    said = [line for line in lines if _ERROR.match(line) and not line.startswith(("note:", "hint:"))]
    # pip's own summary, "subprocess-exited-with-error", names nothing.
    telling = [line for line in said if not _SUMMARY.search(line)] or said or lines
    return clean(telling[-1], 300)


def _log(done: subprocess.CompletedProcess[bytes]) -> Path:
    """Store the whole output of pip, and return the path."""
    handle, name = tempfile.mkstemp(prefix="attn-bench-pip-", suffix=".log")
    with os.fdopen(handle, "wb") as file:
        file.write(done.stdout + done.stderr)
    return Path(name)


def _project(folder: Path, root: Path) -> Path:
    """Return the project that ``folder`` belongs to, relative to ``root``."""
    for parent in (folder, *folder.parents):
        if parent == root or any((parent / name).exists() for name in PROJECT_FILES):
            return parent.relative_to(root)
    return Path()


@contextlib.contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Find and import plugins from ``folder`` first, unless it contains the harness, which is already running."""
    if (folder / "attn_bench").is_dir():
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
