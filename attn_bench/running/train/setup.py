"""What a run of the training loop needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

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
class TrainingSetup:
    """A module, and the data it is trained on and evaluated on at the resolution trained at.

    Attributes:
        module: the whole model, or only its head, on features.
        train, validation, test: what it is trained on, what weights are selected on, if anything, and what it is
            evaluated on.
        loss: of a batch of predictions and targets.
        extras: what the loop does in addition.
        notes: further entries in the record of the training.
    """

    module: nn.Module
    train: Dataset[Batch]
    test: Dataset[Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    extras: Extras = field(default_factory=Extras)
    notes: Mapping[str, Any] = field(default_factory=dict)
    validation: Dataset[Batch] | None = None
