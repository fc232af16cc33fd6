"""The optimizers, from torch and timm, and clipping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.sweep.groups import Training


class Several:
    """Optimizers of different parameters that step, and are saved, as one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """The state of each parameter."""
        return {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Change the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all of them."""
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self.optimizers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` returned."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(i)])


AnyOptimizer = torch.optim.Optimizer | Several


def make_optimizer(training: Training, parameters: Iterable[nn.Parameter]) -> AnyOptimizer:
    """Return the optimizer that ``training`` names, for ``parameters``; fused where they are real."""
    own = list(parameters)
    shared: dict[str, Any] = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    match training.optimizer:
        case "adamw":
            return torch.optim.AdamW(_fused(own), **shared)
        case "adam":
            return torch.optim.Adam(_fused(own), **shared)
        case "lion":
            from timm.optim.lion import Lion

            return Lion(own, **shared)
        case "muon":
            matrices = [p for p in own if p.ndim == 2 and not p.is_complex()]
            known = {id(p) for p in matrices}
            others = [p for p in own if id(p) not in known]
            # With this scale its updates are as large as AdamW's, whose learning rates serve it then.
            muon = [torch.optim.Muon(matrices, **shared, adjust_lr_fn="match_rms_adamw")] if matrices else []
            return Several([*muon, *([torch.optim.AdamW(_fused(others), **shared)] if others else [])])


def _fused(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Split ``parameters`` into those that torch's fused kernels take and complex ones, which they do not."""
    real = [p for p in parameters if not p.is_complex()]
    other = [p for p in parameters if p.is_complex()]
    groups: list[dict[str, Any]] = [{"params": real, "fused": True}, {"params": other, "foreach": True}]
    return [group for group in groups if group["params"]]


def clip(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradients down so that their norm is at most ``largest``; 0 leaves them as they are."""
    if not largest:
        return
    # The norm of complex numbers is that of their parts, which is several times faster to compute.
    own = list(parameters)
    grads = [torch.view_as_real(p.grad) if p.is_complex() else p.grad for p in own if p.grad is not None]
    norm = nn.utils.get_total_norm(grads, foreach=True)
    nn.utils.clip_grads_with_norm_(own, largest, norm, foreach=True)
