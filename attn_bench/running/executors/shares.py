"""Shares of this machine for cells that train side by side."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

from attn_bench.errors import UserError
from attn_bench.running.client import Share
from attn_bench.running.memory_room import host_room_mib
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running
from attn_bench.sweep.groups import AUTO

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
# Free memory for each cell that trains, below which fewer train side by side unless --jobs says how many.
MEMORY_EACH_MIB = 4096


def usable_cores() -> list[int]:
    """Return the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_gpus() -> list[str]:
    """Return what names each GPU that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes it."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def shares_of(cells: Collection[Cell], running: Running) -> list[Share]:
    """Return the shares of the machine on which cells train side by side; one, which is all of it, where they do not.

    Raises:
        UserError: there are fewer CPUs or GPUs than jobs, or its CPUs have to serve more threads than there are.
    """
    trained, asked = [cell for cell in cells if cell.training], running.jobs
    if asked == 1 or not trained:
        return [Share()]
    if any(cell.execution.device == "cuda" for cell in cells):
        gpus = usable_gpus()
        _check(asked, len(gpus), "GPU")
        return _of_gpus(gpus[: asked or len(gpus)])
    cores = usable_cores()
    threads = max((cell.execution.threads or 1) for cell in cells)
    jobs = asked or _usual(trained, running, len(cores), threads)
    if jobs == 1:
        return [Share()]
    _check(jobs, len(cores), "CPU")
    shares = _of_cores(cores, jobs)
    if threads > (each := len(cores) // len(shares)):
        raise UserError(
            f"--jobs {jobs} with --threads {threads}: each job has {each} of {len(cores)} CPUs; "
            f"use --jobs {max(1, len(cores) // threads)} or --threads {each}"
        )
    return shares


def _usual(trained: Collection[Cell], running: Running, cores: int, threads: int) -> int:
    """Return how many cells train side by side on CPUs where nobody says: as many as keep all of them busy.

    One thread does more work for each CPU than several that wait for one another. Cells train one at a time where a
    share of the machine would change a result: a budget or a limit in seconds, or the batch size that memory allows.
    """
    depend = [cell for cell in trained if _in_seconds(cell) or cell.execution.batch_size == AUTO]
    if running.timeout is not None or depend:
        return 1
    given = os.environ.get(THREADS, "")
    threads = max(threads, int(given) if given.isdecimal() else 1)
    return max(1, min(len(trained), cores // threads, int(host_room_mib(0, None, 1.0) // MEMORY_EACH_MIB)))


def _in_seconds(cell: Cell) -> bool:
    return cell.training is not None and cell.training.budget_unit == "seconds"


def _check(jobs: int | None, there: int, what: str) -> None:
    if jobs is not None and jobs > there:
        raise UserError(f"--jobs {jobs}: must be <= {there}, as {there} {what}{'s' * (there != 1)} can be used here")


def _of_cores(cores: Sequence[int], jobs: int) -> list[Share]:
    """Divide CPUs into ``jobs`` shares of the same size, each of neighbors; what is left over is not used."""
    size = len(cores) // jobs
    threads = {} if os.environ.get(THREADS) else {THREADS: str(size)}
    return [Share(tuple(cores[i * size : (i + 1) * size]), threads, 1 / jobs) for i in range(jobs)]


def _of_gpus(gpus: Sequence[str]) -> list[Share]:
    """Give each GPU to one share, and each the same number of CPUs where there are enough."""
    if len(gpus) == 1:
        return [Share()]
    cores = usable_cores()
    of_cores = _of_cores(cores, len(gpus)) if len(cores) >= len(gpus) else [Share(memory=1 / len(gpus)) for _ in gpus]
    return [replace(share, variables={**share.variables, VISIBLE: gpu}) for share, gpu in zip(of_cores, gpus)]
