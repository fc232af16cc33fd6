"""Runs one cell: data, model, training, evaluation, measuring; one record comes out, whatever happens."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_bench.errors import DiskError
from attn_bench.files import atomic_write, write_json
from attn_bench.measure.environment import environment, environment_id
from attn_bench.plugin import Model, OptionError, Problem, Task, Unsupported
from attn_bench.protocols import plan
from attn_bench.registry import MODELS, TASKS
from attn_bench.results import Record, Status, Store
from attn_bench.steps import Steps, build, random_batch
from attn_bench.sweep import Cell, unsupported
from attn_bench.training import Batch, Diverged, Progress, autocast, predict, train

SHOWN_SAMPLES = 3
Report = Callable[[dict[str, Any]], None]


@dataclass
class _Findings:
    """What is known so far; kept when a later part of the cell fails."""

    values: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def run_cell(cell: Cell, store: Store, report: Report = lambda event: None) -> Record:
    """Run ``cell``, keep its record in ``store`` and return it; an error of the model is a status, never raised.

    Raises:
        DiskError: ``store`` cannot be written.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    findings = _Findings()
    status: Status = "ok"
    error: str | None = None
    try:
        _run(cell, store, report, findings)
    except (Unsupported, OptionError) as reason:
        status, error = "unsupported", str(reason)
    except Diverged as reason:
        status, error = "diverged", str(reason)
    except DiskError:
        raise
    except Exception as reason:
        status, error = ("oom" if is_out_of_memory(reason) else "crashed"), one_line(reason)
        if status == "crashed":
            import traceback

            with contextlib.suppress(Exception):  # standard error may be closed
                traceback.print_exc()
    record = Record.of(
        cell,
        status,
        error=error,
        evaluations=tuple(findings.evaluations),
        latency=findings.latency,
        memory=findings.memory,
        seconds=time.perf_counter() - began,
        started=started,
        **findings.values,
    )
    store.write(record)
    store.path("checkpoints", cell.id).unlink(missing_ok=True)
    return record


def one_line(error: BaseException) -> str:
    """Return type and message of an error as one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch or Python ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _run(cell: Cell, store: Store, report: Report, findings: _Findings) -> None:
    set_flags(cell)
    findings.values["environment"] = _keep_environment(store, cell.device)
    task, model = TASKS.load(cell.task), MODELS.load(cell.plugin)
    problem = task.problem(cell.resolution, **cell.task_options)
    if (reason := unsupported(cell, model, problem)) is not None:
        raise Unsupported(reason)

    findings.values |= {"tokens": problem.tokens, "complexity": model.growth(**cell.options)}
    torch.manual_seed(cell.seed)
    module = build(cell, model, problem)
    _check_output(module, problem, cell)
    with autocast(cell.device, cell.precision):
        effective = dict(model.effective(module))
    findings.values |= {
        "parameters": count_parameters(module),
        "effective": json.loads(json.dumps(effective, default=str)),
    }
    if cell.training is not None:
        _train_and_evaluate(cell, task, model, problem, module, store, report, findings)
    if cell.measure:
        report({"stage": "measuring"})
        _measure(Steps(cell, task, problem, module), findings)


def _check_output(module: nn.Module, problem: Problem, cell: Cell) -> None:
    """Refuse a module that does not return what ``problem`` asks for: a loss may broadcast it and train on nonsense."""
    size = 2
    inputs, _ = random_batch(problem, size, cell.device, cell.seed)
    module.eval()
    # Not in inference mode: what a module keeps from its first call could not be trained with.
    with torch.no_grad(), autocast(cell.device, cell.precision):
        output = module(inputs)
    wanted = problem.output_shape(size)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != wanted:
        raise ValueError(
            f"the model returned {found} for an input {tuple(inputs.shape)}; {problem.kind} asks for {wanted}"
        )


def count_parameters(module: nn.Module) -> int:
    """Number of real trainable numbers: a complex parameter counts as two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)


