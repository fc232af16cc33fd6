"""Consecutive windows of a fixed length from a stretch of bytes."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attn_bench.tasks.text.byte_scores import NOT_COUNTED

if TYPE_CHECKING:
    from attn_bench.tasks.text.corpora import Bytes

BYTES = 256


class NextByte(Dataset[tuple[Tensor, Tensor]]):
    """Windows of ``length`` bytes, each with the same window shifted by one byte as target.

    The first byte of ``stretch`` is not predicted; all others are targets once, except in an incomplete last window.
    """

    def __init__(self, stretch: Bytes, length: int) -> None:
        self.stretch, self.length = stretch, length

    @property
    def bytes(self) -> int:
        """Number of bytes that can be predicted."""
        return len(self.stretch) - 1

    def between(self, first: int, end: int) -> NextByte:
        """Return windows in which the bytes from ``first`` to before ``end`` of these are predicted."""
        return NextByte(self.stretch[first : end + 1], self.length)

    def __len__(self) -> int:
        return self.bytes // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        _check(index, len(self))
        first = index * self.length
        window = torch.from_numpy(self.stretch[first : first + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


class MaskedBytes(Dataset[tuple[Tensor, Tensor]]):
    """Windows of ``length`` bytes in which masked bytes are 256, and targets with only the masked bytes.

    The mask is drawn for the stretch, so that the same bytes are masked at every length.

    Args:
        stretch: the bytes.
        length: of a window.
        rate: the probability that a byte is masked.
        seed: of the mask.
    """

    def __init__(self, stretch: Bytes, length: int, rate: float, seed: tuple[int, ...]) -> None:
        self.stretch, self.length, self.rate = stretch, length, rate
        self.mask = np.random.default_rng(seed).random(len(stretch)) < rate

    @property
    def bytes(self) -> int:
        """Number of bytes, masked or not."""
        return len(self.stretch)

    @property
    def masked(self) -> bool:
        """Whether any byte of the windows is masked."""
        return bool(self.mask[: len(self) * self.length].any())

    def between(self, first: int, end: int) -> MaskedBytes:
        """Return windows of the bytes from ``first`` to before ``end`` of these, with their masks."""
        found = copy(self)
        found.stretch, found.mask = self.stretch[first:end], self.mask[first:end]
        return found

    def __len__(self) -> int:
        return self.bytes // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        _check(index, len(self))
        part = slice(index * self.length, (index + 1) * self.length)
        window, mask = (torch.from_numpy(a[part].astype(t)) for a, t in ((self.stretch, np.int64), (self.mask, bool)))
        return window.masked_fill(mask, BYTES), window.masked_fill(~mask, NOT_COUNTED)


def _check(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise IndexError(index)
