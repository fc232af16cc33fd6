"""The optimizers, from torch and timm, and clipping."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.running.train.joint_memory import JointMemory
from attn_bench.sweep.groups import Training


class Update:
    """What changes parameters by their gradients: one optimizer, or several for different parameters, as one.

    Complex parameters are optimized as the pairs of real numbers that they are, as torch's and timm's optimizers do
    themselves: so all parameters are real, which fused kernels and norms are several times faster for. On the CPU small
    parameters are optimized as one (:class:`JointMemory`) as long as they have gradients at the same steps, which is
    the same computation: only Muon does not treat each number by itself.

    Attributes:
        optimized: what the optimizers change: real parameters, small ones as one.
    """

    def __init__(self, training: Training, parameters: Iterable[nn.Parameter]) -> None:
        self.training, self.parameters = training, list(parameters)
        # The same memory, seen as real numbers.
        self._views = [(p, nn.Parameter(torch.view_as_real(p.detach()))) for p in self.parameters if p.is_complex()]
        known = {id(parameter): view for parameter, view in self._views}
        self.real = [known.get(id(parameter), parameter) for parameter in self.parameters]
        self._taken = False
        self._build(joint=True)

    def _build(self, *, joint: bool) -> None:
        """Make the optimizers, without a state."""
        muon = self.training.optimizer == "muon"
        matrices = [p for p in self.parameters if muon and p.ndim == 2 and not p.is_complex()]
        apart = {id(p) for p in (*matrices, *(view for _, view in self._views))}
        self.joint = JointMemory.of([p for p in self.real if id(p) not in apart]) if joint else None
        joined = [] if self.joint is None else self.joint.parameters
        small = {id(p) for p in joined}
        # All that have a gradient of their own.
        self._apart = [p for p in (*self.parameters, *(view for _, view in self._views)) if id(p) not in small]
        inside = small | {id(p) for p in matrices}
        others = [*([] if self.joint is None else [self.joint.whole]), *(p for p in self.real if id(p) not in inside)]
        self.optimized = [*others, *matrices]
        self.optimizers = _optimizers(self.training, others, matrices)
        # Without the hooks and the profiler's ranges around them, which take as long as updating a small model does.
        self._steps = [partial(inspect.unwrap(type(each).step), each) for each in self.optimizers]

    def clip(self, largest: float) -> None:
        """Scale the gradients down so that their norm is at most ``largest``; 0 leaves them as they are.

        The numbers are those of ``torch.nn.utils.clip_grad_norm_``, whose calls cost more than the work for a few
        tensors on the CPU.
        """
        if not largest:
            return
        self._take_gradients()
        gradients = [p.grad for p in self.optimized if p.grad is not None]
        if not gradients:
            return
        if any(gradient.device.type != "cpu" for gradient in gradients):
            nn.utils.clip_grad_norm_(self.optimized, largest)
            return
        norm = math.hypot(*map(float, torch._foreach_norm(gradients)))
        if (factor := largest / (norm + 1e-6)) < 1:
            for gradient in gradients:
                gradient.mul_(factor)

    def step(self, learning_rate: float | None = None) -> None:
        """Change the parameters by their gradients."""
        self._take_gradients()
        if learning_rate is not None:
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = learning_rate
        with torch.no_grad():
            for step in self._steps:
                step()
        self._taken = False
        # Neither fused kernels nor changes of their joint memory tell autograd that parameters were changed in place.
        torch.autograd.graph.increment_version(self.parameters)

    def zero_grad(self, *, set_to_none: bool = False) -> None:
        """Drop the gradients.

        Args:
            set_to_none: also those of small parameters, which otherwise become zero, in memory that is written again.
        """
        for parameter in self._apart:
            parameter.grad = None
        if self.joint is not None:
            self.joint.zero_grad(set_to_none=set_to_none)

    def _take_gradients(self) -> None:
        """Give the optimizers the gradients, once for clipping and the step."""
        if self._taken:
            return
        self._taken = True
        for parameter, view in self._views:
            view.grad = None if parameter.grad is None else torch.view_as_real(parameter.grad)
        if self.joint is not None and not self.joint.take_gradients():
            self._separate()

    def _separate(self) -> None:
        """Optimize every parameter by itself from here on, going on with what was kept for all."""
        states, joint = self._states(), self.joint
        assert joint is not None
        self._build(joint=False)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if state := states.get(id(parameter)):
                        optimizer.state[parameter] = {name: value.clone() for name, value in state.items()}

    def _states(self) -> dict[int, dict[str, Any]]:
        """Return what the optimizers keep for each of :attr:`real`, by its id."""
        states = {id(p): dict(state) for optimizer in self.optimizers for p, state in optimizer.state.items()}
        if self.joint is not None and (whole := states.pop(id(self.joint.whole), None)):
            split = {name: self.joint.split(value) for name, value in whole.items() if value.dim()}
            for i, parameter in enumerate(self.joint.parameters):
                states[id(parameter)] = whole | {name: values[i] for name, values in split.items()}
        return states

    def moments(self) -> list[tuple[Tensor, list[Tensor]]]:
        """Return every parameter, as real numbers, with what the optimizer keeps for each of its numbers."""
        states = self._states()
        return [
            (p, [value for value in states.get(id(p), {}).values() if isinstance(value, Tensor) and value.dim()])
            for p in self.real
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimizers."""
        states = {str(i): optimizer.state_dict() for i, optimizer in enumerate(self.optimizers)}
        return {"joint": self.joint is not None, **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        joint = state.get("joint", False)
        if joint != (self.joint is not None):
            self._build(joint=joint)
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(i)])


def _optimizers(
    training: Training, parameters: list[nn.Parameter], matrices: list[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of real parameters; those of Muon are apart."""
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
            # With this scale its updates are as large as AdamW's, whose learning rates serve it then.
            muon = [torch.optim.Muon(matrices, **shared, adjust_lr_fn="match_rms_adamw")] if matrices else []
            return [*muon, *([torch.optim.AdamW(_groups(parameters), **shared)] if parameters else [])]


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
