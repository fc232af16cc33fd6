"""One row is one thing: records of one cell that differ only in what else was asked of it become one record.

Cells that differ only in the further resolutions they are evaluated at, or in whether they are measured, train the same
model with the same seed. Where two of their records hold the same number, that of the newer one is taken, and that of
one that ended ok before that of one that did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attn_bench.results.record import Evaluation, Record
from attn_bench.sweep.cell import Cell

_OF_MEASURING = ("latency", "peak_memory", "flops")


def merged(records: Sequence[Record]) -> list[Record]:
    """Return ``records`` with those of one cell made one, each in the place of its first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(replace(record.cell, eval_resolutions=()).id, []).append(record)
    return [group[0] if len(group) == 1 else _one(group) for group in groups.values()]


def completed(record: Record, measured: Record) -> Record:
    """Return ``record`` with what measuring its cell again, without training it, found."""
    kept = {name: reason for name, reason in record.errors.items() if not name.startswith(_OF_MEASURING)}
    return replace(
        _with_measurements(record, measured),
        status=measured.status,
        error=measured.error,
        # One that was ended from outside says neither.
        environment=measured.environment or record.environment,
        started=measured.started or record.started,
        errors={**kept, **measured.errors},
        imported={**record.imported, **measured.imported},
        cell=_measured(record.cell, True),
        seconds=(record.seconds or 0) + (measured.seconds or 0),
    )


def renewed(record: Record, again: Record) -> Record:
    """Return ``again``, of the cell of ``record`` run again, with what only ``record`` measured."""
    lost = record.cell.measuring.measure and not again.cell.measuring.measure
    return _one([again, record]) if lost and record.status == again.status == "ok" else again


def _with_measurements(record: Record, measured: Record) -> Record:
    return replace(
        record,
        latency=measured.latency,
        memory=measured.memory,
        flops=measured.flops,
        in_force=measured.in_force,
        measured_version=measured.measured_version,
        environment=measured.environment,
    )


def _one(group: Sequence[Record]) -> Record:
    newest = sorted(group, key=lambda record: (record.started or "", record.id), reverse=True)
    best = sorted(newest, key=lambda record: record.status != "ok")
    first = best[0]
    trained = next((record for record in best if record.evaluations), first)
    measured = next((record for record in best if record.latency or record.memory or record.flops), first)
    further = tuple(dict.fromkeys(r for record in best for r in record.cell.eval_resolutions))
    evaluations = (_evaluation([trained, *best], r) for r in (first.cell.resolution, *further))
    return replace(
        _with_measurements(first, measured),
        errors={**trained.errors, **measured.errors},
        training=trained.training,
        data=trained.data,
        cell=replace(
            _measured(first.cell, any(record.cell.measuring.measure for record in group)), eval_resolutions=further
        ),
        evaluations=tuple(evaluation for evaluation in evaluations if evaluation is not None),
    )


def _measured(cell: Cell, measure: bool) -> Cell:
    return replace(cell, measuring=replace(cell.measuring, measure=measure))


def _evaluation(records: Sequence[Record], resolution: int) -> Evaluation | None:
    """Return the first entry of ``resolution`` that is ok, or else the first, or else why there is none."""
    found = list(_evaluations(records, resolution))
    return next((entry for entry in found if entry.status == "ok"), found[0] if found else None)


def _evaluations(records: Sequence[Record], resolution: int) -> Iterator[Evaluation]:
    for record in records:
        entries = [entry for entry in record.evaluations if entry.resolution == resolution]
        yield from entries
        if not entries and resolution in record.cell.eval_resolutions and record.status != "ok":
            yield Evaluation(resolution, record.status, record.error)
