"""Which executor runs a sweep."""

from __future__ import annotations

from collections.abc import Collection

from attn_bench.errors import UserError
from attn_bench.running.executors import Executor, sequential, side_by_side
from attn_bench.running.executors.shares import shares_of
from attn_bench.running.executors.slurm import cluster, resources, submit
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running


def executor_of(running: Running, cells: Collection[Cell], parts: Collection[Cell]) -> Executor:
    """Return what runs ``parts`` of ``cells`` as asked.

    Raises:
        UserError: this machine cannot, or settings of one executor are given with another.
    """
    if running.executor == "slurm":
        if running.jobs is not None:
            raise UserError("--jobs is for --executor local; Slurm runs as many jobs as there is room for")
        submit.check_installed()
        resources.check(cells, running.slurm, running.resources)
        return cluster.run
    if running.slurm or running.resources or running.detach:
        given = "--slurm" if running.slurm else "setting resources" if running.resources else "--detach"
        raise UserError(f"{given} is only for --executor slurm")
    if (running.jobs or 1) > 1 and not any(cell.training for cell in cells):
        raise UserError(f"--jobs {running.jobs}: nothing is trained, and what is timed runs alone; leave it out")
    shares = shares_of(parts, running)
    return sequential.run if len(shares) == 1 else side_by_side.executor(shares)


def searches_at_a_time(running: Running, parts: Collection[Cell]) -> int | None:
    """Return for how many models values are chosen at a time before they are trained by them; None for all.

    That is one for each cell that trains at a time, so that no share of the machine waits for long. Jobs of a cluster
    are all submitted at once.
    """
    return None if running.executor == "slurm" else len(shares_of(parts, running))
