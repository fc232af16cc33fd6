"""What makes the times of two records unlike: settings, flags of torch in force, hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attn_bench.results.environment import Environment
from attn_bench.results.record import Record

# Settings of a cell that training depends on as much as time.
_TRAINED_WITH = {"precision": "precision", "batch_size": "batch size"}
_MEASURED_WITH = {"device": "device", "compile": "compile"}
# What environments call what records say was in force; those of older records say nothing else.
_CALLED = {"float32_matmul_precision": "matmul_precision"}
_KNOWN_TO_ENVIRONMENTS = (
    *("threads", "interop_threads", "cpu_capability", "deterministic", "float32_matmul_precision"),
    *("cudnn_allow_tf32", "cudnn_benchmark"),
)
# These say how many threads there are to be; the number in force says it better.
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Unlike:
    """Why a record of base and one of new do not compare; empty where they do.

    Attributes:
        trained: the model was trained under other conditions, so that its accuracy does not compare either.
        measured: times and memory do not compare.
        hardware: times do not compare.
    """

    trained: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()

    @property
    def accuracy(self) -> str:
        """Why metrics of the trained model do not compare."""
        return "; ".join(self.trained)

    @property
    def memory(self) -> str:
        """Why memory does not compare."""
        return "; ".join((*self.trained, *self.measured))

    @property
    def times(self) -> str:
        """Why latencies do not compare."""
        return "; ".join((*self.trained, *self.measured, *self.hardware))


def unlike(before: Record, after: Record, environments: tuple[Environment | None, Environment | None]) -> Unlike:
    """Return why times, memory or accuracy of two records of a cell do not compare.

    Args:
        before, after: a record of base and one of new.
        environments: where they ran; None where that is not known.
    """
    cells = before.cell.execution, after.cell.execution
    trained = [_differ(name, *(getattr(cell, key) for cell in cells)) for key, name in _TRAINED_WITH.items()]
    measured = [_differ(name, *(getattr(cell, key) for cell in cells)) for key, name in _MEASURED_WITH.items()]
    flags = [_flags(record, environment) for record, environment in zip((before, after), environments)]
    # What was asked for counts where it is not known what was in force.
    if not all("threads" in side for side in flags):
        measured.append(_differ("threads", *(cell.threads for cell in cells)))
    for name in sorted(flags[0].keys() & flags[1].keys()):
        measured.append(_differ(name.replace("_", " "), flags[0][name], flags[1][name]))
    variables = [_variables(environment) for environment in environments]
    for name in sorted(variables[0].keys() | variables[1].keys()) if all(environments) else ():
        measured.append(_differ(name, *(side.get(name, "not set") for side in variables)))
    return Unlike(tuple(filter(None, trained)), tuple(filter(None, measured)), _hardware(*environments))


def _differ(name: str, before: Any, after: Any) -> str:
    if before == after:
        return ""
    old, new = ("the default" if value is None else value for value in (before, after))
    return f"{name}: {old} in base, {new} in new"


def _flags(record: Record, environment: Environment | None) -> dict[str, Any]:
    """Return what was set for the process while it was measured, as far as that is known."""
    torch = environment.torch if environment else {}
    found = {_CALLED.get(name, name): torch[name] for name in _KNOWN_TO_ENVIRONMENTS if name in torch}
    found |= {name: value for name, value in record.in_force.items() if name != "changed_by_model"}
    if isinstance(cores := found.get("cores"), list | tuple):
        found["cores"] = len(cores)  # which of them it was is all the same
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
    remedy = "leave latency out of --fail-on, or measure both on one machine"
    return (f"other hardware, {' and '.join(names)}; {remedy}",)
