"""Runs one cell: data, model, training, evaluation, measuring; the result is one record, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from json import dumps, loads
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from attn_bench.errors import UserError
from attn_bench.plugin import Splits
from attn_bench.plugins.loaded import check_loaded
from attn_bench.results.environment import Environment
from attn_bench.results.record import Energy, Evaluation, Flops, Latency, Memory, Record, TrainingResult
from attn_bench.results.store import Kind, Store
from attn_bench.running import weights
from attn_bench.running.batch_size import LARGEST, find_batch_size
from attn_bench.running.cell_failures import FailedStatus, Failure, failures_to, named_after
from attn_bench.running.device.select import device_of
from attn_bench.running.evaluation import Evaluator, Trained
from attn_bench.running.measure.machine import environment
from attn_bench.running.measure.steps import Steps
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.prepare import (
    Posed,
    Prepared,
    count_parameters,
    in_samples,
    pose,
    prepare,
    set_flags,
    trainable,
    with_batch_size,
)
from attn_bench.running.reuse import kept_record
from attn_bench.running.room import ALL_OF_IT, Room
from attn_bench.running.train.checkpoint import batch_size_in
from attn_bench.running.train.course import Diverged
from attn_bench.running.train.loop import Progress, train
from attn_bench.running.train.regimes import training_setup
from attn_bench.running.train.setup import TrainingSetup
from attn_bench.running.train.step import Batch, autocast
from attn_bench.sweep import versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import AUTO

Report = Callable[[dict[str, Any]], None]
T = TypeVar("T")


@dataclass
class _Findings:
    """The findings so far; kept when a later part of the cell fails.

    Attributes:
        record: its fields are set as they become known.
        failure: the first one, which sets the status of the cell.
        missing: why a quantity is missing, by quantity.
    """

    keeper: Keeper
    record: Record
    effective: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    latency: dict[str, Latency] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    energy: dict[str, Energy] = field(default_factory=dict)
    flops: dict[str, Flops] = field(default_factory=dict)
    failure: Failure | None = None
    missing: dict[str, Failure] = field(default_factory=dict)

    def fail(self, failure: Failure) -> None:
        """Set the status of the cell by ``failure``, unless something failed before."""
        self.failure = self.failure or failure

    def without(self, quantity: str) -> AbstractContextManager[None]:
        """Return a block whose failure affects only ``quantity``."""
        return failures_to(lambda failure: self.miss(quantity, failure))

    def miss(self, quantity: str, failure: Failure) -> None:
        """Keep why ``quantity`` is missing."""
        self.missing.setdefault(quantity, failure)

    def finished(self, seconds: float) -> Record:
        """Return the record of all findings."""
        changed = self.keeper.changed_by_model()
        return replace(
            self.record,
            status=self.failure.status if self.failure else "ok",
            error=self.failure.reason if self.failure else None,
            evaluations=tuple(self.evaluations),
            latency=self.latency,
            memory=self.memory,
            energy=self.energy,
            flops=self.flops.get("forward"),
            errors={quantity: failure.reason for quantity, failure in self.missing.items()},
            effective=self.effective | ({"changed_by_model": changed} if changed else {}),
            in_force=self.keeper.in_force(),
            seconds=seconds,
        )


@dataclass(frozen=True)
class Files:
    """Absolute paths of the files of a cell besides its record."""

    checkpoint: Path
    artifact: Path
    weights: Path

    @classmethod
    def of(cls, cell: Cell, store: Store) -> Files:
        """Return their paths in ``store``."""
        kinds: tuple[Kind, ...] = ("checkpoints", "artifacts", "weights")
        return cls(*(store.path(kind, cell.id).absolute() for kind in kinds))


def run_cell(
    cell: Cell, files: Files, report: Report = lambda event: None, room: Room = ALL_OF_IT
) -> tuple[Record, Environment]:
    """Run ``cell`` and return its record, and the environment that it ran in; an error of the model becomes a status.

    Only ``files`` are written, as a model may have changed any function that writes.

    Raises:
        DiskError: ``files`` cannot be written.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    set_flags(cell)
    where = environment(cell.execution.device)
    # Before the model's code runs, which may change the functions that compute an id.
    findings = _Findings(Keeper(cell.seed), Record(cell, "crashed", environment=where.id, started=started))
    with failures_to(findings.fail):
        if cell.weights is None:
            _run(cell, files, report, findings, room)
        else:
            _evaluate_kept(cell, files, report, findings)
    return findings.finished(time.perf_counter() - began), where


