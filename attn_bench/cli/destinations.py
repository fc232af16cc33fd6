"""Checks of where a command will write, before it does anything that takes time."""

from __future__ import annotations

import os
from pathlib import Path

from attn_bench.errors import UserError


def output_folder(path: Path | None) -> Path | None:
    """Return a folder that a command will write to; raises UserError if it cannot."""
    if path is not None and path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; name a folder to write to")
    if path is not None:
        _check(path)
    return path


def output_file(path: Path | None) -> Path | None:
    """Return a file that a command will write; raises UserError if it cannot."""
    if path is not None and path.is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")
    if path is not None:
        _check(path.parent)
    return path


def _check(folder: Path) -> None:
    """Raise UserError if a folder cannot be written or, if it does not exist, not be created."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path())
    if not there.is_dir():
        raise UserError(f"{folder}: cannot be created, as {there} is a file; name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: cannot be written (permission denied); name another folder")
