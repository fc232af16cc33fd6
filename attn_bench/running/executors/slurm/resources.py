"""What a user asks Slurm for, and which cells get what."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from attn_bench.errors import UserError, unknown
from attn_bench.plugins.values import Text
from attn_bench.sweep.cell import Cell

Parameters = Mapping[str, Any]
Device = Literal["auto", "cpu", "cuda"]

# What says which cells a rule is for, and what of a cell it has to be equal to.
_SELECTORS = ("model", "task", "resolution")
# Set for each job, or without a meaning for cells, which have one process each.
_OURS = {
    **dict.fromkeys(("array", "output", "error", "open_mode", "job_name", "wrap", "dependency"), "is set for each job"),
    "signal": "is set for each job; signal_delay_s says how many seconds before the time limit",
    **dict.fromkeys(("nodes", "ntasks", "ntasks_per_node"), "a cell runs as one process"),
}
# The forms of sbatch: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<numbers>\d+(?::\d+){0,2})")


def parameters_of(cell: Cell, general: Parameters, rules: Sequence[Parameters]) -> dict[str, Any]:
    """Return the sbatch parameters of a cell: the general ones, and over them those of each rule that it fits."""
    found = normal(general)
    for rule in rules:
        selected, own = _divided(rule)
        if all(_fits(cell, name, value) for name, value in selected.items()):
            found |= own
    return found


def check(cells: Collection[Cell], general: Parameters, rules: Sequence[Parameters]) -> None:
    """Raise UserError for parameters that cannot be given, and rules that are for no cell."""
    normal(general)
    for rule in rules:
        selected, own = _divided(rule)
        if not selected or not own:
            raise UserError(
                f"setting resources: {dict(rule)} needs one of {', '.join(_SELECTORS)}, and parameters of sbatch"
            )
        for name, value in selected.items():
            known = {text for cell in cells for text in _called(cell, name)}
            for each in _several(value):
                if str(each) not in known:
                    raise unknown(f"{name} of this sweep in resources", str(each), known)
    for cell in cells:
        if "time" not in parameters_of(cell, general, rules):
            raise UserError("--slurm: set the time limit of a job, e.g. --slurm time=60 (minutes)")


def device_of(asked: Device, general: Parameters, rules: Sequence[Parameters]) -> Device:
    """Return the device of cells: where it is ``auto``, that of jobs that ask for a GPU, or the CPU."""
    every = [normal(general), *(_divided(rule)[1] for rule in rules)]
    gpu = any("gpu" in (value if name == "gres" else name) for each in every for name, value in each.items())
    return asked if asked != "auto" else "cuda" if gpu else "cpu"


def normal(given: Parameters) -> dict[str, Any]:
    """Return parameters under the names of submitit, with the time in minutes; raises UserError."""
    found = {}
    for name, value in given.items():
        key = str(name).strip().lstrip("-").replace("-", "_")
        if key in _OURS:
            raise UserError(f"--slurm {key}: cannot be set ({_OURS[key]})")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or isinstance(value, Mapping):
            raise UserError(f"--slurm {name}={value}: is not a parameter of sbatch; write e.g. partition=gpu,time=60")
        found[key] = minutes(value) if key == "time" else _typed(value)
    return found


def minutes(value: Any) -> int:
    """Return a time limit as sbatch takes it in minutes, rounded up; raises UserError."""
    matched = _TIME.fullmatch(str(value).strip())
    numbers = [int(number) for number in matched["numbers"].split(":")] if matched else []
    if matched and matched["days"] is not None:
        days = int(matched["days"])
        hours, minute, second = [*numbers, 0, 0][:3]
    else:
        days = 0
        hours, minute, second = {1: [0, *numbers, 0], 2: [0, *numbers]}.get(len(numbers), numbers or [0, 0, 0])
    total = days * 1440 + hours * 60 + minute + math.ceil(second / 60)
    if total < 1:
        raise UserError(f"--slurm time={value}: is not a time limit; write minutes (60), 2:30:00 or 1-12:00:00")
    return total


def _typed(value: Any) -> Any:
    """Return a value that was typed as what submitit takes."""
    if isinstance(value, str):
        text = str(value).strip()
        lowered = text.lower()
        return {"true": True, "false": None}.get(lowered, int(text) if text.isdecimal() else text)
    return None if value is False else value


def _divided(rule: Parameters) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a rule says of cells, and the parameters of sbatch."""
    selected = {name: value for each, value in rule.items() if (name := _singular(str(each))) in _SELECTORS}
    own = {name: value for name, value in rule.items() if _singular(str(name)) not in _SELECTORS}
    return selected, normal(own)


def _singular(name: str) -> str:
    return name.removesuffix("s") if name.removesuffix("s") in _SELECTORS else name


def _several(value: Any) -> list[Any]:
    if isinstance(value, str | Text):
        return [part.strip() for part in str(value).split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _called(cell: Cell, name: str) -> set[str]:
    """Return what a rule may call the model, the task or the resolution of a cell."""
    return {str(getattr(cell, name)), cell.plugin} if name == "model" else {str(getattr(cell, name))}


def _fits(cell: Cell, name: str, value: Any) -> bool:
    return any(str(each) in _called(cell, name) for each in _several(value))