def _run(cell: Cell, files: Files, report: Report, findings: _Findings, room: Room) -> None:
    keeper = findings.keeper
    posed = pose(cell, keeper)
    findings.record = replace(findings.record, tokens=posed.problem.tokens, reference=bool(posed.model.reference))
    with findings.without("complexity"):
        growth = posed.model.growth(posed.model.options(**cell.options))
        findings.record = replace(findings.record, complexity=growth)
    data = None
    if cell.execution.batch_size == AUTO:
        data = None if cell.training is None else _data(cell, posed, report)
        found = _batch_size(cell, posed, keeper, room, data, files, report)
        findings.effective |= found
        cell = with_batch_size(cell, found["batch_size"])
    elif cell.execution.batch_tokens is not None:
        cell = in_samples(cell, posed.problem)
        findings.effective["batch_size"] = cell.execution.samples
    prepared = prepare(cell, posed, keeper)
    findings.record = replace(
        findings.record, imported=check_loaded(cell.sources), parameters=count_parameters(prepared.module)
    )
    if prepared.output_dtype not in (
        torch.float32,
        torch.bfloat16 if cell.execution.precision == "bf16" else torch.float32,
    ):
        findings.effective["output_dtype"] = str(prepared.output_dtype).removeprefix("torch.")
    with findings.without("effective"), autocast(cell.execution.device, cell.execution.precision):
        own = loads(dumps(dict(posed.model.effective(prepared.module, posed.problem)), default=str))
        findings.effective = own | findings.effective
    if cell.training is not None:
        with failures_to(findings.fail):
            _train_and_evaluate(cell, posed, prepared, data, files, report, findings)
    if cell.measuring.measure:
        report({"stage": "measuring"})
        findings.record = replace(findings.record, measured_version=versions.MEASURING)
        _measure(prepared.steps(cell, posed, keeper), prepared, keeper, findings)
    # Again, as code may have been imported or edited in the meantime.
    with failures_to(findings.fail):
        findings.record = replace(findings.record, imported=check_loaded(cell.sources))


def _batch_size(
    cell: Cell, posed: Posed, keeper: Keeper, room: Room, data: Splits | None, files: Files, report: Report
) -> dict[str, Any]:
    """Return the batch size, as a setting in effect: that of an earlier part of the cell, or the largest that fits."""
    if known := room.known or (None if cell.training is None else batch_size_in(files.checkpoint)):
        return {"batch_size": known}
    most = LARGEST if data is None else len(data.train)  # type: ignore[arg-type]
    return find_batch_size(cell, posed, keeper, room, most, report)


def _train_and_evaluate(
    cell: Cell,
    posed: Posed,
    prepared: Prepared,
    data: Splits | None,
    files: Files,
    report: Report,
    findings: _Findings,
) -> None:
    splits = data or _data(cell, posed, report)
    findings.record = replace(findings.record, data={**splits.identity, "samples": splits.sizes})
    with findings.keeper.stage("training"):
        if posed.model.fit(prepared.module, splits.train):
            trained = Trained(prepared.module, prepared.module, _evaluated_on(cell, splits))
        elif prepared.untrainable is not None and cell.regime != "linear-probe":
            return findings.fail(prepared.untrainable)
        else:
            trained = _trained(cell, posed, prepared.module, splits, files, report, findings)
    if cell.keep_weights:
        with findings.without("weights"):
            kept = weights.keep(
                files.weights, trained.whole, findings.record.cell, adapted=trained.whole is not prepared.module
            )
            findings.record = replace(findings.record, weights=kept)
    report({"stage": "evaluating"})
    found = isinstance(findings.record.cell.execution.batch_size, str)
    evaluator = Evaluator(cell, posed, trained, findings.keeper, findings.miss, fits=found)
    evaluation, failure = evaluator.own(files.artifact)
    findings.evaluations.append(evaluation)
    if failure is not None:
        findings.fail(failure)
    findings.evaluations += (evaluator.other(resolution) for resolution in cell.eval_resolutions)
    if findings.record.weights is not None:
        _verify(cell, posed, trained, files, findings)


def _verify(cell: Cell, posed: Posed, trained: Trained, files: Files, findings: _Findings) -> None:
    """Keep no weights that do not make the module again."""
    kept = findings.record.weights
    assert kept is not None
    with findings.without("weights"), findings.keeper.stage("weights"):
        weights.verify(files.weights, kept, cell, posed, trained.whole, findings.keeper)
    if "weights" in findings.missing:
        findings.record = replace(findings.record, weights=None)
        files.weights.unlink(missing_ok=True)


def _evaluate_kept(cell: Cell, files: Files, report: Report, findings: _Findings) -> None:
    """Evaluate weights that were kept, where the cell says, and train nothing."""
    assert cell.weights_in is not None
    folder, id = cell.weights_in
    report({"stage": "loading"})
    store = Store(Path(folder))
    record = kept_record(store, id)
    if record.weights is None or record.weights.sha256 != cell.weights:
        raise UserError(f"cell {id} in {folder}: its weights are not those that the sweep began with; run it again")
    found = weights.loaded(record, store, cell.execution.device, findings.keeper)
    posed = found.posed
    with named_after(cell.task):
        posed = replace(posed, options=posed.task.options(**cell.task_options))
    findings.record = replace(
        findings.record,
        reference=bool(posed.model.reference),
        imported=check_loaded(cell.sources),
        parameters=count_parameters(found.module),
        weights=replace(record.weights, folder=folder),
    )

    def on_data(splits: Splits) -> None:
        findings.record = replace(findings.record, data=findings.record.data or dict(splits.identity))

    report({"stage": "evaluating"})
    trained = Trained(found.module, found.module, ())  # type: ignore[arg-type]
    evaluator = Evaluator(cell, posed, trained, findings.keeper, findings.miss)
    findings.evaluations += (evaluator.other(resolution, on_data, show=True) for resolution in cell.evaluated)
    evaluator.save_fields(files.artifact)
    first = findings.evaluations[0]
    if first.status != "ok" and all(entry.status != "ok" for entry in findings.evaluations):
        findings.fail(Failure(cast("FailedStatus", first.status), first.error or ""))


