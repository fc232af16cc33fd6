"""A Slurm of two nodes for the tests that need one, and programs that speak like Slurm for those that do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("cluster.sh")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Start two nodes and have the commands of this session talk to them; skip where that cannot be done."""
    pytest.importorskip("submitit", reason="the Slurm executor needs submitit (attn-bench[slurm])")
    # Not below pytest's own folder, which slurmd's users could not enter.
    folder = Path(tempfile.mkdtemp(prefix="attn-bench-slurm-"))
    with (folder / "start.log").open("wb") as log:
        started = subprocess.run(["sh", SCRIPT, "start", folder], stdout=log, stderr=log, timeout=600, check=False)
    said = (folder / "start.log").read_text(errors="replace").strip()
    if started.returncode == 3:
        shutil.rmtree(folder)
        pytest.skip(said.splitlines()[-1])
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        assert started.returncode == 0, said
        yield folder
    finally:
        subprocess.run(["sh", SCRIPT, "stop", folder], capture_output=True, timeout=60, check=False)
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what has programs of Slurm print something; one that is not told to says nothing and fails."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def say(program: str, text: str | None) -> None:
        file = folder / program
        said = "exit 1" if text is None else f"cat <<'END'\n{text}\nEND"
        file.write_text(f'#!/bin/sh\necho "$0 $@" >> {folder}/calls\n{said}\n')
        file.chmod(0o755)

    for program in ("squeue", "sacct", "scontrol", "scancel"):
        say(program, None)
    return say
