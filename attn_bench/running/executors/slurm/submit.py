"""Submits cells as job arrays."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from json import dumps
from typing import Any

from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.running.executors.slurm.resources import parameters_of
from attn_bench.running.executors.slurm.states import ask
from attn_bench.running.executors.slurm.submissions import Submission
from attn_bench.running.executors.slurm.task import Task
from attn_bench.running.work import Frontier, Work
from attn_bench.sweep.cell import Cell

# Slurm's own default.
_ARRAY_SIZE = 1001
# What submitit sets where nothing is said, and we do not.
_UNSET: Mapping[str, Any] = {"wckey": None}


def check_installed() -> None:
    """Raise UserError unless jobs can be submitted from here."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--executor slurm needs submitit; install it with: pip install 'attn-bench[slurm]'")
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise UserError(f"--executor slurm: {program} was not found; run this on a machine of the cluster")


def submit(work: Work, cells: Sequence[Cell]) -> list[Submission]:
    """Submit cells of some work, those that need the same in arrays, and return what was submitted.

    Raises:
        UserError: Slurm refuses.
    """
    running = work.running
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        parameters = parameters_of(cell, running.slurm, running.resources)
        groups.setdefault(dumps(parameters, sort_keys=True, default=str), []).append(cell)
    largest, frontier = largest_array(), Frontier.of(work)
    found = []
    for group in groups.values():
        chunks = list(_batched(group, running.cells_per_job))
        for array in _batched(chunks, largest):
            parameters = parameters_of(group[0], running.slurm, running.resources)
            found.append(_submit(work, Submission.of(work, array, time.time(), frontier), parameters))
    return found


def _submit(work: Work, submission: Submission, parameters: Mapping[str, Any]) -> Submission:
    store = work.store
    # Before Slurm knows of it: whoever looks finds the jobs by their name.
    submission.write(store)
    folder = store.folder.absolute()
    path = submission.path(store).absolute()
    tasks = [Task(str(folder), str(path), index) for index in range(len(submission.tasks))]
    try:
        job = _ask_submitit(submission, str(submission.files(store).absolute()), tasks, parameters)
    except BaseException:
        submission.discard(store)
        raise
    submission = replace(submission, job=job)
    submission.write(store)
    return submission


def _ask_submitit(submission: Submission, folder: str, tasks: Sequence[Task], parameters: Mapping[str, Any]) -> str:
    """Have submitit submit tasks; return the id of the job, or of the array."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    given = dict(parameters)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=int(given.pop("max_num_timeout", 0)))
    known = {name: given.pop(name) for name in list(given) if name in executor._valid_parameters()}
    for name in ("setup", "teardown", "srun_args"):
        if isinstance(known.get(name), str):
            known[name] = [known[name]]
    others = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    try:
        # It prints what sbatch says, which is said below.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            executor.update_parameters(**{**_UNSET, **known}, job_name=submission.name, additional_parameters=others)
            jobs = executor.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError, ValueError) as error:
        raise UserError(f"--slurm: Slurm refuses the jobs ({_said(error)})") from None
    return str(jobs[0].job_id).partition("_")[0]


def _said(error: Exception) -> str:
    """Return what sbatch said, without what submitit says around it."""
    lines = [line for line in str(error).splitlines() if "sbatch: error:" in line]
    return clean("; ".join(line.partition("error:")[2].strip() for line in lines) or str(error), 500)


def largest_array() -> int:
    """Return how many tasks an array may have."""
    said = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "")
    return max(1, (int(said[1]) if said else _ARRAY_SIZE) - 1)


def _batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
