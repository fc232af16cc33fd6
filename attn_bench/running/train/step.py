"""A step of training: what the loop repeats, and what is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.running.device.select import device_of
from attn_bench.running.train.optimizer import Update
from attn_bench.sweep.groups import Execution, Precision

Batch = tuple[Tensor, Tensor]


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Context in which a forward pass runs in ``precision``."""
    if precision == "bf16":
        return torch.autocast(device_of(device).tensors.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def as_called(module: nn.Module, execution: Execution) -> Callable[..., Any]:
    """Return what is called in place of ``module``: itself, or what torch compiles of it."""
    return torch.compile(module, dynamic=False) if execution.compile else module


@dataclass(frozen=True)
class Step:
    """A step of training, which can also be taken in its three parts.

    Attributes:
        called: maps inputs to predictions.
        loss: of a batch of float32 predictions and targets.
        optimizer: of the parameters.
        clip_norm: maximum norm of the gradient; 0 disables clipping.
    """

    called: Callable[..., Any]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Update
    clip_norm: float
    execution: Execution

    def __call__(self, inputs: Tensor, targets: Tensor, learning_rate: float | None = None) -> Tensor:
        """Change the parameters by the gradient of a batch and return its loss."""
        loss = self.forward(inputs, targets)
        self.backward(loss)
        self.update(learning_rate)
        return loss.detach()

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        with autocast(self.execution.device, self.execution.precision):
            prediction = self.called(inputs)
        return self.loss(prediction.float(), targets)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()

    def update(self, learning_rate: float | None = None) -> None:
        """Clip the gradients, change the parameters by them, and drop them."""
        self.optimizer.clip(self.clip_norm)
        self.optimizer.step(learning_rate)
        self.optimizer.zero_grad()
