"""Shares of this machine for cells that train side by side."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

from attn_bench.errors import UserError
from attn_bench.running.client import Share
from attn_bench.sweep.cell import Cell

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


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


def shares_of(cells: Collection[Cell], jobs: int | None) -> list[Share]:
    """Return the shares of the machine on which cells train side by side; one, which is all of it, where they do not.

    Raises:
        UserError: there are fewer CPUs or GPUs than ``jobs``, or its CPUs have to serve more threads than there are.
    """
    on_gpu = any(cell.execution.device == "cuda" for cell in cells)
    if (jobs or 1) == 1 and not (jobs is None and on_gpu):
        return [Share()]
    if not any(cell.training for cell in cells):
        if jobs is None:
            return [Share()]
        raise UserError(f"--jobs {jobs}: nothing is trained, and what is timed runs alone; leave it out")
    if on_gpu:
        gpus = usable_gpus()
        _check(jobs, len(gpus), "GPU")
        return _of_gpus(gpus[: jobs or len(gpus)])
    cores = usable_cores()
    _check(jobs, len(cores), "CPU")
    shares = _of_cores(cores, jobs or 1)
    threads = max((cell.execution.threads or 1) for cell in cells)
    if threads > (each := len(cores) // len(shares)):
        raise UserError(
            f"--jobs {jobs} with --threads {threads}: each job has {each} of {len(cores)} CPUs; "
            f"use --jobs {max(1, len(cores) // threads)} or --threads {each}"
        )
    return shares


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
