"""The training loop, resumable at any step."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.results.record import TrainingResult
from attn_bench.running.device.select import device_of
from attn_bench.running.train.batches import batches, predict
from attn_bench.running.train.checkpoint import Trainee, load_weights, restore, save
from attn_bench.running.train.course import POINTS, Diverged, State
from attn_bench.running.train.optimizer import Update
from attn_bench.running.train.schedule import learning_rate
from attn_bench.running.train.setup import TrainingSetup
from attn_bench.running.train.step import Step, as_called
from attn_bench.sweep.groups import Execution, Part, Training

# Losses are read in groups of at most so many, as reading them waits for the device.
GROUP = 20


@dataclass(frozen=True)
class Progress:
    """Progress of training, for display."""

    fraction: float
    epoch: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class Every:
    """How often something is done, in seconds; 0 does it after every step."""

    report: float = 0.5
    checkpoint: float = 30.0


def train(
    setup: TrainingSetup,
    training: Training,
    execution: Execution,
    *,
    seed: int,
    checkpoint: Path | None = None,
    every: Every = Every(),
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train the module of ``setup`` in place.

    The order of the samples depends only on ``seed`` and the epoch, and a checkpoint holds everything else, so an
    interrupted run that resumes from ``checkpoint`` ends exactly where it would have ended (budgets in epochs and
    steps).

    Raises:
        Diverged: the loss is not finite; its ``result`` is what was done until then.
    """
    loop = _Loop(setup, training, execution, every)
    warning = None if checkpoint is None else loop.restore(checkpoint)
    found = batches(setup.train, loop.batch_size, seed, loop.state.step, execution.device)
    reported = saved = time.perf_counter()
    reported_step = -1
    setup.module.train()
    try:
        while loop.reached < 1:
            loop.advance(*setup.extras.mix(*next(found)))
            now = time.perf_counter()
            if now - reported >= every.report:
                report(loop.progress())
                reported, reported_step = now, loop.state.step
            if checkpoint is not None and now - saved > every.checkpoint:
                loop.save(checkpoint)
                saved = time.perf_counter()
        loop.read()
        if reported_step != loop.state.step:
            report(loop.progress())
        return loop.finished(warning)
    except Diverged as error:
        error.result = loop.result(warning)
        raise


