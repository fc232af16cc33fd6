"""Joins results folders, for example of several machines, into one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG

from attn_bench.files import atomic_write
from attn_bench.results.record import Record
from attn_bench.results.store import Kind, Store

# What is kept beside a record, and belongs to it. Checkpoints are of cells that are not finished.
_BESIDE: tuple[Kind, ...] = ("artifacts", "weights", "logs")


@dataclass
class Joined:
    """What joining did.

    Attributes:
        cells: in the joined folder.
        taken: records taken from each folder.
        repeated: records that were in more than one folder, and the same.
        conflicts: a line for each cell whose records differ, with which one was kept.
        unusable: a line for each file that is not a valid record.
    """

    cells: int = 0
    taken: dict[Path, int] = field(default_factory=dict)
    repeated: int = 0
    conflicts: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def join(folders: Sequence[Path], out: Path) -> Joined:
    """Join the records of ``folders`` in ``out``, with the environments, artifacts, weights and logs they refer to.

    A cell with the same record in several folders is one. If its records differ, one that is ok is kept rather than one
    that is not, then the newest. ``out`` may be one of the folders, or hold results already; nothing else is changed.

    Raises:
        UserError: a folder has no results, or ``out`` cannot be written.
    """
    stores = [Store.open(folder) for folder in folders]
    infos = [store.run_info() for store in stores]
    there = (out / "run.json").exists()
    target = Store.create(out)
    for info in (*infos, infos[0]):
        target.write_run_info(info)
    joined = Joined()
    where = {record.id: out for record in target.each()}
    for store in stores:
        joined.taken[store.folder] = 0
        if there and store.folder.resolve() == out.resolve():
            continue
        joined.unusable += _unusable(store)
        for record in store.each():
            if _takes(target, record, store.folder, where, joined):
                _copy(store, target, record)
                joined.taken[store.folder] += 1
                where[record.id] = store.folder
    joined.cells = len(target.each())
    target.write_table()
    return joined


def _takes(target: Store, record: Record, folder: Path, where: dict[str, Path], joined: Joined) -> bool:
    """Tell whether a record takes its place in ``target``, and note why not, or what it takes the place of."""
    before = target.read(record.id)
    if before is None:
        return True
    if _content(before, target) == _content(record, Store(folder)):
        joined.repeated += 1
        return False
    better = max((before, record), key=lambda each: (each.status == "ok", each.started or "")) is record
    kept, other = (folder, where[record.id]) if better else (where[record.id], folder)
    which = f"{record.status} of {folder}, {before.status} of {where[record.id]}"
    joined.conflicts.append(
        f"cell {record.id} ({record.cell.title}): {which}; kept that of {kept}, not that of {other}"
    )
    return better


def _content(record: Record, store: Store) -> tuple[object, object]:
    """Return what two records of a cell are compared by: where it ran is what its environment says."""
    return replace(record, environment=None), store.environment(record.environment)


def _unusable(store: Store) -> Iterator[str]:
    for id in store.ids():
        if store.read(id) is None:
            yield f"{store.path('cells', id)}: not a valid record, left out"


def _copy(source: Store, target: Store, record: Record) -> None:
    environment = source.environment(record.environment)
    if environment is not None and record.environment is not None:
        there = target.environment(record.environment)
        if there is None:
            _copy_file(source.path("environments", record.environment), target.path("environments", record.environment))
        elif there != environment:  # another one of that name: both are kept
            record = replace(record, environment=environment.id)
            target.write_environment(environment)
    for kind in _BESIDE:
        path = target.path(kind, record.id)
        path.unlink(missing_ok=True)
        _copy_file(source.path(kind, record.id), path)
    if record.weights is not None and record.weights.folder is None and record.weights.cell != record.id:
        _copy_file(source.path("weights", record.weights.cell), target.path("weights", record.weights.cell))
    target.write(record)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a regular file, if there is one."""
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with open(handle, "rb") as file:
        if S_ISREG(os.fstat(file.fileno()).st_mode):
            with atomic_write(target) as copy:
                shutil.copyfileobj(file, copy)