def _data(cell: Cell, posed: Posed, report: Report) -> Splits:
    """Return the data of a cell, with a validation set if it asks for one."""
    report({"stage": "data"})
    assert cell.training is not None
    share = cell.training.validation
    with named_after(cell.task):
        splits = posed.task.splits(cell.resolution, posed.options)
        if not share:
            return replace(splits, validation=None)
        return posed.task.hold_out(splits, share) if splits.validation is None else splits


def _trained(
    cell: Cell, posed: Posed, module: nn.Module, splits: Splits, files: Files, report: Report, findings: _Findings
) -> Trained:
    """Train ``module`` by gradient descent, in the regime of the cell."""
    assert cell.training is not None
    whole = posed.task.adapt(module, splits.train).to(device_of(cell.execution.device).tensors)
    if cell.regime == "linear-probe":
        report({"stage": "features"})
    elif not trainable(module):
        raise ValueError(
            "nothing to train: no parameter requires a gradient; let fit() return True to evaluate it untrained"
        )
    setup = training_setup(cell, posed.task, posed.model, posed.problem, module, whole, splits)

    def show(progress: Progress) -> None:
        report({"stage": "training", **asdict(progress)})

    def keep(result: TrainingResult) -> None:
        notes = {**setup.notes, **_smaller_batch(cell, setup)}
        findings.record = replace(findings.record, training=replace(result, notes=notes))

    try:
        keep(train(setup, cell.training, cell.execution, seed=cell.seed, checkpoint=files.checkpoint, report=show))
    except Diverged as error:
        if error.result is not None:
            keep(error.result)
        raise
    return Trained(whole, setup.module, _evaluated_on(cell, setup))


def _evaluated_on(cell: Cell, data: Splits | TrainingSetup) -> Dataset[Batch]:
    """Return the part of the data that a cell is evaluated on in the end."""
    if not cell.is_trial:
        return data.test
    assert data.validation is not None
    return data.validation


def _smaller_batch(cell: Cell, setup: TrainingSetup) -> dict[str, Any]:
    """Return a note that batches were smaller than requested, if the training set is smaller than a batch."""
    size = len(setup.train)  # type: ignore[arg-type]
    return {"batch_size": size} if size < cell.execution.samples else {}


def _measure(steps: Steps, prepared: Prepared, keeper: Keeper, findings: _Findings) -> None:
    """Measure each quantity independently; only a failed forward pass or a lack of memory sets the cell's status."""

    def take(quantity: str, kept: dict[str, T], name: str, measure: Callable[[], T]) -> None:
        with findings.without(quantity), keeper.stage(f"measuring {quantity}", measures=True):
            kept[name] = measure()
        if quantity in findings.missing:
            steps.recover()

    latency, memory = findings.latency, findings.memory
    if prepared.untrainable is not None and steps.cell.regime != "linear-probe":
        findings.miss("latency_train_step", prepared.untrainable)
        findings.miss("peak_memory_train", prepared.untrainable)
    for name in steps.names:
        take(f"latency_{name}", latency, name, partial(steps.latency, name))
    for name in steps.names:
        take(f"peak_memory_{name.removesuffix('_step')}", memory, name, partial(steps.memory, name))
    if steps.problem.spec.head:
        take("latency_forward_batch1", latency, "forward_batch1", partial(steps.latency, "forward_batch1"))
    if steps.generation is not None:
        take("latency_token", latency, "token", partial(steps.latency, "token"))
        take("state", memory, "state", steps.state)
    if "train_step" in latency:
        with findings.without("latency_train_step_parts"), keeper.stage("measuring parts of a step", measures=True):
            latency |= steps.parts()
    _measure_energy(steps, findings, take)
    take("flops", findings.flops, "forward", steps.flops)
    if steps.cell.measuring.cuda_graph:  # optional, as not every model can be captured
        take("latency_forward_graph", latency, "forward_graph", steps.graph_latency)
    forward, step = (findings.missing.get(f"latency_{name}") for name in ("forward", "train_step"))
    for failure in (forward, step if step and step.status == "oom" else None):
        if failure is not None:
            findings.fail(failure)


def _measure_energy(steps: Steps, findings: _Findings, take: Callable[..., None]) -> None:
    meter = steps.device.meter()
    findings.record = replace(findings.record, energy_source=meter if isinstance(meter, str) else meter.source)
    if not isinstance(meter, str):
        for name in steps.names:
            if name in findings.latency:
                take(f"energy_{name}", findings.energy, name, partial(steps.energy, name, meter))
