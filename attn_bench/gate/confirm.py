"""Measures cells that look slower again before they are reported."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from attn_bench.analysis.pairing import Case, pair
from attn_bench.errors import UserError
from attn_bench.gate.compare import Comparison, compare, suspects
from attn_bench.gate.thresholds import Thresholds
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.executors import sequential
from attn_bench.running.measure.machine import environment
from attn_bench.running.work import Work
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.expansion import imported

PROCESSES = 3


def compare_confirmed(
    base: Store, new: Store, thresholds: Thresholds, on_case: Callable[[str], None] = lambda title: None
) -> Comparison:
    """Compare two folders; cells of new whose latency is worse or unclear are measured in three more processes.

    Args:
        base, new, thresholds: as for :func:`attn_bench.gate.compare.compare`.
        on_case: called with what is measured again.

    Raises:
        UserError: as in ``compare``; or new was measured with other code or on another machine.
    """
    comparison = compare(base, new, thresholds)
    cases = suspects(comparison, pair(base.records(), new.records()))
    if not cases:
        return comparison
    cells = {case.key: _cell(case, new) for case in cases}
    modules = imported(cells.values())
    again: dict[str, list[Record]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        for number in range(PROCESSES):
            on_case(f"measuring again, {number + 1} of {PROCESSES}: {', '.join(case.title for case in cases)}")
            store = Store.create(Path(folder) / str(number))
            sequential.run(Work(list(cells.values()), store, modules=modules))
            for key, record in _records(cells, store):
                again[key].append(record)
    confirmed = compare(base, new, thresholds, again)
    lost = [case.title for case in cases if not any(record.latency for record in again[case.key])]
    notes = tuple(f"{title}: could not be measured again" for title in lost)
    return dataclasses.replace(confirmed, notes=(*notes, *confirmed.notes))


def _cell(case: Case, new: Store) -> Cell:
    """Return the cell that measures a case without training; raises UserError if it would measure something else."""
    record = case.new[case.ok()[0]]
    cell = record.cell
    model, task = MODELS.entry(cell.plugin), TASKS.entry(cell.task)
    found = model.sources(), task.sources()
    if (model.fingerprint(found[0]), task.fingerprint(found[1])) != (cell.model_version, cell.task_version):
        raise UserError(
            f"--confirm: {case.title} was measured with another version of {cell.plugin} or {cell.task} than the one "
            "installed here; install that one, or omit --confirm"
        )
    measured = new.environment(record.environment)
    if measured is None or measured.hardware != environment(cell.execution.device).hardware:
        raise UserError(f"--confirm: {case.title} was measured on other hardware; confirm it there")
    # Where it was found, that it is found again is not what is compared.
    samples = record.batch_size or cell.execution.batch_size
    execution = dataclasses.replace(cell.execution, batch_size=samples)
    return dataclasses.replace(cell.only_measured(), execution=execution, sources={**found[1], **found[0]})


def _records(cells: dict[str, Cell], store: Store) -> Sequence[tuple[str, Record]]:
    found = ((key, store.read(cell.id)) for key, cell in cells.items())
    return [(key, record) for key, record in found if record is not None]
