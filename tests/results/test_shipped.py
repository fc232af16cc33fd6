"""The results that ship contain no files that only a run needs."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pandas as pd
import pytest
from places import ROOT

from attn_bench import load

LEFTOVER_FOLDERS = {"logs", "leases", "locks", "machines", "slurm"}
LEFTOVER_ENDINGS = {".lock", ".log", ".tmp", ".part", ".pid"}


def is_leftover(path: PurePosixPath) -> bool:
    return bool(LEFTOVER_FOLDERS & set(path.parts[:-1])) or path.suffix in LEFTOVER_ENDINGS


def test_no_leases_locks_or_logs_are_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-z", "results"],
        check=True, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    paths = [PurePosixPath(name) for name in listed.stdout.split("\0") if name]
    assert paths
    assert [path for path in paths if is_leftover(path)] == []


@pytest.mark.parametrize(
    ("path", "leftover"),
    [
        ("results/quick/logs/0f.txt", True),
        ("results/quick/locks/0f", True),
        ("results/quick/leases/0f/held", True),
        ("results/quick/run.lock", True),
        ("results/quick/cells/0f.json", False),
        ("results/quick/table.csv", False),
    ],
)
def test_leftovers_are_recognized(path: str, leftover: bool) -> None:
    assert is_leftover(PurePosixPath(path)) is leftover


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "results").glob("*/run.json")))
def test_every_folder_that_ships_gives_the_table_that_it_came_with(folder: Path) -> None:
    """Whatever version wrote its records: what table.parquet holds is what is read of them now."""
    table, written = load(folder), pd.read_parquet(folder / "table.parquet")
    shared = [name for name in written.columns if name in table.columns]
    assert len(shared) > 30
    pd.testing.assert_frame_equal(table[shared], written[shared], check_exact=True)
