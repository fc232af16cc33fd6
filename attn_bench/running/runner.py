"""Runs a sweep from settings to table; the Python API and the command line both end here."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.errors import DiskError, UserError
from attn_bench.format import clean
from attn_bench.plugin import PrepareContext
from attn_bench.plugins.registry import TASKS
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep, imported
from attn_bench.sweep.variants import BROKEN

if TYPE_CHECKING:
    import pandas as pd

    from attn_bench.running.local import Limits, Listener


def default_folder(sweep: Sweep) -> Path:
    """Return ``results/<task>-<date>``, or ``results/measure-<task>-<date>`` where nothing is trained."""
    return Path("results") / f"{'' if sweep.train else 'measure-'}{sweep.task}-{datetime.date.today().isoformat()}"


def prepare_data(
    task_name: str,
    cells: Sequence[Cell],
    on_progress: Callable[[int, int], None],
    on_warning: Callable[[str], object] = warnings.warn,
    on_read: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Make or fetch the data of ``cells`` before any of them runs, so that no cell's time holds it.

    Returns what was read or made, in lines as the task says it; ``on_read`` is told each.
    """
    if all(cell.training is None for cell in cells):
        return []
    task = TASKS.load(task_name)
    resolutions = tuple(dict.fromkeys(r for cell in cells for r in (cell.resolution, *cell.eval_resolutions)))
    prepared = task.prepare(resolutions, task.options(**cells[0].task_options), PrepareContext(on_progress))
    lines = [clean(line) for line in prepared.read]
    for line in lines:
        on_read(line)
    for line in prepared.warnings:
        on_warning(line)
    return lines


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    limits: Limits | None = None,
    retry: Literal["none", "failed", "all"] = "none",
    skip_larger: bool = True,
    on_cells: Callable[[Sequence[Cell], Sequence[str]], None] = lambda cells, there: None,
    on_data: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], object] = warnings.warn,
    on_read: Callable[[str], object] = lambda line: None,
    listen: Listener = lambda cell, event: None,
) -> pd.DataFrame:
    """Run what is missing of ``sweep`` in ``out`` and return the table of the folder.

    A second call runs only what is not there yet. The table on disk is brought up to date even when interrupted.
    ``attrs["data"]`` of the table says in lines what data this call read or made.

    Args:
        on_read: told these lines, before anything runs.
        on_cells: told all cells, and the status of each that is there already and is not run again.

    Raises:
        UserError, OptionError, DataError: before anything is run or written.
    """
    from attn_bench.running.local import Limits, due, execute

    cells = sweep.cells()
    task = TASKS.load(sweep.task)
    store = Store.create(out, sweep.task)
    parts, there = [], []
    for cell in cells:
        if (part := due(store, cell, retry)) is not None:
            parts.append(part)
        elif record := store.read(cell.id):
            there.append(record.status)
    on_cells(cells, there)
    try:
        read = prepare_data(sweep.task, parts, on_data, on_warning, on_read)
    except BaseException:
        store.discard_empty()
        raise
    _forget_broken(store, cells)
    with _goes_on_later():
        store.write_run_info(RunInfo(sweep.task, dict(task.metrics), dataclasses.asdict(sweep)))
        try:
            execute(
                cells,
                store,
                limits=limits or Limits(),
                retry=retry,
                skip_larger=skip_larger,
                modules=imported(cells),
                listen=listen,
            )
        finally:
            table = store.write_table()
    if table.empty:
        raise UserError(f"--out {out}: its records were removed while it ran; the same command makes them again")
    table.attrs["data"] = read
    return table


def _forget_broken(store: Store, cells: Sequence[Cell]) -> None:
    """Remove the rows of models whose plugins were broken and can be used now."""
    usable = {cell.model for cell in cells if cell.broken is None}
    for id in list(store.ids()):
        record = store.read(id)
        if record is not None and record.cell.model_version == BROKEN and record.cell.model in usable:
            store.path("cells", id).unlink(missing_ok=True)


@contextlib.contextmanager
def _goes_on_later() -> Iterator[None]:
    """Add to a DiskError what it means for a run."""
    try:
        yield
    except DiskError as error:
        remedy = "; what is finished is kept, and the same command goes on from there once it can be written"
        raise DiskError(error.path, error.reason, remedy) from error


def run(
    models: Iterable[str | Mapping[str, Any]],
    task: str,
    *,
    out: str | Path | None = None,
    retry: Literal["none", "failed", "all"] = "none",
    timeout_s: float | None = None,
    memory_limit_mib: float | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Run a sweep and return its table, one row per cell; ``attrs["data"]`` of it says what data were read.

    Args:
        models: names, ``"name:preset"``, or mappings with ``name`` and any of ``preset``, ``options``, ``label``.
        task: name of the task.
        out: results folder; default ``results/<task>-<date>``. What it already holds is not run again.
        retry: ``"failed"`` runs failed cells again, ``"all"`` every cell.
        timeout_s: seconds a cell may take.
        memory_limit_mib: resident memory a cell may take.
        **settings: the other attributes of ``sweep.settings.Sweep``, e.g. ``resolutions=[16, 32]``, ``seeds=3``.

    Raises:
        UserError, OptionError, DataError: wrong input; nothing has been run.
    """
    from attn_bench.running.local import Limits

    sweep = Sweep.from_settings({**settings, "models": tuple(models), "task": task})
    folder = Path(out) if out is not None else default_folder(sweep)
    return run_sweep(sweep, folder, retry=retry, limits=Limits(timeout_s, memory_limit_mib))


def measure(models: Iterable[str | Mapping[str, Any]], task: str = "darcy", **settings: Any) -> pd.DataFrame:
    """Measure models on random inputs without training them; arguments and errors are those of :func:`run`."""
    return run(models, task, train=False, **settings)
