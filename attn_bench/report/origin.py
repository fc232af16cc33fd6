"""Where results come from: the cells as requested, the machines and versions, the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_bench.results.quantities import at
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.sweep.groups import AUTO, SCHEDULES, Measuring, Training

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Machine:
    """One environment that cells ran in.

    Attributes:
        name: of the device.
        cells: how many cells ran there.
        facts: the most important facts.
        details: everything that was recorded.
        versions: of the software.
    """

    name: str
    cells: int
    facts: Facts
    details: Facts
    versions: Facts


@dataclass(frozen=True)
class Origin:
    """Where the results of a folder come from; empty if the folder has no records.

    Attributes:
        cells: JSON of every cell (see :class:`attn_bench.sweep.cell.Cell`).
        machines: the one with most cells first.
        training: how models were trained, by task; without a task none of whose models was.
        data: facts about the data by task, by resolution if they differ.
        started: when the first and the last cell were started.
    """

    cells: tuple[Mapping[str, Any], ...]
    machines: tuple[Machine, ...]
    training: Mapping[str, Facts]
    data: Mapping[str, Facts]
    started: tuple[str, str] | None

    @property
    def versions(self) -> list[Facts]:
        """The sets of versions that cells ran with, without duplicates."""
        found: list[Facts] = []
        for machine in self.machines:
            if machine.versions and machine.versions not in found:
                found.append(machine.versions)
        return found


NOWHERE = Origin((), (), {}, {}, None)


def read_origin(store: Store) -> Origin:
    """Read where the results in ``store`` come from."""
    records = store.records()
    times = sorted(record.started for record in records if record.started)
    ran = Counter(record.environment for record in records if record.environment)
    machines = [_machine(store, id, number) for id, number in ran.most_common()]
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(record.cell.task, []).append(record)
    return Origin(
        cells=tuple(_asked(records)),
        machines=tuple(machines),
        training={
            task: _agreed([_training(record, record.cell.training) for record in of if record.cell.training])
            for task, of in tasks.items()
        },
        data={task: _agreed([dict(flat(record.data)) for record in of if record.data]) for task, of in tasks.items()},
        started=(_minute(times[0]), _minute(times[-1])) if times else None,
    )


def _asked(records: Sequence[Record]) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON of the cell of each record; those of a kind share what they have in common."""
    known: dict[tuple[str, Measuring], Mapping[str, Any]] = {}
    for cell in (record.cell for record in records):
        key = cell.kind, cell.measuring
        if key not in known:
            known[key] = cell.to_json()
        own = {"model": cell.model, "resolution": cell.resolution, "seed": cell.seed}
        yield {**known[key], **own, "eval_resolutions": list(cell.eval_resolutions)}


def _training(record: Record, asked: Training) -> dict[str, str]:
    """Return the budget of a cell, the epochs and steps that it amounted to, and the settings of the optimizer."""
    steps = record.training and record.training.steps
    samples = at(record.data, "samples.train") or record.data.get("n_train")
    facts = {
        "Recipe": asked.recipe,
        "Budget": f"{asked.budget:g} {asked.budget_unit}",
        "Optimizer steps": None if steps is None else str(steps),
        "Batch size in training": _batch_size(record),
        "Optimizer": asked.optimizer,
        "Learning rate": f"{asked.learning_rate:g} at its peak, {_schedule(asked)}",
        "Weight decay": f"{asked.weight_decay:g}",
        "Gradients clipped to": f"{asked.clip_norm:g}" if asked.clip_norm else "not clipped",
        "Moving average of the weights": f"decay {asked.ema:g}" if asked.ema else None,
        "Weights evaluated": _EVALUATED.get(asked.select),
        "Regime": record.cell.regime,
        "Training samples": None if samples is None else str(samples),
        "Validation samples": str(held) if (held := at(record.data, "samples.validation")) else None,
    }
    return {name: text for name, text in facts.items() if text is not None}


def _batch_size(record: Record) -> str | None:
    if record.cell.execution.batch_size != AUTO:
        return str(record.batch_size)
    return None if record.batch_size is None else f"{record.batch_size} (found to fit the memory)"


_EVALUATED = {"best": "best validation error", "best-on-test": "best test error, so their metrics are too good"}


def _schedule(asked: Training) -> str:
    """Return the schedule in words, with the parameters that are not its usual ones."""
    usual = SCHEDULES[asked.schedule]
    changed = [f"{name} {value:g}" for name, value in asked.lr_parameters.items() if value != usual[name]]
    return f"{asked.schedule.replace('-', ' ')}{' with ' + ', '.join(changed) if changed else ''}"


def _minute(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested values as dotted names and text; None and empty values are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from flat({str(i): item for i, item in enumerate(value)}, f"{prefix}{key}.")
        elif value not in (None, "", []):
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)


def _agreed(facts: Sequence[Mapping[str, str]]) -> Facts:
    """Return each fact with its value, or with its values if there are a few."""
    names = dict.fromkeys(name for of in facts for name in of)
    values = {name: dict.fromkeys(of[name] for of in facts if name in of) for name in names}
    return [(name, "; ".join(found)) for name, found in values.items()]


def _machine(store: Store, id: str, cells: int) -> Machine:
    environment = store.environment(id)
    if environment is None:
        return Machine("unknown device", cells, [], [], [])
    cpu, torch, versions, git = environment.cpu, environment.torch, environment.versions, environment.git
    facts = {
        "Processor": _joined(cpu.model, _unit(cpu.usable_cores, "cores usable")),
        "Memory": _unit(cpu.memory_gib, "GiB"),
        "GPU": "; ".join(_joined(gpu.name, _unit(gpu.memory_gib, "GiB")) for gpu in environment.gpus.devices),
        "System": " ".join(filter(None, (environment.os.system, environment.os.release, environment.os.machine))),
        "Python": environment.python.version,
        "PyTorch": _joined(
            versions.get("torch"),
            f"CUDA {torch['cuda']}" if torch.get("cuda_available") else None,
            _unit(torch.get("threads"), "threads"),
        ),
        "attn-bench": _joined(
            versions.get("attn-bench"),
            f"revision {git.revision[:12]}{' with uncommitted changes' if git.dirty else ''}" if git.revision else None,
        ),
    }
    return Machine(
        name=environment.device_name or "unknown device",
        cells=cells,
        facts=[(name, text) for name, text in facts.items() if text],
        details=list(flat(environment.to_json())),
        versions=list(flat({"python": environment.python.version, **versions})),
    )


def _unit(value: Any, unit: str) -> str | None:
    return None if value is None else f"{value} {unit}"


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)
