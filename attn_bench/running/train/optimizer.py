"""The optimizers, from torch and timm, and clipping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.sweep.groups import Training


class Update:
    """What changes parameters by their gradients: one optimizer, or several for different parameters, as one.

    Complex parameters are optimized as the pairs of real numbers that they are, as torch's and timm's optimizers do
    themselves: so all parameters are real, which fused kernels and norms are several times faster for.
    """

    def __init__(self, training: Training, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        # The same memory, seen as real numbers.
        self._views = [(p, nn.Parameter(torch.view_as_real(p.detach()))) for p in self.parameters if p.is_complex()]
        known = {id(parameter): view for parameter, view in self._views}
        self.real = [known.get(id(parameter), parameter) for parameter in self.parameters]
        matrices = [p for p in self.parameters if p.ndim == 2 and not p.is_complex()]
        self.optimizers = _optimizers(training, self.real, matrices)

    def clip(self, largest: float) -> None:
        """Scale the gradients down so that their norm is at most ``largest``; 0 leaves them as they are."""
        self._see_gradients()
        if largest:
            nn.utils.clip_grad_norm_(self.real, largest)

    def step(self, learning_rate: float | None = None) -> None:
        """Change the parameters by their gradients."""
        self._see_gradients()
        for optimizer in self.optimizers:
            if learning_rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
            optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        for _, view in self._views:
            view.grad = None

    def _see_gradients(self) -> None:
        for parameter, view in self._views:
            view.grad = None if parameter.grad is None else torch.view_as_real(parameter.grad)

    def moments(self) -> list[tuple[Tensor, list[Tensor]]]:
        """Return every parameter, as real numbers, with what the optimizer keeps for each of its numbers."""
        states = {id(p): state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        return [
            (p, [value for value in states.get(id(p), {}).values() if isinstance(value, Tensor) and value.dim()])
            for p in self.real
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimizers."""
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self.optimizers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(i)])


def _optimizers(
    training: Training, parameters: list[nn.Parameter], matrices: list[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    shared: dict[str, Any] = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    match training.optimizer:
        case "adamw":
            return [torch.optim.AdamW(_groups(parameters), **shared)]
        case "adam":
            return [torch.optim.Adam(_groups(parameters), **shared)]
        case "lion":
            from timm.optim.lion import Lion

            return [Lion(parameters, **shared, foreach=True)]
        case "muon":
            known = {id(p) for p in matrices}
            others = [p for p in parameters if id(p) not in known]
            # With this scale its updates are as large as AdamW's, whose learning rates serve it then.
            muon = [torch.optim.Muon(matrices, **shared, adjust_lr_fn="match_rms_adamw")] if matrices else []
            return [*muon, *([torch.optim.AdamW(_groups(others), **shared)] if others else [])]


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Split ``parameters`` into those that fused kernels take, and those whose memory has gaps, which they misread."""
    dense = [p for p in parameters if _is_dense(p)]
    known = {id(p) for p in dense}
    others = [p for p in parameters if id(p) not in known]
    groups: list[dict[str, Any]] = [{"params": dense, "fused": True}, {"params": others}]
    return [group for group in groups if group["params"]]


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor takes up its memory without gaps, in whatever order of its axes."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
