"""What makes the times of two records unlike: settings, flags of torch in force, hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attn_bench.running.measure.environment import fingerprint

Record = Mapping[str, Any]
Environment = Mapping[str, Any]
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
    cells = before["cell"], after["cell"]
    trained = [_differ(name, *(cell.get(key) for cell in cells)) for key, name in _TRAINED_WITH.items()]
    measured = [_differ(name, *(cell.get(key) for cell in cells)) for key, name in _MEASURED_WITH.items()]
    flags = [_flags(record, environment or {}) for record, environment in zip((before, after), environments)]
    # What was asked for counts where it is not known what was in force.
    if not all("threads" in side for side in flags):
        measured.append(_differ("threads", *(cell.get("threads") for cell in cells)))
    for name in sorted(flags[0].keys() & flags[1].keys()):
        measured.append(_differ(name.replace("_", " "), flags[0][name], flags[1][name]))
    variables = [_variables(environment or {}) for environment in environments]
    for name in sorted(variables[0].keys() | variables[1].keys()) if all(environments) else ():
        measured.append(_differ(name, *(side.get(name, "not set") for side in variables)))
    return Unlike(tuple(filter(None, trained)), tuple(filter(None, measured)), _hardware(*environments))


def _differ(name: str, before: Any, after: Any) -> str:
    if before == after:
        return ""
    old, new = ("the default" if value is None else value for value in (before, after))
    return f"{name}: {old} in base, {new} in new"


def _flags(record: Record, environment: Environment) -> dict[str, Any]:
    """Return what was set for the process while it was measured, as far as that is known."""
    torch, in_force = environment.get("torch"), record.get("in_force")
    found = {}
    if isinstance(torch, Mapping):
        found = {_CALLED.get(name, name): torch[name] for name in _KNOWN_TO_ENVIRONMENTS if name in torch}
    if isinstance(in_force, Mapping):
        found |= {name: value for name, value in in_force.items() if name != "changed_by_model"}
    if isinstance(cores := found.get("cores"), list | tuple):
        found["cores"] = len(cores)  # which of them it was is all the same
    return {name: value for name, value in found.items() if value is not None and value == value}


def _variables(environment: Environment) -> dict[str, Any]:
    given = environment.get("variables")
    return {k: v for k, v in given.items() if k not in _COUNTS} if isinstance(given, Mapping) else {}


def _hardware(before: Environment | None, after: Environment | None) -> tuple[str, ...]:
    prints = [_print(environment) for environment in (before, after)]
    if None in prints:
        return ("no record says on what hardware it was measured",)
    if prints[0] == prints[1]:
        return ()
    names = sorted(f"{side.get('device_name')} ({print_})" for side, print_ in zip((before, after), prints) if side)
    remedy = "leave latency out of --fail-on, or measure both on one machine"
    return (f"other hardware, {' and '.join(names)}; {remedy}",)


def _print(environment: Environment | None) -> str | None:
    try:
        return None if environment is None else fingerprint(environment)
    except (KeyError, TypeError, AttributeError):  # a file that something else wrote
        return None
