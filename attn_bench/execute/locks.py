"""Locks on cells, so that runners on one folder neither repeat nor disturb each other's.

A lock goes with the process that holds it. Each cell has two: its runner holds one, and the fork server the other for
as long as the cell's process lives, which can be a moment longer than the runner where that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from attn_bench.files import disk_errors


def runner_lock(folder: Path, cell_id: str) -> Path:
    """Return the file whose lock the runner of a cell holds."""
    return folder / "locks" / cell_id


def process_lock(folder: Path, cell_id: str) -> Path:
    """Return the file that is locked while the process of a cell lives."""
    return folder / "locks" / f"{cell_id}.process"


@contextlib.contextmanager
def hold(path: Path, *, wait: bool) -> Iterator[IO[str] | None]:
    """Hold the lock of ``path`` in the block: give the file, or None if another process has it and ``wait`` is off.

    Raises:
        DiskError: the file cannot be made.
    """
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield file
