"""How the kernels of :mod:`baselines.fma.kernels` divide their work; needs no Triton."""

from __future__ import annotations

from typing import NamedTuple

QUERIES, SLOTS = 64, 32


class Tiles(NamedTuple):
    """The tiles of a kernel.

    Attributes:
        channels: of a head, padded.
        queries: of a block in one program, padded.
        parts: programs of a block.
        wide: whether a row has so many bytes that tiles are smaller.
    """

    channels: int
    queries: int
    parts: int
    wide: bool


def tiles(size: int, head_dim: int, itemsize: int) -> Tiles:
    """Return the tiles for blocks of ``size`` queries.

    Args:
        itemsize: bytes of a number in queries and keys.
    """
    channels = max(16, _power(head_dim))
    # The registers of a thread hold its part of a few tiles of queries and of keys.
    wide = channels * itemsize >= 256
    queries = min(QUERIES // 2 if wide else QUERIES, max(16, _power(size)))
    return Tiles(channels, queries, -(-size // queries), wide)


def _power(n: int) -> int:
    """Return the smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()