def set_flags(cell: Cell) -> None:
    """Set threads and precision of this process as ``cell`` asks."""
    if cell.threads is not None:
        torch.set_num_threads(cell.threads)
    torch.set_float32_matmul_precision("high" if cell.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = cell.precision == "tf32"
    torch.backends.cudnn.benchmark = False
    if cell.compile:
        # Or the time to compile would be that of reading what an earlier cell compiled.
        torch.compiler.config.force_disable_caches = True


def _keep_environment(store: Store, device: str) -> str:
    values = environment(device)
    name = environment_id(values)
    path = store.path("environments", name)
    if not path.exists():
        write_json(path, values)
    return name


def _train_and_evaluate(
    cell: Cell,
    task: Task,
    model: Model,
    problem: Problem,
    module: nn.Module,
    store: Store,
    report: Report,
    findings: _Findings,
) -> None:
    assert cell.training is not None
    report({"stage": "data"})
    splits = task.splits(cell.resolution, **cell.task_options)
    findings.values["data"] = dict(splits.identity)
    if model.fit(module, splits.train):
        whole, tested, test = module, module, splits.test
    else:
        whole = task.adapt(module, splits.train).to(cell.device)
        if cell.protocol == "linear-probe":
            report({"stage": "features"})
        chosen = plan(cell, task, model, problem, module, whole, splits)
        tested, test = chosen.module, chosen.test
        compiled: nn.Module = torch.compile(tested, dynamic=False) if cell.compile else tested  # type: ignore[assignment]

        def show(progress: Progress) -> None:
            report({"stage": "training", **asdict(progress)})

        result = train(
            compiled,
            chosen.train,
            chosen.loss,
            cell.training,
            seed=cell.seed,
            precision=cell.precision,
            device=cell.device,
            checkpoint=store.path("checkpoints", cell.id),
            extras=chosen.extras,
            report=show,
        )
        findings.values["training"] = asdict(result) | dict(chosen.notes)
    report({"stage": "evaluating"})
    for resolution in (cell.resolution, *cell.eval_resolutions):
        own = resolution == cell.resolution
        entry: dict[str, Any] = {"resolution": resolution, "status": "ok", "error": None, "metrics": {}}
        try:
            data = test if own else task.splits(resolution, **cell.task_options).test
            batches = predict(
                tested if own else whole,
                data,
                batch_size=cell.batch_size,
                precision=cell.precision,
                device=cell.device,
            )
            shown = _Shown(data) if own and task.kind == "field" else None
            entry["metrics"] = task.evaluate(shown.watch(batches) if shown else batches)
            if shown:
                shown.save(store.path("artifacts", cell.id))
            if bad := [name for name, value in entry["metrics"].items() if not np.isfinite(value)]:
                raise Diverged(f"not finite after training: {', '.join(bad)}")
        except Exception as reason:
            if own:
                raise
            entry["status"] = _status_of(reason)
            entry["error"] = str(reason) if isinstance(reason, Unsupported) else one_line(reason)
        findings.evaluations.append(entry)


def _status_of(reason: Exception) -> Status:
    if isinstance(reason, Unsupported):
        return "unsupported"
    if isinstance(reason, Diverged):
        return "diverged"
    return "oom" if is_out_of_memory(reason) else "crashed"


class _Shown:
    """Keeps the first few predictions for the panels of a report while they pass by."""

    def __init__(self, test: Any) -> None:
        self.inputs = torch.stack([test[i][0] for i in range(min(SHOWN_SAMPLES, len(test)))])
        self.predictions: list[Tensor] = []
        self.targets: list[Tensor] = []

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for prediction, target in batches:
            missing = len(self.inputs) - sum(map(len, self.predictions))
            if missing > 0:
                self.predictions.append(prediction[:missing].cpu())
                self.targets.append(target[:missing].cpu())
            yield prediction, target

    def save(self, path: Path) -> None:
        with atomic_write(path) as file:
            np.savez_compressed(
                file,
                input=self.inputs.numpy(),
                target=torch.cat(self.targets).numpy(),
                prediction=torch.cat(self.predictions).numpy(),
            )


def _measure(steps: Steps, findings: _Findings) -> None:
    for name in steps.names:
        findings.latency[name] = steps.latency(name)
    for name in steps.names:
        findings.memory[name] = steps.memory(name)
    if steps.problem.kind in ("image", "mask"):
        findings.latency["forward_batch1"] = steps.latency("forward_batch1")
    findings.values["flops"] = steps.flops()
    if steps.cell.cuda_graph:
        try:
            findings.latency["forward_graph"] = steps.graph_latency()
        except Exception as reason:  # not every model can be captured, and it need not be
            findings.latency["forward_graph"] = {"error": one_line(reason)}
