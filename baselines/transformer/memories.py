"""What attention keeps of a context for generation: keys and values, or sums of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.transformer.linear_attention import EPSILON

# Tokens for which there is room at first, beyond the context; when it is used up, half as much again is added.
ROOM = 64


@dataclass(frozen=True)
class Cache:
    """Keys and values of the last tokens.

    Attributes:
        k, v: (B, heads, room, D); of a window, in the order of a ring.
        length: tokens so far.
    """

    k: Tensor
    v: Tensor
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values there are, without the room for more."""
        room = self.k.shape[2]
        return sum(t.numel() * t.element_size() for t in (self.k, self.v)) * min(self.length, room) // room


class KeyValues:
    """Softmax attention to the keys and values of all tokens so far, or of the last ``window`` tokens."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window

    def start(self, k_BNHD: Tensor, v_BNHD: Tensor) -> Cache:
        """Return the keys and values of a context, with room for more."""
        n = k_BNHD.shape[1]
        room = self.window or n + ROOM
        kept = min(n, room)
        slots = torch.arange(n - kept, n, device=k_BNHD.device) % room

        def stored(t: Tensor) -> Tensor:
            t = t.transpose(1, 2)
            found = t.new_zeros(*t.shape[:2], room, t.shape[3])
            found[:, :, slots] = t[:, :, n - kept :]
            return found

        return Cache(stored(k_BNHD), stored(v_BNHD), n)

    def step(self, q_B1HD: Tensor, k_B1HD: Tensor, v_B1HD: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """Return softmax(q K^T / sqrt(D)) V, (B, 1, heads, D)."""
        k, v, length = state.k, state.v, state.length
        room = k.shape[2]
        if length == room and not self.window:
            k, v = (F.pad(t, (0, 0, 0, max(ROOM, length // 2))) for t in (k, v))
            room = k.shape[2]
        k[:, :, length % room], v[:, :, length % room] = k_B1HD[:, 0], v_B1HD[:, 0]
        # The order of the keys does not matter to the softmax.
        keys, values = (t[:, :, : length + 1] for t in (k, v))
        y = F.scaled_dot_product_attention(q_B1HD.transpose(1, 2), keys, values)
        return y.transpose(1, 2), Cache(k, v, length + 1)


class Sums:
    """Linear attention to all tokens so far: the sum of phi(k) [v, 1]^T, (B, heads, D, D + 1)."""

    def start(self, k_BNHD: Tensor, v_BNHD: Tensor) -> Tensor:
        """Return the sum over a context."""
        return _features(k_BNHD).transpose(-1, -2) @ _with_ones(v_BNHD)

    def step(self, q_B1HD: Tensor, k_B1HD: Tensor, v_B1HD: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return equation 4 of Katharopoulos et al. (arXiv:2006.16236), (B, 1, heads, D)."""
        state = state + self.start(k_B1HD, v_B1HD)
        sums = _features(q_B1HD) @ state
        return (sums[..., :-1] / (sums[..., -1:] + EPSILON)).transpose(1, 2), state


def _features(t_BNHD: Tensor) -> Tensor:
    return F.elu(t_BNHD.transpose(1, 2)) + 1


def _with_ones(v_BNHD: Tensor) -> Tensor:
    return F.pad(v_BNHD.transpose(1, 2), (0, 1), value=1.0)
