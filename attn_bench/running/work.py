"""What of a sweep's cells is to be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attn_bench.plugins.fingerprint import digest
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.brief import Brief
from attn_bench.results.record import Record
from attn_bench.results.status import Status
from attn_bench.results.store import Store
from attn_bench.sweep import versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Retry, Running

Listener = Callable[[Cell, dict[str, Any]], None]

# Statuses that running a cell again would not change.
FINAL = ("ok", "unsupported")
# After these, larger resolutions of the same model need not be tried.
_FRONTIER: Mapping[Status, str] = {"oom": "out of memory", "timeout": "out of time"}
AS_USUAL = Running()


@dataclass(frozen=True)
class Work:
    """Cells that are to be run, where their records go, and how they are run.

    Attributes:
        modules: needed by the models; a fork server imports those of known libraries once.
        listen: called with events: ``start``, ``progress``, ``done`` with the record and its status. Executors that run
            several cells at a time call it from several threads, one at a time.
        before: stamp of the record that a cell had when the work was given out, by id. A cell that has another record
            by now has been run by somebody, and is not run again because of ``retry``.
    """

    cells: Sequence[Cell]
    store: Store
    running: Running = AS_USUAL
    modules: Sequence[str] = ()
    listen: Listener = lambda cell, event: None
    before: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Sequence[Cell], store: Store, running: Running = AS_USUAL, **others: Any) -> Work:
        """Return the work on ``cells``, with the records that are there now as those from before."""
        before = {} if running.retry == "none" else {cell.id: store.stamp(cell.id) for cell in cells}
        return cls(cells, store, running, before=before, **others)

    def due(self, cell: Cell, current: Current | None = None) -> Cell | None:
        """Return the part of a cell that is still to be run (:func:`due`)."""
        retry = self.running.retry
        renewed = retry != "none" and self.store.stamp(cell.id) != self.before.get(cell.id)
        return due(self.store, cell, "none" if renewed else retry, current)


class Current:
    """The digests of modules as they are now, each found once for all cells of one code."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], str | None] = {}

    def digest(self, module: str, cell: Cell) -> str | None:
        """Return that of a module that a process of the cell imported, or would; None if it is not found."""
        key = module, cell.model_version, cell.task_version
        if key not in self._known:
            self._known[key] = digest(module, cell.sources.values())
        return self._known[key]


def due(store: Store, cell: Cell, retry: Retry, current: Current | None = None) -> Cell | None:
    """Return the part of a cell to run, or None.

    That is the whole cell if it has no record yet, or one that ``retry`` reruns; and a cell without training if only
    measurements are missing or ``retry`` asks for those.

    Args:
        current: where modules were looked for already, if many cells are looked at.
    """
    short = store.short(cell.id)
    record = None if short is None else short.brief
    if record is None or retry == "all" or cell.broken is not None or _outdated(record, cell, current or Current()):
        return cell
    if record.status == "ok":
        measured = record.measure and record.measured_version in (None, versions.MEASURING)
        return None if measured and not (retry == "disturbed" and record.disturbed) else _measuring(cell)
    if retry == "failed" and record.status not in FINAL:
        done = record.trained and {*record.evaluated} >= {*cell.eval_resolutions}
        return _measuring(cell) if done and cell.measuring.measure else cell
    return _measuring(cell) if record.lacks_measuring else None


def unserved(cell: Cell) -> str | None:
    """Return a line if the model of ``cell`` does not serve the kind of its task, as its record will say; else None."""
    if cell.broken is not None or (kind := TASKS.load(cell.task).kind) in (kinds := MODELS.load(cell.plugin).kinds):
        return None
    return f"{cell.plugin} serves {', '.join(sorted(kinds))}; the kind of {cell.task} is {kind}, so it is not run"


def _measuring(cell: Cell) -> Cell | None:
    return cell.only_measured() if cell.measuring.measure else None


def _outdated(record: Brief, cell: Cell, current: Current) -> bool:
    """Tell whether a record comes from other code than its cell's id says, which only running it revealed."""
    return any(current.digest(module, cell) != known for module, known in record.imported.items())


class Frontier:
    """Beyond what resolution a model runs out of memory or time, in the records of a folder.

    Attributes:
        looked_at: by model and settings: resolutions, by id, of cells that failed so or may yet.
    """

    def __init__(self, store: Store, looked_at: Mapping[str, Mapping[str, int]]) -> None:
        self.store, self.looked_at = store, looked_at

    @classmethod
    def of(cls, work: Work) -> Frontier | None:
        """Return that of a folder for some work, where larger resolutions are skipped."""
        if not work.running.skip:
            return None
        failed = (
            record.cell
            for id, short in work.store.each_short().items()
            if short.brief.status in _FRONTIER and (record := work.store.read(id)) is not None
        )
        looked_at: dict[str, dict[str, int]] = {}
        for cell in (*work.cells, *failed):
            looked_at.setdefault(_family(cell), {})[cell.id] = cell.resolution
        return cls(work.store, looked_at)

    def part(self, cells: Iterable[Cell]) -> dict[str, Mapping[str, int]]:
        """Return what is looked at for some of the cells."""
        families = {_family(cell) for cell in cells}
        return {family: ids for family, ids in self.looked_at.items() if family in families}

    def skipped(self, cell: Cell, part: Cell) -> Record | None:
        """Return a ``skipped`` record if a smaller resolution of the same model ran out of memory or time."""
        looked_at = self.looked_at.get(_family(cell), {})
        for id, resolution in sorted(looked_at.items(), key=lambda item: item[1]):
            short = self.store.short(id) if resolution < cell.resolution else None
            if short is not None and short.brief.status in _FRONTIER:
                reason = f"{_FRONTIER[short.brief.status]} at {resolution} already (--no-skip runs it)"
                return Record(part, "skipped", error=reason)
        return None


def _family(cell: Cell) -> str:
    """Return what names the same model at all resolutions and for all seeds."""
    # What tuning chose may differ between resolutions.
    training = cell.training if cell.tuning is None else None
    return replace(cell, resolution=0, seed=0, eval_resolutions=(), training=training).id
