"""Times a few training steps of cells that no record says anything of, for the estimates of a dry run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.executors import sequential
from attn_bench.running.runner import SILENT, Watcher, prepare_data
from attn_bench.running.work import Work
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running
from attn_bench.sweep.expansion import imported
from attn_bench.sweep.groups import Measuring

STEPS = 5


@dataclass(frozen=True)
class Known:
    """What the record of one cell says of cells like it.

    Attributes:
        cell: which cells those are.
        record: of a training, which may be shorter than that of ``cell``.
        disk: bytes of its files.
    """

    cell: Cell
    record: Record
    disk: int

    @classmethod
    def of(cls, store: Store, record: Record, cell: Cell | None = None) -> Known:
        """Return what a record in ``store`` says."""
        paths = [store.path(kind, record.id) for kind in ("cells", "artifacts", "logs")]
        disk = sum(path.stat().st_size for path in paths if path.is_file())
        return cls(cell or record.cell, record, disk)


def check(running: Running) -> None:
    """Raise UserError where steps that are timed here say nothing of the run."""
    if running.executor != "local":
        raise UserError("--time-steps: steps are timed on this machine, not where jobs run; leave it out")
    if running.weights_from is not None:
        raise UserError("--time-steps: with --from nothing is trained; leave it out")


def time_steps(
    cells: Iterable[Cell], running: Running, watcher: Watcher = SILENT, told: Callable[[str], None] = lambda line: None
) -> list[Known]:
    """Train each of ``cells`` for a few steps, in a process of its own, as a run does; return what is known then.

    Their data are generated or fetched first, as a run would do. Cells that are not trained are left out, and so are
    those that fail, of which ``told`` receives a line.
    """
    asked = [cell for cell in cells if cell.training is not None and cell.broken is None]
    short = {_short(cell).id: cell for cell in asked}
    prepare_data(asked, watcher)
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        store = Store.create(Path(folder) / "timed")
        trials = [_short(cell) for cell in asked]
        sequential.run(
            Work.of(trials, store, replace(running, retry="none"), modules=imported(asked), listen=watcher.listen)
        )
        records: Sequence[Record] = [record for trial in trials if (record := store.read(trial.id)) is not None]
        for record in records:
            if record.status != "ok":
                told(f"{short[record.id].title}: {record.status} ({record.error}); its steps could not be timed")
        return [Known.of(store, record, short[record.id]) for record in records if record.status == "ok"]


def _short(cell: Cell) -> Cell:
    """Return a cell with a few steps in place of its training, without measuring."""
    assert cell.training is not None
    training = replace(cell.training, epochs=None, seconds=None, steps=STEPS)
    measuring = Measuring(measure=False)
    return replace(cell, training=training, measuring=measuring, tuning=None, eval_resolutions=(), keep_weights=False)
