"""Repositories with many commits, and histories of them made without measuring anything."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from made_results import ENVIRONMENT, EXECUTION
from repositories import git

from attn_bench.gate.ab.checkouts import surroundings
from attn_bench.history.kept import Kept
from attn_bench.results.environment import Environment
from attn_bench.results.record import Latency, Memory, Record
from attn_bench.sweep.cell import Cell


def repository(folder: Path, commits: int) -> list[str]:
    """Make a repository whose branch main has so many commits, all of one second; return their hashes, oldest first."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "-b", "main")
    stream = "".join(
        f"commit refs/heads/main\ncommitter nobody <nobody@localhost> 1760000000 +0000\n"
        f"data {len(message)}\n{message}\nM 100644 inline file\ndata {len(str(i))}\n{i}\n\n"
        for i in range(commits)
        for message in [f"Change {i} of {commits}"]
    )
    subprocess.run(
        ["git", "-C", str(folder), "fast-import", "--quiet"], input=stream.encode(), check=True, env=surroundings()
    )
    git(folder, "reset", "--quiet", "--hard", "main")
    return git(folder, "rev-list", "--reverse", "--topo-order", "main").split()


def environment(device: str = "Some CPU", **versions: str) -> Environment:
    """Return an environment on a machine of this processor."""
    return Environment.from_json(
        ENVIRONMENT
        | {"device_name": device, "cpu": {**ENVIRONMENT["cpu"], "model": device}, "git": {}}
        | {"versions": {**ENVIRONMENT["versions"], **versions}}
    )


def record(model: str = "mano", resolution: int = 16, ms: float = 10.0, seed: int = 0, **changed: Any) -> Record:
    """Return the record of a cell that was measured: a forward pass of ``ms``, a training step of three times that."""
    cell = Cell(
        model=model, plugin=model, model_version="1", options={}, task="darcy", task_version="1", task_options={},
        resolution=resolution, seed=seed, execution=EXECUTION,
    )  # fmt: skip
    disturbed = changed.pop("disturbed", False)
    forward, step = (Latency(x, 0.98 * x, 1.02 * x, x, x, disturbed=disturbed) for x in (ms, 3 * ms))
    fields = {"environment": "env", "parameters": 1000, "memory": {"forward": Memory(2.0, 3.0)}} | changed
    return Record(cell, "ok", latency={"forward": forward, "train_step": step}, **fields)


def kept(revision: str, ms: float = 10.0, device: str = "Some CPU", *, dirty: bool = False, **changed: Any) -> Kept:
    """Return one record of a revision."""
    torch = changed.pop("torch", "2.15.0")
    return Kept(revision, dirty, record(ms=ms, **changed), environment(device, torch=torch))
