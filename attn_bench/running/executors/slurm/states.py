"""What Slurm says of jobs."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.results.status import Status

# Seconds that a command may take: slurmctld may be busy, or just being started again.
PATIENCE_S = 60.0
# By state: the status of a cell that it left without a record, and why. A cancelled one gets no record.
_REASONS: Mapping[str, tuple[Status, str]] = {
    "TIMEOUT": ("timeout", "reached its time limit (--slurm time=...)"),
    "DEADLINE": ("timeout", "reached its deadline"),
    "OUT_OF_MEMORY": ("oom", "exceeded its memory (--slurm mem=...)"),
    "NODE_FAIL": ("crashed", "ended because its node failed"),
    "BOOT_FAIL": ("crashed", "was never started: its node did not boot"),
    "PREEMPTED": ("crashed", "was preempted and not requeued"),
    "FAILED": ("crashed", "failed"),
    "COMPLETED": ("crashed", "ended without a record of this cell"),
    "REVOKED": ("crashed", "was revoked"),
    "VANISHED": ("crashed", "is not known to Slurm any more"),
}


# One that is to be requeued may show its end for a moment; and a file system may show a last record late.
_SETTLES_S = {"PREEMPTED": 20.0, "NODE_FAIL": 20.0, "BOOT_FAIL": 20.0, "COMPLETED": 30.0}
# A job in any other state is, or will be, at work.
ENDED = frozenset({*_REASONS, "CANCELLED"})


@dataclass(frozen=True)
class State:
    """The state of a job: its name in Slurm (``RUNNING``, ``TIMEOUT``, ...), its node, and its exit code.

    Attributes:
        exit: ``code:signal`` as Slurm writes it; empty where unknown.
        since: when it ended, in seconds since 1970; 0 where unknown.
    """

    name: str
    node: str = ""
    exit: str = ""
    since: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether it will not run again."""
        return self.name in ENDED and time.time() - self.since > _SETTLES_S.get(self.name, 0.0)

    def failure(self, job: str) -> tuple[Status, str] | None:
        """Return status and reason of a cell that ``job`` left without a record; None if the job was cancelled."""
        if self.name == "CANCELLED":
            return None
        status, what = _REASONS.get(self.name, ("crashed", f"ended as {self.name}"))
        node = f" on {self.node}" if self.node and self.node != "None assigned" else ""
        code, _, signal = self.exit.partition(":")
        how = (
            f" (signal {signal})"
            if signal not in ("", "0")
            else f" (exit code {code})"
            if code not in ("", "0")
            else ""
        )
        return status, f"Slurm job {job}{node} {what}{how if self.name == 'FAILED' else ''}"


def states(names: Iterable[str], jobs: Sequence[str]) -> dict[str, State] | None:
    """Return the state of each known job, by its id (``12_3`` for a task of an array); None if Slurm does not answer.

    Args:
        names: of the jobs.
        jobs: ids of the arrays; a job of another name that has such an id now is not meant.
    """
    named = set(names)
    live = ask("squeue", "-h", "-r", "-a", f"--name={','.join(sorted(named))}", "-o", "%i|%j|%T|%N")
    if live is None:
        return None
    found: dict[str, State] = {}
    # Of jobs that ended a while ago only the accounting knows; where there is none, the controller for some minutes.
    for job, name, state, exit, node, end in _accounted(jobs) if jobs else ():
        if name in named:
            found[job] = State(state, node, exit, _seconds(end))
    for line in live.splitlines():
        job, name, state, node = (*line.strip().split("|"), "", "", "")[:4]
        if name in named:
            found[job] = State(state, node)
    return found


def _accounted(jobs: Sequence[str]) -> Iterable[tuple[str, str, str, str, str, str]]:
    text = ask("sacct", "-n", "-P", "-X", "-o", "JobID,JobName,State,ExitCode,NodeList,End", "-j", ",".join(jobs))
    if text is not None:
        for line in text.splitlines():
            job, name, state, exit, node, end = (*line.split("|"), "", "", "", "", "", "")[:6]
            if "[" not in job:
                yield job, name, state.partition(" ")[0], exit, node, end
        return
    for job in jobs:
        for line in (ask("scontrol", "show", "job", "-o", job) or "").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            task = fields.get("ArrayTaskId")
            id = f"{fields['ArrayJobId']}_{task}" if task else fields.get("JobId", "")
            yield (
                id, fields.get("JobName", ""), fields.get("JobState", ""), fields.get("ExitCode", ""),
                fields.get("NodeList", ""), fields.get("EndTime", ""),
            )  # fmt: skip


def _seconds(end: str) -> float:
    """Return a time as Slurm writes it, of the local zone, in seconds since 1970; 0 where it is none."""
    try:
        return datetime.fromisoformat(end).timestamp()
    except ValueError:
        return 0.0


def ask(*command: str) -> str | None:
    """Return what a command of Slurm prints, or None if it fails."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def cancel(names: Sequence[str]) -> None:
    """Cancel every job with one of these names; raises UserError if Slurm refuses."""
    for name in names:
        command = ("scancel", f"--name={name}")
        try:
            subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S, check=True
            )
        except FileNotFoundError:
            raise UserError("scancel: no such program; cancel on a machine of the cluster") from None
        except subprocess.SubprocessError as error:
            said = clean(str(getattr(error, "stderr", "") or error))
            raise UserError(f"scancel: {said}") from None
