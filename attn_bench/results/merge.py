"""Merges records of one cell that differ only in what else was requested, so that a row appears once.

Cells that differ only in the further resolutions they are evaluated at, or in whether they are measured, train the same
model with the same seed. If two of their records contain the same quantity, a record with status ok takes precedence,
then the newer one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from attn_bench.results.record import Evaluation, Record
from attn_bench.sweep.cell import Cell

_OF_MEASURING = ("latency", "peak_memory", "flops", "energy")


def merged(records: Sequence[Record]) -> list[Record]:
    """Return ``records`` with those of one cell merged, each in the place of the first."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(record.cell.same_model, []).append(record)
    return [group[0] if len(group) == 1 else _one(group) for group in groups.values()]


def completed(record: Record, measured: Record) -> Record:
    """Return ``record`` with the results of measuring its cell again, without training.

    A cell whose training failed stays what it is.
    """
    judged = record if record.status != "ok" and not record.trained and record.lacks_measuring else measured
    kept = {name: reason for name, reason in record.errors.items() if not name.startswith(_OF_MEASURING)}
    return replace(
        _with_measurements(record, measured),
        status=judged.status,
        error=judged.error,
        # A record of a cell that was ended from outside has neither.
        environment=measured.environment or record.environment,
        started=measured.started or record.started,
        errors={**kept, **measured.errors},
        imported={**record.imported, **measured.imported},
        cell=_measured(record.cell, True),
        seconds=(record.seconds or 0) + (measured.seconds or 0),
    )


def renewed(record: Record, again: Record) -> Record:
    """Return ``again``, a rerun of the cell of ``record``, completed with measurements that only ``record`` has."""
    lost = record.cell.measuring.measure and not again.cell.measuring.measure
    return _one([again, record]) if lost and record.status == again.status == "ok" else again


def _with_measurements(record: Record, measured: Record) -> Record:
    return replace(
        record,
        latency=measured.latency,
        memory=measured.memory,
        energy=measured.energy,
        energy_source=measured.energy_source,
        flops=measured.flops,
        in_force=measured.in_force,
        measured_version=measured.measured_version,
        measured_under=measured.measured_under,
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
        trained_under=trained.trained_under,
        data=trained.data,
        weights=next((record.weights for record in (trained, *best) if record.weights is not None), None),
        cell=replace(
            _measured(first.cell, any(record.cell.measuring.measure for record in group)), eval_resolutions=further
        ),
        evaluations=tuple(evaluation for evaluation in evaluations if evaluation is not None),
    )


def _measured(cell: Cell, measure: bool) -> Cell:
    return replace(cell, measuring=replace(cell.measuring, measure=measure))


def _evaluation(records: Sequence[Record], resolution: int) -> Evaluation | None:
    """Return the first ok entry for ``resolution``, else the first one, else one that says why there is none."""
    found = list(_evaluations(records, resolution))
    return next((entry for entry in found if entry.status == "ok"), found[0] if found else None)


def _evaluations(records: Sequence[Record], resolution: int) -> Iterator[Evaluation]:
    for record in records:
        entries = [entry for entry in record.evaluations if entry.resolution == resolution]
        yield from entries
        if not entries and resolution in record.cell.eval_resolutions and record.status != "ok":
            yield Evaluation(resolution, record.status, record.error)
