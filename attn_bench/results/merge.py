"""One row is one thing: records of one cell that differ only in what else was asked of it become one record.

Cells that differ only in the further resolutions they are tested at, or in whether they are measured, train the same
model with the same seed. Where two of their records hold the same number, that of the newer one is taken, and that of
one that ended ok before that of one that did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from typing import Any

from attn_bench.results.record import Record

_ASKED_TOO = ("eval_resolutions", "measure")
_OF_MEASURING = ("latency", "peak_memory", "flops")
_MEASURED = ("latency", "memory", "flops", "in_force", "measured_version", "environment")


def merged(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ``records`` with those of one cell made one, each in the place of its first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        key = {name: value for name, value in record["cell"].items() if name not in _ASKED_TOO}
        groups.setdefault(dumps(key, sort_keys=True), []).append(record)
    return [dict(group[0]) if len(group) == 1 else _one(group) for group in groups.values()]


def completed(record: Mapping[str, Any], measured: Record) -> Record:
    """Return ``record``, of a cell that was trained without being measured, with what measuring it later found."""
    added = {name: getattr(measured, name) for name in (*_MEASURED, "status", "error")}
    # One that was ended from outside says neither.
    added |= {name: getattr(measured, name) or record[name] for name in ("environment", "started")}
    kept = {name: reason for name, reason in record["errors"].items() if not name.startswith(_OF_MEASURING)}
    added |= {"errors": {**kept, **measured.errors}, "imported": {**record["imported"], **measured.imported}}
    seconds = (record["seconds"] or 0) + (measured.seconds or 0)
    return Record.checked({**record, **added, "cell": {**record["cell"], "measure": True}, "seconds": seconds})


def renewed(record: Mapping[str, Any], again: Record) -> Record:
    """Return ``again``, of the cell of ``record`` run again, with what only ``record`` measured."""
    lost = record["cell"]["measure"] and not again.cell["measure"]
    if not lost or not record["status"] == again.status == "ok":
        return again
    return Record.checked(_one([vars(again), record]))


def _one(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    newest = sorted(group, key=lambda record: (record["started"] or "", record["id"]), reverse=True)
    best = sorted(newest, key=lambda record: record["status"] != "ok")
    first = best[0]
    trained = next((record for record in best if record["evaluations"]), first)
    measured = next((record for record in best if record["latency"] or record["memory"] or record["flops"]), first)
    cell = first["cell"]
    further = dict.fromkeys(r for record in best for r in record["cell"]["eval_resolutions"])
    return {
        **first,
        **{name: measured[name] for name in _MEASURED},
        "errors": {**trained["errors"], **measured["errors"]},
        **{name: trained[name] for name in ("training", "data")},
        "cell": {
            **cell,
            "eval_resolutions": list(further),
            "measure": any(record["cell"]["measure"] for record in group),
        },
        "evaluations": [
            entry for r in (cell["resolution"], *further) if (entry := _evaluation([trained, *best], r)) is not None
        ],
    }


def _evaluation(records: Sequence[Mapping[str, Any]], resolution: int) -> Mapping[str, Any] | None:
    """Return the first entry of ``resolution`` that is ok, or else the first, or else why there is none."""
    found = list(_evaluations(records, resolution))
    return next((entry for entry in found if entry["status"] == "ok"), found[0] if found else None)


def _evaluations(records: Sequence[Mapping[str, Any]], resolution: int) -> Iterator[Mapping[str, Any]]:
    for record in records:
        entries = [entry for entry in record["evaluations"] if entry["resolution"] == resolution]
        yield from entries
        if not entries and resolution in record["cell"]["eval_resolutions"] and record["status"] != "ok":
            yield {"resolution": resolution, "status": record["status"], "error": record["error"], "metrics": {}}
