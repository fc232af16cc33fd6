"""Processes that a test started, with all that they started, found by a mark in their environment."""

from __future__ import annotations

import psutil

MARK = "TEST_MARK"


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes, zombies aside, whose environment variable ``TEST_MARK`` is ``mark``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
