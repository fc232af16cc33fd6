"""Generation: a causal transformer of text reads a context once, then goes on token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.transformer import REACH, Block, TextTransformer


@runtime_checkable
class Recurrent(Protocol):
    """What the module of a causal mixer has in addition if it can generate.

    ``prefill`` and ``step`` for each further token yield what one call with all tokens yields. A state is of tensors:
    a tensor, or tuples, mappings or dataclasses of states; or it says its size as ``nbytes``. What it returns may share
    memory with the state that ``step`` was given, which is not used again.
    """

    def prefill(self, x_BNC: Tensor) -> tuple[Tensor, Any]:
        """Return the output for a context, (B, N, dim), and the state after it."""

    def step(self, x_B1C: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the output for one more token, (B, 1, dim), and the state after it."""


class State(NamedTuple):
    """What is kept of a context.

    Attributes:
        embedded: the last tokens, which the positional convolution still sees, (B, REACH, dim).
        mixers: the state of each block's mixer.
    """

    embedded: Tensor
    mixers: tuple[Any, ...]


class Generation:
    """Generates with a causal transformer of text whose mixers are :class:`Recurrent`."""

    def __init__(self, module: TextTransformer) -> None:
        self.module, self.blocks = module, [cast(Block, block) for block in module.blocks]

    @classmethod
    def of(cls, module: nn.Module) -> Generation | None:
        """Return what generates with a module, or None if it cannot generate."""
        if not isinstance(module, TextTransformer) or module.reach[1]:
            return None
        found = cls(module)
        return found if all(isinstance(block.mixer, Recurrent) for block in found.blocks) else None

    def prefill(self, tokens_BN: Tensor) -> tuple[Tensor, State]:
        """Return the scores of the token after a context, (B, outputs), and the state to go on from."""
        embedded = F.pad(self.module.embed(tokens_BN), (0, 0, REACH, 0))
        x, states = embedded[:, REACH:] + self.module.position(embedded.mT).mT, []
        for block in self.blocks:
            y, state = cast(Recurrent, block.mixer).prefill(block.norm(x))
            x = x + y
            x = x + block.feed_forward(x)
            states.append(state)
        return self._scores(x), State(embedded[:, -REACH:].clone(), tuple(states))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the scores of the token after one more, (B, outputs), and the state after it."""
        embedded = torch.cat((state.embedded, self.module.embed(tokens_B)[:, None]), 1)
        x, states = embedded[:, -1:] + self.module.position(embedded.mT).mT, []
        for block, known in zip(self.blocks, state.mixers, strict=True):
            y, after = cast(Recurrent, block.mixer).step(block.norm(x), known)
            x = x + y
            x = x + block.feed_forward(x)
            states.append(after)
        return self._scores(x), State(embedded[:, 1:], tuple(states))

    def _scores(self, x: Tensor) -> Tensor:
        return self.module.head(self.module.norm(x[:, -1]))


def size(state: Any) -> int:
    """Return the bytes of the tensors in a state; raises TypeError for anything else in it."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(nbytes := getattr(state, "nbytes", None), int):
        return nbytes
    if dataclasses.is_dataclass(state):
        return sum(size(getattr(state, each.name)) for each in dataclasses.fields(state))
    if isinstance(state, Mapping):
        return sum(map(size, state.values()))
    if isinstance(state, tuple | list):
        return sum(map(size, state))
    if state is None or isinstance(state, int):
        return 0
    raise TypeError(f"the state of a mixer has a {type(state).__name__}; give it an attribute nbytes")
