"""Trained models whose weights an earlier run kept: which there are, and cells that evaluate them once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_bench.errors import DataError, OptionError, UserError, unknown
from attn_bench.plugin import Task
from attn_bench.plugins.fingerprint import HARNESS, Source, harness
from attn_bench.plugins.options import changed
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.labels import labels
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.executors.slurm.resources import device_of
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.devices import resolve_device
from attn_bench.sweep.execution import Running
from attn_bench.sweep.expansion import Expansion, expanded
from attn_bench.sweep.fields import built, read, settings_of
from attn_bench.sweep.groups import Measuring
from attn_bench.sweep.settings import Sweep

# What may be said of a run that trains nothing, besides how it is executed.
_CHOOSES = {"models", "task", "resolutions", "seeds"}
_EVALUATES = {"eval_resolutions", "options", "set", "batch_size", "precision", "device", "threads"}


def kept_record(store: Store, id: str) -> Record:
    """Return the record of a cell whose weights were kept; raises UserError where there is none."""
    if id not in (ids := set(store.ids())):
        raise unknown(f"cell in {store.folder}", id, ids)
    if (record := store.read(id)) is None:
        raise UserError(f"cell {id}: its record, {store.path('cells', id)}, is damaged; train it again")
    if record.weights is None:  # those of another record of the same cell may have been
        record = next((each for each in store.records() if each.id == id), record)
    if record.weights is None or record.cell.weights is not None:
        why = record.errors.get("weights")
        reason = why or "train it with --keep-weights (--retry all trains finished cells again)"
        raise UserError(f"cell {id} ({record.cell.title}): its weights were not kept; {reason}")
    return record


def changed_since(cell: Cell) -> str | None:
    """Say which code of a cell has changed since it was trained; None if none has.

    Raises:
        UserError: its plugins are not installed, or broken.
    """
    for registry, name, version in ((MODELS, cell.plugin, cell.model_version), (TASKS, cell.task, cell.task_version)):
        entry = registry.entry(name)
        entry.load()
        if (now := entry.fingerprint()) != version:
            return f"the code of {registry.what} {name} has changed since ({version} then, {now} now)"
    return None


@dataclass(frozen=True)
class Reevaluation(Sweep):
    """A sweep of models that are trained already: those of a results folder whose weights were kept.

    Attributes:
        weights_from: the folder.
        chosen_seeds: of the models; all where None.
        device_given: where they are evaluated.
    """

    weights_from: str = ""
    chosen_seeds: tuple[int, ...] | None = None
    changed_execution: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: str, given: Mapping[str, Any]) -> Reevaluation:
        """Build from plain values; without ``models``, ``resolutions`` and ``seeds`` all that were kept are evaluated.

        Raises:
            UserError: a setting that cannot be, or that has no effect where nothing is trained.
        """
        known, values = settings_of(Sweep), read(Sweep, given)
        for name, value in values.items():
            data = known[name].group == "paths"
            if name not in _CHOOSES | _EVALUATES and not data and value != known[name].default:
                raise UserError(f"{known[name].flag}: has no effect with --from, which trains and measures nothing")
        if isinstance(size := values.get("batch_size"), str):
            raise UserError(f"--batch-size {size}: with --from, which trains nothing, give a number")
        tasks = tuple(Store.open(Path(folder)).run_info().tasks)
        for task in values.setdefault("task", tasks):
            if task not in tasks:
                raise UserError(f"--task {task}: the models in {folder} were trained on {', '.join(tasks)}")
        seeds = values.pop("seeds", None)
        execution = {name: values[name] for name in ("batch_size", "precision", "device", "threads") if name in values}
        return built(
            cls,
            {
                "models": (),
                **values,
                "weights_from": folder,
                "chosen_seeds": tuple(range(seeds)) if isinstance(seeds, int) else seeds,
                "changed_execution": execution,
            },
        )

    def cells(self, *, here: bool = True) -> list[Cell]:
        """Return a cell for each model to be evaluated.

        Raises:
            UserError, OptionError, DataError: nothing was kept of what is asked for, or the data cannot be had.
        """
        if not here:
            raise UserError(f"--from {self.weights_from}: models are evaluated here; leave out --executor slurm")
        store = Store.open(Path(self.weights_from))
        records = self._chosen(store)
        self._check_options()
        # As in the table, cells that differ in a setting of their training are told apart.
        named = {record.id: name for record, name in zip(records, labels(records))}
        cells: list[Cell] = []
        for name in self.task:
            own = [record for record in records if record.cell.task == name]
            evaluated = {record.id: self.eval_resolutions or (record.cell.resolution,) for record in own}
            every = tuple(dict.fromkeys(r for each in evaluated.values() for r in each))
            task = TASKS.load(name)
            for record in own:
                variant = named[record.id].removeprefix(record.cell.model).strip(" []")
                cell = self._cell(store, record, task, evaluated[record.id], every)
                cells.append(dataclasses.replace(cell, variant=variant))
        if all(cell.broken for cell in cells):
            raise UserError(f"--from {self.weights_from}: {cells[0].broken}; train the models again")
        return cells

    def _chosen(self, store: Store) -> list[Record]:
        kept = [record for record in store.records() if record.weights is not None and record.cell.weights is None]
        kept = [record for record in kept if record.cell.task in self.task]
        if not kept:
            raise UserError(
                f"--from {store.folder}: no weights were kept there; train with --keep-weights "
                "(--retry all trains finished cells again)"
            )
        names = {name for record in kept for name in (record.cell.model, record.cell.plugin)}
        for model in self.models:
            if not isinstance(model, str) or model not in names:
                raise unknown(f"model with weights in {store.folder}", str(model), names)
        axes: Sequence[tuple[str, Iterable[int] | None, str]] = (
            ("resolution", self.resolutions, "--resolutions"),
            ("seed", self.chosen_seeds, "--seeds"),
        )
        for axis, wanted, flag in axes:
            there = sorted({getattr(record.cell, axis) for record in kept})
            if wanted and (absent := [each for each in wanted if each not in there]):
                raise UserError(
                    f"{flag}: no kept model was trained with {axis} {absent[0]}; there are {', '.join(map(str, there))}"
                )
        return [
            record
            for record in kept
            if (not self.models or {record.cell.model, record.cell.plugin} & set(map(str, self.models)))
            and (not self.resolutions or record.cell.resolution in self.resolutions)
            and (self.chosen_seeds is None or record.cell.seed in self.chosen_seeds)
        ]

    def _check_options(self) -> None:
        for owner in self.options_by_owner():
            if owner not in self.task:
                tasks = " and ".join(self.task)
                raise UserError(f"--set {owner}: with --from only options of {tasks} can be set; not of models")

    def _cell(
        self, store: Store, record: Record, task: Task, evaluated: tuple[int, ...], every: tuple[int, ...]
    ) -> Cell:
        weights, source = record.weights, record.cell
        assert weights is not None
        changed_execution = {"batch_size": record.batch_size or task.defaults.batch_size, **self.changed_execution}
        execution = dataclasses.replace(source.execution, compile=False, threads=None, **changed_execution)
        sources: dict[str, Source] = {}
        if (broken := changed_since(source)) is None:
            sources = {
                HARNESS: harness(),
                **TASKS.entry(source.task).sources(),
                **MODELS.entry(source.plugin).sources(),
            }
        return dataclasses.replace(
            source,
            task_options=changed(self._data(task, source, evaluated, every)),
            execution=dataclasses.replace(
                execution, device=resolve_device(self.changed_execution.get("device", "auto"))
            ),
            measuring=Measuring(measure=False),
            eval_resolutions=evaluated,
            weights=weights.sha256,
            weights_in=(str(store.folder), record.id),
            sources=sources,
            broken=broken,
        )

    def _data(self, task: Task, source: Cell, evaluated: tuple[int, ...], every: tuple[int, ...]) -> Any:
        """Return the options of the data: those given, if any are, or else those of the data trained on."""
        paths = bool(self.paths.given())
        try:
            if self.options_by_owner().get(task.name) or paths:
                return task.resolve(every, self.options_of_task(task)[0])
            return task.resolve(evaluated, task.options(**source.task_options))
        except (OptionError, DataError) as error:
            hint = "" if self.eval_resolutions else "; name those to evaluate at with --eval-resolutions"
            raise type(error)(f"task {task.name}: {error}{hint}") from error


def expansion_of(sweep: Sweep, running: Running) -> Expansion:
    """Return the cells of a sweep, and lines on what was asked for and means nothing.

    Raises:
        UserError, OptionError, DataError: a name, option, resolution or file that cannot be used.
    """
    here = running.executor == "local"
    if isinstance(sweep, Reevaluation):
        return Expansion(sweep.cells(here=here))
    if here:
        return expanded(sweep)
    device = device_of(sweep.execution.device, running.slurm, running.resources)
    execution = dataclasses.replace(sweep.execution, device=device)
    return expanded(dataclasses.replace(sweep, execution=execution), here=False)
