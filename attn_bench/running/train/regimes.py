"""The protocols of training: from scratch, a linear probe on frozen features, and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from attn_bench.plugin import Model, Problem, Splits, Task, Unsupported
from attn_bench.running.train.loop import Batch, Extras, autocast
from attn_bench.sweep.cell import Cell, FineTuning


@dataclass(frozen=True)
class Plan:
    """What is trained on what, and tested on what at the resolution it was trained at.

    Attributes:
        module: what is trained and then tested: the whole model, or its head alone on features.
        train, test: what it is trained and tested on.
        loss: of a batch of predictions and targets.
        extras: what the loop does besides.
        notes: what the record of the training says besides.
    """

    module: nn.Module
    train: Dataset[Batch]
    test: Dataset[Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    extras: Extras = field(default_factory=Extras)
    notes: Mapping[str, Any] = field(default_factory=dict)


def plan(
    cell: Cell, task: Task, model: Model, problem: Problem, module: nn.Module, whole: nn.Module, data: Splits
) -> Plan:
    """Return how ``cell`` is trained.

    Args:
        module: what ``model`` built.
        whole: ``module`` as the task adapted it.

    Raises:
        Unsupported: the protocol is a linear probe, and the model names no head.
    """
    match cell.protocol:
        case "linear-probe":
            return _linear_probe(cell, task, model, module, whole, data)
        case "finetune":
            return _finetune(cell, model, problem, module, whole, data)
        case _:
            return Plan(whole, data.train, data.test, task.loss)


def _linear_probe(cell: Cell, task: Task, model: Model, module: nn.Module, whole: nn.Module, data: Splits) -> Plan:
    """Freeze everything but the head, and compute the features of both sets once, without augmentation."""
    head = model.head(module)
    if head is None:
        raise Unsupported(f"{cell.plugin} names no head of its classifier, which is what a linear probe trains")
    whole.requires_grad_(False)
    head.requires_grad_(True)
    train, test = (features(whole, head, dataset, cell) for dataset in (data.plain or data.train, data.test))
    return Plan(head, train, test, task.loss, notes={"trained_parameters": _count(list(head.parameters()))})


@torch.no_grad()
def features(whole: nn.Module, head: nn.Module, dataset: Dataset[Batch], cell: Cell) -> Dataset[Batch]:
    """Return what ``head`` is given in forward passes of ``whole`` over ``dataset``, with the targets, in memory.

    Raises:
        ValueError: the head is not called once a forward pass, or what it returns is not what ``whole`` returns.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda head, inputs, output: seen.append((inputs[0], output)))
    whole.eval()
    found, targets = [], []
    try:
        for inputs, target in DataLoader(dataset, batch_size=cell.batch_size):
            with autocast(cell.device, cell.precision):
                prediction = whole(inputs.to(cell.device))
            # What is not a number is for the training to find.
            if len(seen) != 1 or not torch.equal(seen[0][1].nan_to_num(), prediction.nan_to_num()):
                raise ValueError("the head that the model names is not what its predictions come from")
            found.append(seen.pop()[0].float().cpu())
            targets.append(target)
    finally:
        hook.remove()
    return TensorDataset(torch.cat(found), torch.cat(targets))  # type: ignore[return-value]


def _finetune(cell: Cell, model: Model, problem: Problem, module: nn.Module, whole: nn.Module, data: Splits) -> Plan:
    """Train everything on augmented images, mixed in pairs, to smoothed targets."""
    settings = cell.finetuning
    assert settings is not None
    average = None
    if settings.ema:
        from timm.utils.model_ema import ModelEmaV3

        average = ModelEmaV3(whole, decay=settings.ema, use_warmup=True)
    # The head is new where the network is pretrained, so it learns from the start as well.
    added = list(model.warm_up(module)) if settings.warm_up else []
    head = model.head(module) if added else None
    alone = [*added, *(head.parameters() if head is not None else ())]
    notes: dict[str, Any] = {"augmentation": data.augmentation}
    if settings.warm_up:
        notes["warm_up_parameters"] = _count(alone)

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, label_smoothing=settings.label_smoothing)

    extras = Extras(mix=_mixing(settings, problem.outputs), average=average, alone=alone, alone_epochs=settings.warm_up)
    return Plan(whole, data.augmented or data.train, data.test, loss, extras, notes)


def _mixing(settings: FineTuning, classes: int) -> Callable[[Tensor, Tensor], Batch]:
    """Return what a batch is mixed by; where mixup and CutMix are on, one of them at even odds (arXiv:2012.12877)."""
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
