"""Says why cells run although the results folder holds results of the same settings."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from attn_bench.results.brief import Short
from attn_bench.sweep.cell import Cell


def why_again(cells: Iterable[Cell], records: Iterable[Short]) -> str | None:
    """Return a line on the ``cells`` that only have a record from other code; None if there are none.

    Args:
        cells: cells without their own record.
        records: of the folder.
    """
    waiting = [cell for cell in cells if not cell.broken]
    if not waiting:
        return None
    known: dict[str, str] = {}
    before: dict[tuple[Hashable, ...], Cell] = {}
    for record in sorted(records, key=lambda record: record.brief.started or ""):
        if not record.brief.broken:
            model, resolution, seed, kind = record.brief.same_model
            if kind not in known:
                known[kind] = _settings(record.cell)
            before[model, resolution, seed, known[kind]] = record.cell
    found = [
        (old, cell)
        for cell in waiting
        if (old := before.get((cell.model, cell.resolution, cell.seed, _settings(cell)))) is not None
    ]
    if not found:
        return None
    reasons = dict.fromkeys(reason for old, cell in found for reason in _changed(old, cell))
    some = "1 cell has a result" if len(found) == 1 else f"{len(found)} cells have results"
    return f"{some} of other code and {'runs' if len(found) == 1 else 'run'} again; changed: {', '.join(reasons)}"


def _settings(cell: Cell) -> str:
    """Return what is equal for cells that differ in no setting but in versions of the code."""
    return cell.without_versions().kind


def _changed(old: Cell, new: Cell) -> Iterator[str]:
    if old.training_version != new.training_version:
        was = "unknown" if old.training_version is None else old.training_version
        yield f"the training code (version {was}, now {new.training_version})"
    if old.model_version != new.model_version:
        yield f"the code of {new.plugin}"
    if old.task_version != new.task_version:
        yield f"the code of {new.task}"
