"""Conditions that must agree for two records to be comparable: settings, torch flags in effect, hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attn_bench.results.environment import Environment
from attn_bench.results.record import Record

# Settings of a cell that affect training as well as time.
_TRAINED_WITH = {"precision": "precision"}
_MEASURED_WITH = {"device": "device", "compile": "compile"}
# Names in environments of what records call settings in effect; older records have only the environment.
_CALLED = {"float32_matmul_precision": "matmul_precision"}
_KNOWN_TO_ENVIRONMENTS = (
    *("threads", "interop_threads", "cpu_capability", "deterministic", "float32_matmul_precision"),
    *("cudnn_allow_tf32", "cudnn_benchmark"),
)
# Nothing else of this program ran.
ALONE = "alone"
# These request a number of threads; the number in effect is more precise.
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Unlike:
    """Why a record of base and one of new cannot be compared; empty if they can.

    Attributes:
        trained: reasons in the training conditions, so that accuracy cannot be compared either.
        measured: reasons why times and memory cannot be compared.
        budgeted: reasons why only accuracy cannot be compared.
        timed: reasons why only times cannot be compared.
    """

    trained: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    budgeted: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()

    @property
    def accuracy(self) -> str:
        """Why metrics of the trained model cannot be compared."""
        return "; ".join((*self.trained, *self.budgeted))

    @property
    def memory(self) -> str:
        """Why memory cannot be compared."""
        return "; ".join((*self.trained, *self.measured))

    @property
    def times(self) -> str:
        """Why latencies cannot be compared."""
        return "; ".join((*self.trained, *self.measured, *self.timed))


def unlike(before: Record, after: Record, environments: tuple[Environment | None, Environment | None]) -> Unlike:
    """Return why times, memory or accuracy of two records of a cell cannot be compared.

    Args:
        before, after: a record of base and one of new.
        environments: where they ran; None if unknown.
    """
    cells = before.cell.execution, after.cell.execution
    trained = [_differ(name, *(getattr(cell, key) for cell in cells)) for key, name in _TRAINED_WITH.items()]
    trained.append(_differ("batch size", *(record.batch_size for record in (before, after))))
    measured = [_differ(name, *(getattr(cell, key) for cell in cells)) for key, name in _MEASURED_WITH.items()]
    flags = [_flags(record, environment) for record, environment in zip((before, after), environments)]
    # The requested settings count if those in effect are unknown.
    if not all("threads" in side for side in flags):
        measured.append(_differ("threads", *(cell.threads for cell in cells)))
    for name in sorted(flags[0].keys() & flags[1].keys()):
        measured.append(_differ(name.replace("_", " "), flags[0][name], flags[1][name]))
    variables = [_variables(environment) for environment in environments]
    for name in sorted(variables[0].keys() | variables[1].keys()) if all(environments) else ():
        measured.append(_differ(name, *(side.get(name, "not set") for side in variables)))
    # Older records were measured alone.
    timed = _differ("measured", *(record.measured_under or ALONE for record in (before, after)))
    # What a number of seconds is worth depends on what else runs.
    by_time = before.cell.training is not None and before.cell.training.budget_unit == "seconds"
    budgeted = _differ("trained", *(record.trained_under or ALONE for record in (before, after))) if by_time else ""
    return Unlike(
        tuple(filter(None, trained)),
        tuple(filter(None, measured)),
        tuple(filter(None, [budgeted])),
        tuple(filter(None, [*_hardware(*environments), timed])),
    )


def of_times(record: Record, environment: Environment) -> dict[str, str]:
    """Return the conditions under which times of a record can be compared with those of another: both have the same.

    The version of torch is one, as what it changes is not a change of the measured code.
    """
    found = {**_flags(record, environment), **_variables(environment)}
    found |= {"machine": environment.hardware, "torch": environment.versions.get("torch", "unknown")}
    found |= {"measured": record.measured_under or ALONE, "measuring code": record.measured_version}
    return {name: str(found[name]) for name in sorted(found)}


def _differ(name: str, before: Any, after: Any) -> str:
    if before == after:
        return ""
    old, new = ("the default" if value is None else value for value in (before, after))
    return f"{name}: {old} in base, {new} in new"


def _flags(record: Record, environment: Environment | None) -> dict[str, Any]:
    """Return the process-wide settings in effect during the measurement, as far as known."""
    torch = environment.torch if environment else {}
    found = {_CALLED.get(name, name): torch[name] for name in _KNOWN_TO_ENVIRONMENTS if name in torch}
    found |= {name: value for name, value in record.in_force.items() if name != "changed_by_model"}
    if isinstance(cores := found.get("cores"), list | tuple):
        found["cores"] = len(cores)  # which cores does not matter
    return {name: value for name, value in found.items() if value is not None}


def _variables(environment: Environment | None) -> dict[str, str]:
    given = environment.variables if environment else {}
    return {name: value for name, value in given.items() if name not in _COUNTS}


def _hardware(before: Environment | None, after: Environment | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ("no record names the hardware",)
    if before.hardware == after.hardware:
        return ()
    names = sorted(f"{side.device_name} ({side.hardware})" for side in (before, after))
    remedy = "omit latency from --fail-on, or measure both on one machine"
    return (f"different hardware, {' and '.join(names)}; {remedy}",)
