"""Evaluates a trained module at the resolution it was trained at and at others, each independently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from attn_bench.files import atomic_write
from attn_bench.plugin import Splits
from attn_bench.results.record import Evaluation
from attn_bench.running.cell_failures import Failure, failures_to, named_after, refusals
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.outputs import check_output
from attn_bench.running.prepare import Posed
from attn_bench.running.sample_metrics import SampleMetrics
from attn_bench.running.train.batches import predict, rolled_out
from attn_bench.running.train.course import Diverged
from attn_bench.running.train.step import Batch
from attn_bench.sweep.cell import Cell
from attn_bench.tasks.shared.rollout_metrics import step_errors

SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class Trained:
    """A trained module.

    Attributes:
        whole: maps the inputs of the problem to its outputs.
        tested: the module evaluated on ``test``; not ``whole`` if ``test`` holds features.
        test: the test set at the resolution trained at.
    """

    whole: nn.Module
    tested: nn.Module
    test: Dataset[Batch]


class Evaluator:
    """Evaluates a module at one resolution after another.

    Args:
        fail: called with the name and the failure of anything else that goes wrong.
        fits: the batch size is the largest that fits the memory, so there are fewer samples where they are larger.
    """

    def __init__(
        self,
        cell: Cell,
        posed: Posed,
        trained: Trained,
        keeper: Keeper,
        fail: Callable[[str, Failure], object],
        *,
        fits: bool = False,
    ) -> None:
        self.cell, self.posed, self.trained, self.keeper, self.fail = cell, posed, trained, keeper, fail
        self.fits, self.fields = fits, dict[str, np.ndarray]()

    def own(self, artifact: Path) -> tuple[Evaluation, Failure | None]:
        """Evaluate at the resolution trained at, keeping a few predictions of fields in ``artifact``.

        Returns:
            The evaluation, and why there are no metrics (None if there are).
        """
        test, show = self.trained.test, not self.cell.is_trial
        entry, failure = self._entry(self.cell.resolution, lambda: test, self.trained.tested, show=show)
        self.save_fields(artifact)
        return entry, failure

    def other(
        self, resolution: int, on_data: Callable[[Splits], object] = lambda splits: None, *, show: bool = False
    ) -> Evaluation:
        """Evaluate at another resolution, whose data are told to ``on_data``.

        Args:
            show: keep a few predictions of fields for :meth:`save_fields`.
        """

        def test() -> Dataset[Batch]:
            with named_after(self.cell.task):
                splits = self.posed.task.splits(resolution, self.posed.options)
            on_data(splits)
            return splits.test

        return self._entry(resolution, test, self.trained.whole, show=show)[0]

    def save_fields(self, artifact: Path) -> None:
        """Write the predictions that were kept, if any were."""
        with failures_to(self._fail_fields):
            if self.fields:
                with atomic_write(artifact) as file:
                    np.savez_compressed(file, **self.fields)  # type: ignore[arg-type]

    def _fail_fields(self, failure: Failure) -> None:
        self.fail("predictions", failure)

    def _entry(
        self, resolution: int, test: Callable[[], Dataset[Batch]], module: nn.Module, *, show: bool
    ) -> tuple[Evaluation, Failure | None]:
        cell, task, failures = self.cell, self.posed.task, list[Failure]()
        shown: _Shown | None = None
        metrics: dict[str, float] = {}
        samples, last, steps = SampleMetrics(task), _Last(), _Steps(task.rollout(self.posed.options))
        with failures_to(failures.append), self.keeper.stage(f"evaluation at {resolution}"):
            data, problem = test(), task.problem(resolution, self.posed.options)
            if show and self.posed.problem.spec.panels:
                with failures_to(self._fail_fields):
                    shown = _Shown(data)
            batches = predict(
                module,
                data,
                batch_size=self._samples(resolution),
                precision=cell.execution.precision,
                device=cell.execution.device,
                call=last.kept(self._call(resolution)),
            )
            batches = steps.watch(batches)
            # A head is given features of the inputs.
            batches = samples.watch(problem, batches, lambda: last.inputs if module is self.trained.whole else None)
            scores = task.evaluate(shown.watch(batches) if shown else batches)
            found = samples.means() | {name: float(value) for name, value in scores.items()}
            if bad := [name for name, value in found.items() if not isfinite(value)]:
                raise Diverged(f"not finite after training: {', '.join(bad)}")
            metrics = {name: found[name] for name in (*task.metrics, *found) if name in found}
        failure = failures[0] if failures else None
        if failure is not None:
            return Evaluation(resolution, failure.status, failure.reason, metrics), failure
        if shown is not None:
            with failures_to(self._fail_fields):
                suffix = "" if resolution == cell.resolution else f"_{resolution}"
                arrays = shown.arrays() | steps.arrays()
                self.fields |= {f"{name}{suffix}": values for name, values in arrays.items()}
        return Evaluation(resolution, "ok", metrics=metrics, intervals=samples.intervals()), None

    def _samples(self, resolution: int) -> int:
        """Return the batch size at a resolution."""
        samples = self.cell.execution.samples
        if not self.fits or resolution <= self.cell.resolution:
            return samples
        tokens = self.posed.task.problem(resolution, self.posed.options).tokens
        return max(1, samples * self.posed.problem.tokens // tokens)

    def _call(self, resolution: int) -> Callable[[nn.Module, Tensor], Any]:
        problem = self.posed.task.problem(resolution, self.posed.options)
        steps = self.posed.task.rollout(self.posed.options)

        def call(module: nn.Module, inputs: Tensor) -> Any:
            # The same code ran at the resolution trained at, so what torch refuses here is the size.
            with refusals(self.posed.model, of_torch=resolution != self.cell.resolution):
                output = module(inputs)
            check_output(output, inputs, problem)
            return output

        return call if steps == 1 else partial(rolled_out, call, steps, fixed=problem.fixed)


class _Last:
    """Keeps the inputs of the last call."""

    inputs: Tensor | None = None

    def kept(self, call: Callable[[nn.Module, Tensor], Any]) -> Callable[[nn.Module, Tensor], Any]:
        """Return ``call``, which also keeps its inputs."""

        def calling(module: nn.Module, inputs: Tensor) -> Any:
            # A module may write to what it is given.
            self.inputs = inputs.clone()
            return call(module, inputs)

        return calling


class _Steps:
    """Adds up the relative errors of each state of a rollout.

    Args:
        count: number of states; of a single one nothing is kept.
    """

    def __init__(self, count: int) -> None:
        self.count, self.errors = count, list[Tensor]()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for prediction, target in batches:
            if self.count > 1:
                self.errors.append(step_errors(prediction, target, self.count).cpu())
            yield prediction, target

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the mean over samples of the relative L2 error of each state."""
        return {"step_errors": torch.cat(self.errors).mean(0).numpy()} if self.errors else {}


class _Shown:
    """Keeps the first few predictions that pass through, for the panels of a report."""

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Return input, target and prediction of the samples."""
        parts = {"input": self.inputs, "target": torch.cat(self.targets), "prediction": torch.cat(self.predictions)}
        return {name: tensor.numpy() for name, tensor in parts.items()}
