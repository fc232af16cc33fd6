"""The training regimes: from scratch, a linear probe on frozen features, and fine-tuning."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from attn_bench.plugin import Model, Problem, Splits, Task, Unsupported
from attn_bench.running.device.select import device_of
from attn_bench.running.train.batches import followed_by, in_order, rolled_out
from attn_bench.running.train.losses import Loss, loss_of
from attn_bench.running.train.setup import Extras, Score, TrainingSetup
from attn_bench.running.train.step import Batch, autocast
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Execution, FineTuning


def training_setup(
    cell: Cell, task: Task, model: Model, problem: Problem, module: nn.Module, whole: nn.Module, data: Splits
) -> TrainingSetup:
    """Return how ``cell`` is trained.

    Args:
        module: as ``model`` built it.
        whole: ``module`` as the task adapted it.

    Raises:
        Unsupported: the regime is a linear probe, and the model does not define a head.
    """
    match cell.regime:
        case "linear-probe":
            setup = _linear_probe(cell, model, module, whole, data, _loss(cell, task, problem))
        case "finetune":
            setup = _finetune(cell, model, problem, module, whole, data)
        case _:
            loss, train, extras = _loss(cell, task, problem), data.train, Extras()
            if data.unrolled is not None:
                train, extras = data.unrolled, Extras(mix=pushing_forward(whole, problem, cell.execution))
            setup = TrainingSetup(whole, train, data.test, loss, extras, validation=data.validation)
    return replace(setup, score=Score.of(task))


def _loss(cell: Cell, task: Task, problem: Problem) -> Loss:
    assert cell.training is not None
    return loss_of(task, problem, cell.training.loss)


def pushing_forward(module: nn.Module, problem: Problem, execution: Execution) -> Callable[[Tensor, Tensor], Batch]:
    """Return what applies a module to its own predictions before the step that is trained (arXiv:2202.03376).

    Targets are some states of as many channels as the problem has outputs. For each batch it is drawn which of them is
    the target; those before it are predicted without gradients, and take the place of the oldest states in the inputs.
    """

    def pushed(inputs: Tensor, targets: Tensor) -> Batch:
        states = targets.split(problem.outputs, 1)
        steps = int(torch.randint(len(states), ()))
        if steps:
            with torch.no_grad(), autocast(execution.device, execution.precision):
                found = rolled_out(operator.call, steps, module, inputs, fixed=problem.fixed)
            inputs = followed_by(inputs, found, fixed=problem.fixed)
        return inputs, states[steps]

    return pushed


def _linear_probe(
    cell: Cell, model: Model, module: nn.Module, whole: nn.Module, data: Splits, loss: Loss
) -> TrainingSetup:
    """Freeze everything but the head, and compute the features of each set once, without augmentation."""
    head = model.head(module)
    if head is None:
        raise Unsupported(f"{cell.plugin} does not define head(), which a linear probe needs")
    whole.requires_grad_(False)
    head.requires_grad_(True)
    train = features(whole, head, data.plain or data.train, cell)
    validation = None if data.validation is None else features(whole, head, data.validation, cell)
    # Nothing reads the test set before the end.
    test = _Later(len(data.test), lambda: features(whole, head, data.test, cell))  # type: ignore[arg-type]
    notes = {"trained_parameters": _count(list(head.parameters()))}
    return TrainingSetup(head, train, test, loss, notes=notes, validation=validation)


class _Later(Dataset[Batch]):
    """A dataset of ``size`` samples that is made when the first of them is read."""

    def __init__(self, size: int, make: Callable[[], Dataset[Batch]]) -> None:
        self.size, self.make = size, make

    @cached_property
    def made(self) -> Dataset[Batch]:
        return self.make()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        return self.made[index]


@torch.no_grad()
def features(whole: nn.Module, head: nn.Module, dataset: Dataset[Batch], cell: Cell) -> Dataset[Batch]:
    """Return the inputs of ``head`` in forward passes of ``whole`` over ``dataset``, with the targets, in memory.

    Raises:
        ValueError: the head is not called exactly once per forward pass, or its output is not that of ``whole``.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda head, inputs, output: seen.append((inputs[0], output)))
    whole.eval()
    found, targets = [], []
    try:
        for inputs, target in in_order(dataset, cell.execution.samples):
            with autocast(cell.execution.device, cell.execution.precision):
                prediction = whole(inputs.to(device_of(cell.execution.device).tensors))
            # Values that are not finite are left for training to report.
            if len(seen) != 1 or not torch.equal(seen[0][1].nan_to_num(), prediction.nan_to_num()):
                raise ValueError("the module returned by head() does not compute the predictions")
            found.append(seen.pop()[0].float().cpu())
            targets.append(target)
    finally:
        hook.remove()
    return TensorDataset(torch.cat(found), torch.cat(targets))  # type: ignore[return-value]


def _finetune(
    cell: Cell, model: Model, problem: Problem, module: nn.Module, whole: nn.Module, data: Splits
) -> TrainingSetup:
    """Train everything on augmented images, mixed in pairs, to smoothed targets."""
    settings = cell.finetuning
    assert settings is not None
    # The head of a pretrained network is new, so it is trained from the start as well.
    added = list(model.warm_up(module)) if settings.warm_up else []
    head = model.head(module) if added else None
    first = [*added, *(head.parameters() if head is not None else ())]
    notes: dict[str, Any] = {"augmentation": data.augmentation}
    if settings.warm_up:
        notes["warm_up_parameters"] = _count(first)

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, label_smoothing=settings.label_smoothing)

    extras = Extras(mix=_mixing(settings, problem.outputs), first=first, first_epochs=settings.warm_up)
    return TrainingSetup(whole, data.augmented or data.train, data.test, loss, extras, notes, data.validation)


def _mixing(settings: FineTuning, classes: int) -> Callable[[Tensor, Tensor], Batch]:
    """Return the function that mixes a batch; with both mixup and CutMix, one of them at random (arXiv:2012.12877)."""
    from torchvision.transforms import v2

    mixes = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
        if alpha
    ]
    if len(mixes) > 1:
        return v2.RandomChoice(mixes)
    return mixes[0] if mixes else Extras().mix


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
