"""What became of one cell, and the check of one that a process or a file claims to hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attn_bench.format import clean
from attn_bench.results.status import Status
from attn_bench.sweep.cell import Cell

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 1

ERROR_CHARACTERS, TEXT_CHARACTERS = 10_000, 20_000
_DEPTH, _ITEMS, _LARGEST = 12, 100_000, 2**63


@dataclass(frozen=True)
class Record:
    """What became of one cell.

    Attributes:
        cell: the cell, as JSON.
        status: ``ok``, or why it is not.
        error: one line for any other status.
        environment: name of the file under ``environments/`` that says where it ran.
        tokens: points of the grid.
        complexity: growth with the number of tokens that the model claims.
        reference: whether the model is a constant predictor; None in older records.
        parameters: trainable parameters (a complex one counts as two).
        flops: of one forward pass of one sample.
        effective: settings in force where they differ from those asked for.
        training: steps, epochs, seconds, loss.
        evaluations: one entry per resolution evaluated at: resolution, status, error, metrics.
        latency, memory: ``forward`` and ``train_step``, each as measured, raw samples included.
        data: what the data were.
        errors: why a quantity is missing where the status does not tell, by quantity.
        in_force: what was set for the whole process while it was measured
            (:mod:`attn_bench.running.measure.torch_state`), and what the model had changed: ``changed_by_model``.
        measured_version: of the harness's code that measured (:mod:`attn_bench.sweep.versions`).
        imported: modules of the plugins' own that were imported besides those of the fingerprint, with their digests.
        seconds: wall-clock time of the cell.
        started: UTC time, ISO 8601.
    """

    cell: Mapping[str, Any]
    id: str
    status: Status
    error: str | None = None
    environment: str | None = None
    tokens: int | None = None
    complexity: str | None = None
    reference: bool | None = None
    parameters: int | None = None
    flops: Mapping[str, Any] | None = None
    effective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    evaluations: tuple[Mapping[str, Any], ...] = ()
    latency: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    in_force: Mapping[str, Any] = field(default_factory=dict)
    measured_version: int | None = None
    imported: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    started: str | None = None
    schema: int = SCHEMA

    @classmethod
    def of(cls, cell: Cell, status: Status, **values: Any) -> Record:
        """Build the record of ``cell``."""
        return cls(cell=cell.to_json(), id=cell.id, status=status, **values)

    @classmethod
    def checked(cls, values: Any, cell: Cell | None = None) -> Record:
        """Return the record that ``values`` hold, whoever made them: JSON from a cell's process or from a file.

        Text is cleaned and cut, numbers that are not finite become None, and what the schema does not know is dropped.

        Args:
            cell: the cell that it has to be of; any where None.

        Raises:
            ValueError: they hold none; says in one line what is wrong.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{type(values).__name__} instead of a record")
        if isinstance(schema := values.get("schema", SCHEMA), int) and schema > SCHEMA:
            raise ValueError(f"written by a newer attn-bench (schema {schema}, this one reads {SCHEMA})")
        known = {entry.name for entry in dataclasses.fields(cls)}
        found = _valid("record", plain({name: value for name, value in values.items() if name in known}))
        if cell is not None and (found["id"], found["cell"]) != (cell.id, plain(cell.to_json())):
            raise ValueError(f"of another cell ({found['id']} instead of {cell.id})")
        for entry in (found, *found["evaluations"]):
            if entry["error"] is not None:
                entry["error"] = clean(entry["error"], ERROR_CHARACTERS)
        return cls(**found | {"evaluations": tuple(found["evaluations"])})


def checked_environment(values: Any) -> dict[str, Any]:
    """Return the environment that ``values`` hold (see :func:`attn_bench.running.measure.environment.environment`).

    Raises:
        ValueError: they hold none.
    """
    return _valid("environment", plain(values))


def checked_run_info(values: Any) -> dict[str, Any]:
    """Return what ``run.json`` holds; raises ValueError if that is no description of a run."""
    return _valid("run", plain(values))


def plain(value: Any, depth: int = 0) -> Any:
    """Return JSON values of bounded size with cleaned text, in which numbers that are not finite are None.

    Raises:
        ValueError: a value of another type, nested too deeply, a list too long, or a whole number too large.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value, TEXT_CHARACTERS, lines=True)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise ValueError("a whole number of more than 64 bits")
        return value
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(f"{type(value).__name__} is no JSON")
    if depth == _DEPTH:
        raise ValueError("nested too deeply")
    if len(value) > _ITEMS:
        raise ValueError(f"{len(value)} entries in one list, more than {_ITEMS}")
    if isinstance(value, Mapping):
        return {clean(str(key), TEXT_CHARACTERS, lines=True): plain(item, depth + 1) for key, item in value.items()}
    return [plain(item, depth + 1) for item in value]


def _valid(kind: str, values: Any) -> dict[str, Any]:
    from pydantic import ValidationError

    try:
        # As they are: pydantic would make a float of a whole number, and a cell that is equal would not be.
        _adapters()[kind].validate_python(values)
        return dict(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f", given: {first['input']!r}"
        raise ValueError(clean(f"{where or kind}: {first['msg']}{given}", 200)) from None


@functools.cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    # Only here: a process in which something is measured does not import it.
    from attn_bench.results import schema

    return schema.adapters()
