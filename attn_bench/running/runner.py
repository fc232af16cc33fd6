"""Runs a sweep from settings to table; the Python API and the command line both end here."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.errors import DiskError, UserError
from attn_bench.format import clean
from attn_bench.plugin import PrepareContext
from attn_bench.plugins.registry import TASKS
from attn_bench.results.older import why_again
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo
from attn_bench.results.status import Status
from attn_bench.results.store import Store
from attn_bench.running.client import warm
from attn_bench.running.executors import Executor
from attn_bench.running.executors.choice import executor_of, searches_at_a_time
from attn_bench.running.reuse import Reevaluation, expansion_of
from attn_bench.running.trackers.tracking import Tracking
from attn_bench.running.tuning import TRIALS, by_search, failed, is_tuned, so_far, tune
from attn_bench.running.work import AS_USUAL, FINAL, Current, Listener, Work, unserved
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running
from attn_bench.sweep.expansion import imported
from attn_bench.sweep.fields import built, read, settings_of
from attn_bench.sweep.settings import Sweep

if TYPE_CHECKING:
    import pandas as pd


def default_folder(sweep: Sweep) -> Path:
    """Return ``results/<task>-<date>``, with ``measure-`` or ``evaluate-`` before it where nothing is trained.

    Several tasks are joined, from four on the first stands for all.
    """
    kind = "evaluate-" if isinstance(sweep, Reevaluation) else "" if sweep.train else "measure-"
    few = len(sweep.task) < 4
    tasks = "+".join(sweep.task) if few else f"{sweep.task[0]}+{len(sweep.task) - 1}-tasks"
    return Path("results") / f"{kind}{tasks}-{datetime.date.today().isoformat()}"


@dataclass(frozen=True)
class Watcher:
    """Callbacks that follow a sweep.

    Attributes:
        on_cells: called with all cells, and with the status of each that has a record already and is not run again.
        on_source: called with a title before the data of a task are generated or fetched.
        on_data: called with how much of them is generated or fetched.
        on_read: called with one line per data set that was read or generated, before anything runs.
        on_warning: called with each warning about the sweep or its data.
        listen: called with each event of a cell.
    """

    on_cells: Callable[[Sequence[Cell], Sequence[str]], None] = lambda cells, there: None
    on_source: Callable[[str], None] = lambda title: None
    on_data: Callable[[int, int], None] = lambda done, total: None
    on_read: Callable[[str], object] = lambda line: None
    on_warning: Callable[[str], object] = warnings.warn
    listen: Listener = lambda cell, event: None


SILENT = Watcher()


def prepare_data(cells: Sequence[Cell], watcher: Watcher) -> list[str]:
    """Generate or fetch the data of ``cells`` before any of them runs, so that no cell's time includes it.

    Returns the tasks' lines on what was read or generated.
    """
    sources: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.training is not None:
            options = " ".join(f"{name}={value}" for name, value in cell.task_options.items())
            sources.setdefault(f"data of {cell.task} {options}".rstrip(), []).append(cell)
    lines: list[str] = []
    for title, of in sources.items():
        watcher.on_source(title)
        task = TASKS.load(of[0].task)
        resolutions = tuple(dict.fromkeys(r for cell in of for r in cell.evaluated))
        prepared = task.prepare(resolutions, task.options(**of[0].task_options), PrepareContext(watcher.on_data))
        for line in map(clean, prepared.read):
            if line not in lines:
                lines.append(line)
                watcher.on_read(line)
        for line in prepared.warnings:
            watcher.on_warning(line)
    return lines


def run_sweep(sweep: Sweep, out: Path, running: Running = AS_USUAL, watcher: Watcher = SILENT) -> pd.DataFrame:
    """Run the cells of ``sweep`` that ``out`` lacks and return the table of the folder.

    A second call runs only cells without a record. The table on disk is updated even after an interruption.
    ``attrs["data"]`` of the table lists the data that this call read or generated; ``attrs["left"]`` says which cells
    have no record yet, where jobs of a cluster were not waited for or were cancelled.

    Raises:
        UserError, OptionError, DataError: before anything is run or written.
    """
    if isinstance(sweep, Reevaluation) and out.resolve() == Path(sweep.weights_from).resolve():
        raise UserError(f"--out {out}: is the folder that --from names; name another one")
    expansion = expansion_of(sweep, running)
    asked = [dataclasses.replace(cell, keep_weights=running.keep_weights) for cell in expansion.cells]
    cells, _ = so_far(asked, out)
    store = Store.create(out)
    work = Work.of(cells, store, running, modules=imported(cells), listen=watcher.listen)
    parts, there = _due(work)
    watcher.on_cells(cells, there)
    for line in _of_what_is_there(work, parts):
        watcher.on_warning(line)
    tasks = {name: TASKS.load(name) for name in dict.fromkeys(cell.task for cell in cells)}
    not_served = [unserved(part) for part in parts]
    for line in dict.fromkeys((*expansion.notes, *filter(None, not_served))):
        watcher.on_warning(line)
    try:
        parts = [part for part, line in zip(parts, not_served) if line is None]
        execute = executor_of(running, cells, parts)
        data = prepare_data(parts, watcher)
    except BaseException:
        store.discard_empty()
        raise
    _forget_broken(store, cells)
    with _resumable(), warm():
        metrics = {name: dict(task.metrics) for name, task in tasks.items()}
        store.write_run_info(RunInfo(metrics, dataclasses.asdict(sweep)))
        said: list[str | None] = []
        try:
            # A run that is stopped then has rows of the first models, and not only trials of all.
            for group in by_search(cells, searches_at_a_time(running, parts)):
                chosen, waits = _tuned(dataclasses.replace(work, cells=group), execute)
                try:
                    said += (waits, execute(_without_failed(filter(is_tuned, chosen), work)))
                finally:
                    _keep_trials(chosen, store)
        finally:
            table = store.write_table()
    left = "; ".join(filter(None, said)) or None
    if table.empty and left is None:
        raise UserError(
            f"--out {out}: its records were removed while it ran; rerun the same command to create them again"
        )
    table.attrs.update({"data": data} if left is None else {"data": data, "left": left})
    return table


def _of_what_is_there(work: Work, parts: Sequence[Cell]) -> Iterator[str]:
    """Yield why cells are trained again, and which finished ones have no weights to keep."""
    recorded = work.store.each_short()
    if again := why_again((cell for cell in work.cells if cell.id not in recorded), recorded.values()):
        yield again
    if work.running.keep_weights and (without := _without_weights(work.store, work.cells, parts)):
        yield f"{without} finished cell{'s' * (without > 1)} kept no weights; --retry all trains finished cells again"


def _tuned(work: Work, execute: Executor) -> tuple[list[Cell], str | None]:
    """Return the cells of ``work`` with the settings that are chosen for them, after the trials that this takes.

    The second value says why trials are left, if some are.
    """
    if all(cell.tuning is None for cell in work.cells):
        return list(work.cells), None
    trials = Store.create(work.store.folder / TRIALS)
    trials.write_run_info(work.store.run_info())
    retry = work.running.retry

    def again(record: Record) -> bool:
        return retry == "all" or (retry == "failed" and record.status not in FINAL)

    def run(needed: list[Cell]) -> str | None:
        return execute(Work.of(needed, trials, work.running, modules=work.modules, listen=work.listen))

    return tune(work.cells, trials, again, run)


def _without_failed(cells: Iterable[Cell], work: Work) -> Work:
    """Return ``work`` on ``cells`` after tuning; where all trials of a cell failed, its record says so instead."""
    left = []
    for cell in cells:
        if (record := failed(cell)) is None:
            left.append(cell)
        else:
            work.store.write(record)
            work.listen(cell, {"event": "done", "status": record.status, "record": record})
    before = Work.of(left, work.store, work.running).before
    return dataclasses.replace(work, cells=left, before={**before, **work.before})


def _keep_trials(cells: Sequence[Cell], store: Store) -> None:
    """Add to the records of cells by which trials their settings were chosen."""
    for cell in cells:
        record = store.read(cell.id) if cell.trials else None
        if record is not None and record.trials != cell.trials:
            store.write(dataclasses.replace(record, trials=cell.trials))


def _due(work: Work) -> tuple[list[Cell], list[Status]]:
    """Return the parts of the cells to run, and the status of the cells that are not run."""
    parts, there, current = [], [], Current()
    shorts = work.store.each_short()
    for cell in work.cells:
        if (part := work.due(cell, current)) is not None:
            parts.append(part)
        elif cell.id in shorts:
            there.append(shorts[cell.id].brief.status)
    return parts, there


def _without_weights(store: Store, cells: Sequence[Cell], due: Sequence[Cell]) -> int:
    """Count the trained cells that are not due again and whose weights were not kept, though they could have been."""
    waiting, each = {cell.id for cell in due}, store.each_by_id()
    records = (each.get(cell.id) for cell in cells if cell.training is not None and cell.id not in waiting)
    return sum(
        record is not None and record.status == "ok" and record.weights is None and "weights" not in record.errors
        for record in records
    )


def _forget_broken(store: Store, cells: Sequence[Cell]) -> None:
    """Remove the rows of models whose plugins were broken and can be used now."""
    usable = {cell.model for cell in cells if cell.broken is None}
    for id, short in store.each_short().items():
        if short.brief.broken and short.brief.model in usable:
            store.path("cells", id).unlink(missing_ok=True)


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Add to a DiskError how to resume the run."""
    try:
        yield
    except DiskError as error:
        remedy = "; finished cells are kept: rerun the same command to resume once it can be written"
        raise DiskError(error.path, error.reason, remedy) from error