class _Loop:
    """A training between two steps.

    Attributes:
        total_steps: of the budget; 0 if it is in seconds.
        began: when training would have begun if it had done nothing else since.
        reached: the share of the budget after the last step, up to which the curves have their points. A budget in
            seconds is used between steps too, while data are read.
        pending: losses that were not read yet.
        failed: an evaluation along the training failed; there are no more of them.
    """

    def __init__(self, setup: TrainingSetup, training: Training, execution: Execution, every: Every) -> None:
        self.setup, self.training, self.execution, self.every = setup, training, execution, every
        self.device = device_of(execution.device)
        size = len(setup.train)  # type: ignore[arg-type]
        self.batch_size = min(execution.samples, size)
        self.steps_per_epoch = size // self.batch_size
        self.total_steps = _total_steps(training, self.steps_per_epoch)
        optimizer = Update(training, setup.module.parameters())
        self.step = Step(as_called(setup.module, execution), setup.loss, optimizer, training.clip_norm, execution)
        self.trainee = Trainee(setup.module, optimizer, _average(setup.module, training.ema), self.batch_size)
        self.others = _others(setup.module, setup.extras.first)
        self.state = State()
        self.pending: list[Tensor] = []
        self.failed = False
        self.reached = 0.0
        self.began = self.read_at = time.perf_counter()

    def restore(self, checkpoint: Path) -> str | None:
        """Continue from a checkpoint, if there is one; return why not, if it cannot be used."""
        self.state, warning = restore(checkpoint, self.trainee)
        self.began = time.perf_counter() - self.state.seconds
        self.reached = self.fraction
        return warning

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint; what that takes is no training."""
        self.read()
        start = time.perf_counter()
        save(checkpoint, self.trainee, self.state)
        self.began += time.perf_counter() - start

    @property
    def fraction(self) -> float:
        """The share of the budget that is used."""
        if self.total_steps:
            return self.state.step / self.total_steps
        # On a device with a queue, the steps that were begun are not all done.
        done = self.state.seconds if self.device.asynchronous else time.perf_counter() - self.began
        return done / self.training.budget

    def advance(self, inputs: Tensor, targets: Tensor) -> None:
        """Take a step, and evaluate if it is time; raises Diverged."""
        if self.others:
            frozen = self.state.step < self.setup.extras.first_epochs * self.steps_per_epoch
            _require_grad(self.others, not frozen)
        self.pending.append(self.step(inputs, targets, learning_rate(self.training, self.fraction)))
        self.state.step += 1
        if self.trainee.average is not None:
            self.trainee.average.update(self.setup.module, self.state.step)
        before, self.reached = self.reached, self.fraction
        now = time.perf_counter()
        waited = len(self.pending) >= GROUP or now - self.read_at >= self.every.report
        if (point := _passed(before, self.reached, POINTS)) or waited:
            self.read(point=point)
        if self._evaluates and _passed(before, self.reached, self.training.validation_points):
            self.read()
            try:
                self._evaluate()
            except Exception:
                if self.training.select != "last":
                    raise
                # The evaluation at the end says why in the record; the training does not need this one.
                self.failed = True
                traceback.print_exc()

    def read(self, *, point: bool = False) -> None:
        """Bring the state up to date; raises Diverged."""
        if not self.pending:
            return
        losses = torch.stack(self.pending).tolist()
        self.pending.clear()
        # The losses were waited for, so this is the time of finished work.
        self.read_at = time.perf_counter()
        self.state.add(losses, self.steps_per_epoch, self.read_at - self.began, point=point)

    def progress(self) -> Progress:
        """Return what is displayed."""
        self.read()
        state = self.state
        return Progress(min(self.fraction, 1), state.step / self.steps_per_epoch, state.mean_loss, state.seconds)

    @property
    def _part(self) -> Part:
        return "test" if self.training.select == "best-on-test" else "validation"

    @property
    def _evaluates(self) -> bool:
        data = self.setup.test if self._part == "test" else self.setup.validation
        return self.training.evaluates and not self.failed and data is not None and self.setup.score is not None

    @property
    def _evaluated(self) -> nn.Module:
        """What would be evaluated if training ended here."""
        return self.setup.module if self.trainee.average is None else self.trainee.average.module

    def _evaluate(self) -> None:
        """Add a point to the curve of the error, and keep the weights if they are the best ones so far."""
        start, state, score = time.perf_counter(), self.state, self.setup.score
        assert score is not None
        data = self.setup.test if self._part == "test" else self.setup.validation
        assert data is not None
        execution, module = self.execution, self._evaluated
        # Whether a training is watched changes nothing of it.
        with self.device.same_generators():
            found = predict(
                module, data, batch_size=execution.samples, precision=execution.precision, device=execution.device
            )
            try:
                value = float(score.evaluate(found)[score.metric])
            finally:
                self.setup.module.train()
        state.error.add(state.step, state.seconds, value)
        if self.training.select != "last" and state.is_best(score.higher):
            state.best, state.best_step = deepcopy(dict(module.state_dict())), state.step
        taken = time.perf_counter() - start
        state.evaluation_seconds += taken
        self.began += taken

    def finished(self, warning: str | None) -> TrainingResult:
        """Leave the module with the weights that are to be evaluated, and return what was done."""
        _require_grad(self.others, True)
        if self.state.best is not None:
            load_weights(self.setup.module, self.state.best)
        elif self.trainee.average is not None:
            load_weights(self.setup.module, self.trainee.average.module.state_dict())
        return self.result(warning)

    def result(self, warning: str | None) -> TrainingResult:
        """Return what was done."""
        state, score = self.state, self.setup.score
        named = (score.metric, self._part) if score is not None and state.error.steps else (None, None)
        return TrainingResult(
            state.step,
            state.step / self.steps_per_epoch,
            state.seconds,
            evaluation_seconds=state.evaluation_seconds,
            loss=state.mean_loss,
            curve=state.curve(*named),
            selected_step=state.best_step,
            selected_on=None if state.best_step is None else self._part,
            warning=warning,
        )


def _total_steps(training: Training, steps_per_epoch: int) -> int:
    """Return the steps of the budget; 0 if it is in seconds."""
    if training.budget_unit == "epochs":
        return max(1, round(training.budget * steps_per_epoch))
    return int(training.budget) if training.budget_unit == "steps" else 0


def _passed(before: float, after: float, points: int) -> bool:
    """Tell whether one of ``points`` marks, at equal distances up to 1, is between two shares of a budget."""
    # What rounding leaves below a mark is on it.
    return math.floor(min(after, 1) * points + 1e-9) > math.floor(min(before, 1) * points + 1e-9)


def _others(module: nn.Module, chosen: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the trainable parameters of ``module`` that are not among ``chosen``; none if nothing is chosen."""
    if not chosen:
        return []
    known = {id(parameter) for parameter in chosen}
    return [p for p in module.parameters() if p.requires_grad and id(p) not in known]


def _require_grad(parameters: Sequence[nn.Parameter], train: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(train)


def _average(module: nn.Module, decay: float) -> Any:
    """Return a running mean of the weights of ``module`` (``timm.utils.ModelEmaV3``), or None without decay."""
    if not decay:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(module, decay=decay, use_warmup=True)
