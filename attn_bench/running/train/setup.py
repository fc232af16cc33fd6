"""What a run of the training loop needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from attn_bench.plugin import Task
from attn_bench.running.train.step import Batch


@dataclass(frozen=True)
class Extras:
    """What fine-tuning adds to the loop.

    Attributes:
        mix: applied to each batch on the device before the forward pass.
        first: parameters that are the only ones trained at first.
        first_epochs: for how many epochs.
    """

    mix: Callable[[Tensor, Tensor], Batch] = lambda inputs, targets: (inputs, targets)
    first: Sequence[nn.Parameter] = ()
    first_epochs: float = 0.0


@dataclass(frozen=True)
class Score:
    """The number that says how good a module is along its training: the first metric of its task.

    Attributes:
        metric: its name.
        higher: whether higher is better.
        evaluate: returns the metrics over (prediction, target) batches.
    """

    metric: str
    higher: bool
    evaluate: Callable[[Iterable[Batch]], Mapping[str, float]]

    @classmethod
    def of(cls, task: Task) -> Score | None:
        """Return that of a task; None if it has no metrics."""
        name = next(iter(task.metrics), None)
        return None if name is None else cls(name, task.metrics[name].direction == "higher", task.evaluate)


@dataclass(frozen=True)
class TrainingSetup:
    """A module, and the data it is trained on and evaluated on at the resolution trained at.

    Attributes:
        module: the whole model, or only its head, on features.
        train, validation, test: what it is trained on, what weights are selected on, if anything, and what it is
            evaluated on.
        loss: of a batch of predictions and targets.
        extras: what the loop does in addition.
        notes: further entries in the record of the training.
        score: what is evaluated along the training.
    """

    module: nn.Module
    train: Dataset[Batch]
    test: Dataset[Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    extras: Extras = field(default_factory=Extras)
    notes: Mapping[str, Any] = field(default_factory=dict)
    validation: Dataset[Batch] | None = None
    score: Score | None = None