def separated(settings: Mapping[str, Any]) -> tuple[Sweep, Running]:
    """Return the sweep and how to run it, from plain values; raises UserError."""
    names = settings_of(Running).keys()
    running = built(Running, read(Running, {name: value for name, value in settings.items() if name in names}))
    rest = {name: value for name, value in settings.items() if name not in names}
    if running.weights_from is None:
        sweep = Sweep.from_settings(rest)
        if running.keep_weights and not sweep.train:
            raise UserError("setting keep_weights: has no effect without training (train: false)")
        return sweep, running
    if running.keep_weights:
        raise UserError("--keep-weights: has no effect with --from, which trains nothing")
    return Reevaluation.of_folder(running.weights_from, rest), running


def run(models: Any = None, task: Any = None, **settings: Any) -> pd.DataFrame:
    """Run a sweep and return its table, one row per cell; its ``attrs["data"]`` lists the data that were read.

    With ``weights_from`` the models that were kept in that folder are evaluated, all of them unless ``models`` names
    some, and nothing is trained.

    Args:
        models: names, ``"name:preset"``, or mappings with ``name`` and any of ``preset``, ``options``, ``label``.
        task: name of the task, or names.
        **settings: the keys of a sweep file (docs/sweep-file.md), e.g. ``resolutions="16..64"``, ``seeds=3``,
            ``precision=["float32", "bf16"]``, ``out="results/mine"``.

    Raises:
        UserError, OptionError, DataError: wrong input; nothing has been run.
    """
    sweep, running = separated({"models": models, "task": task, **settings})
    out = Path(running.out) if running.out else default_folder(sweep)
    tracking = Tracking.of(running.track, out)
    table = run_sweep(sweep, out, running, Watcher(listen=tracking.listening(SILENT.listen)))
    if not table.empty:
        tracking.finish()
    return table


def measure(models: Any, task: Any = "darcy", **settings: Any) -> pd.DataFrame:
    """Measure models on random inputs without training them; arguments and errors are those of :func:`run`."""
    return run(models, task, train=False, **settings)
