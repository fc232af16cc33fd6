"""Upgrades records of earlier versions to the current form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_bench.sweep.cell import upgrade_cell

SCHEMA = 2

# Keys that schema 1 did not always have.
_ADDED: Mapping[str, Any] = {
    **{"tokens": None, "complexity": None, "measured_version": None, "reference": None},
    **{"errors": {}, "in_force": {}, "imported": {}},
}
# What schema 2 did not always have.
_SINCE: Mapping[str, Any] = {
    **{"weights": None, "trials": [], "trained_under": None, "measured_under": None},
    **{"energy": {}, "energy_source": None},
}
_OF_TRAINING = ("steps", "epochs", "seconds", "loss", "warning", "notes")


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a record of any earlier schema in the form of :data:`SCHEMA`; other values are unchanged.

    Raises:
        ValueError: it has a newer schema.
    """
    found = {**_SINCE, **values}
    if newer(schema := found.setdefault("schema", 1)):
        raise ValueError(f"written by a newer attn-bench (schema {schema}, this one reads {SCHEMA})")
    if isinstance(cell := found.get("cell"), dict):
        found["cell"] = upgrade_cell(cell)
    return _from_1(found) if schema == 1 else found


def newer(schema: Any) -> bool:
    """Tell whether a schema number is one that only a later version knows."""
    return isinstance(schema, int) and schema > SCHEMA


def _from_1(values: dict[str, Any]) -> dict[str, Any]:
    found = {**_ADDED, **values, "schema": SCHEMA}
    if isinstance(training := found.get("training"), dict):
        notes = {name: value for name, value in training.items() if name not in _OF_TRAINING}
        found["training"] = {name: training[name] for name in training.keys() - notes.keys()} | {"notes": notes}
    why: dict[str, str] = {}
    for quantity, prefix in (("latency", "latency_"), ("memory", "peak_memory_")):
        if isinstance(steps := found.get(quantity), dict):
            found[quantity] = {name: _step(values) for name, values in steps.items() if not _failed(values)}
            # The reason was in the place of the missing quantity.
            why |= {f"{prefix}{name}": values["error"] for name, values in steps.items() if _failed(values)}
    if isinstance(found["errors"], dict):
        found["errors"] = why | found["errors"]
    return found


def _failed(values: Any) -> bool:
    return isinstance(values, dict) and isinstance(values.get("error"), str)


def _step(values: Any) -> Any:
    if not isinstance(values, dict) or "reference_ms" not in values:
        return values
    return {name: value for name, value in values.items() if name != "reference_ms"} | {
        "calibration_ms": values["reference_ms"]
    }
