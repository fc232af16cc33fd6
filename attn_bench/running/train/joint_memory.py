"""Small parameters in one piece of memory, so that clipping and an update take one kernel for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import gt

import torch
from torch import Tensor, nn

# Below this number of elements torch works on a tensor in one thread, and most of the time goes into starting to.
SMALL = 32768
# Elements in 64 bytes, to which torch aligns what it allocates.
ALIGNED = 16


class JointMemory:
    """The memory of some parameters on the CPU, as one parameter.

    The parameters themselves stay, as views of it. From the second step on autograd writes their gradients into that of
    ``whole``, of which they are views; where it did not, such as in the first step, they are moved there.

    Attributes:
        parameters: real and contiguous, in the order of their memory.
        whole: all of them, one after the other.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], memory: Tensor | None = None) -> None:
        self.parameters = _ordered(parameters)
        self._places = _places(self.parameters)
        self.whole = nn.Parameter(_joined([p.detach() for p in self.parameters]) if memory is None else memory)
        for parameter, view in zip(self.parameters, self.split(self.whole.detach())):
            parameter.data = view
        self._gradient: Tensor | None = None
        # Views of it with a version each, which autograd raises as it writes.
        self._views: list[Tensor] = []
        self._versions: list[int] = []

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter]) -> JointMemory | None:
        """Move the small ones of ``parameters`` into one piece of memory; None where that saves nothing.

        Those that share their memory with something else stay where they are. If they are in such memory already, as
        after a training, it is used again.
        """
        small = [p for p in parameters if _is_small(p)]
        if (memory := _present(small)) is not None:
            return cls(small, memory)
        own = [p for p in small if p.untyped_storage().nbytes() == 4 * p.numel()]
        return cls(own) if len(own) > 1 else None

    def split(self, joined: Tensor) -> list[Tensor]:
        """Return the part of each parameter in a tensor like ``whole``, as a view; raises ValueError for another."""
        if joined.shape != self.whole.shape:
            raise ValueError(
                f"of shape {tuple(joined.shape)}, not {tuple(self.whole.shape)} as all parameters together"
            )
        return [joined[place : place + p.numel()].view(p.shape) for place, p in zip(self._places, self.parameters)]

    def take_gradients(self) -> bool:
        """Give ``whole`` the gradients; do nothing and return False where only some parameters have one.

        The same if a parameter was given other memory, such as by ``module.to(...)``.
        """
        start = self.whole.data_ptr()
        moved = any(p.data_ptr() != start + 4 * at for at, p in zip(self._places, self.parameters))
        versions = [view._version for view in self._views]
        if versions and not moved and all(map(gt, versions, self._versions)):
            self.whole.grad, self._versions = self._gradient, versions
            return True
        self._drop_unwritten()
        gradients = [p.grad for p in self.parameters]
        missing = sum(gradient is None for gradient in gradients)
        if missing == len(gradients):
            self.whole.grad = None
            return True
        if missing or moved:
            return False
        self.whole.grad = self._gradient = _joined(gradients)  # type: ignore[arg-type]
        for parameter in self.parameters:
            parameter.grad = None
        self._views = []
        return True

    def zero_grad(self, *, set_to_none: bool = False) -> None:
        """Set the gradients to zero where there is memory for them, which autograd then writes into, or free it."""
        if set_to_none:
            self._gradient, self._views = None, []
            for parameter in (self.whole, *self.parameters):
                parameter.grad = None
        if self._gradient is None:
            return
        self._gradient.zero_()
        if not self._views:
            # By .data: tensors that are views of one another have one version.
            self._views = [view.data for view in self.split(self._gradient)]
            self._versions = [view._version for view in self._views]
            for parameter, view in zip(self.parameters, self._views):
                parameter.grad = view

    def _drop_unwritten(self) -> None:
        """Let parameters have no gradient where nothing was written into the memory for it."""
        for parameter, view, version in zip(self.parameters, self._views, self._versions):
            if parameter.grad is view and view._version == version:
                parameter.grad = None


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    # As torch.cat of their elements, without a call from Python for each.
    return torch._utils._flatten_dense_tensors(tensors)


def _ordered(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return those first after which the next one is aligned."""
    return sorted(parameters, key=lambda p: p.numel() % ALIGNED != 0)


def _places(parameters: Sequence[nn.Parameter]) -> list[int]:
    """Return where each begins."""
    return list(accumulate((p.numel() for p in parameters), initial=0))[:-1]


def _is_small(parameter: nn.Parameter) -> bool:
    return (
        type(parameter) is nn.Parameter
        and parameter.requires_grad
        and parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and 0 < parameter.numel() < SMALL
        and parameter.is_contiguous()
    )


def _present(parameters: Sequence[nn.Parameter]) -> Tensor | None:
    """Return the memory of parameters that are already in one piece as :class:`JointMemory` would put them."""
    if len(parameters) < 2:
        return None
    ordered = _ordered(parameters)
    size, storage = sum(p.numel() for p in ordered), ordered[0].untyped_storage()
    alike = all(
        p.untyped_storage().data_ptr() == storage.data_ptr() and p.storage_offset() == place
        for place, p in zip(_places(ordered), ordered)
    )
    return ordered[0].detach().as_strided((size,), (1,)) if alike and storage.nbytes() == 4 * size else None
