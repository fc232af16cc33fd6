"""Chunks of the windows of all levels, small enough to stay in cache, for windows that tile the grids.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, M windows of a chunk, T = K * K * M its cells.
Windows of a level are (K, K, R, columns, C): R rows of windows, those of all samples one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mano.levels import ceil_div

Chunk = list[tuple[int, slice]]
"""The level and the rows of each part."""


ALIASED, ADDED = 64, 16
"""Channels are rows of M numbers: if M is a multiple of 64, rows map to the same few sets of the L1 cache, and a
transposed copy takes three times as long."""


def cut(rows: Sequence[int], tokens: Sequence[int], limit: int) -> list[Chunk]:
    """Cut all levels into chunks of equal size up to a row, coarse levels first, small levels together.

    Args:
        rows: of each level.
        tokens: cells of a row of each level.
        limit: approximate maximum of cells in a chunk; it has at least one row.
    """
    total = sum(r * t for r, t in zip(rows, tokens, strict=True))
    count = ceil_div(total, limit)
    chunks: list[Chunk] = []
    done = end = 0
    for level in reversed(range(len(rows))):
        start = 0
        while start < rows[level]:
            if done >= end:
                chunks.append([])
                end = ceil_div((done * count // total + 1) * total, count)
            stop = min(rows[level], start + ceil_div(end - done, tokens[level]))
            chunks[-1].append((level, slice(start, stop)))
            done += (stop - start) * tokens[level]
            start = stop
    return chunks


def complete(x_BHWC: Tensor, size: int) -> Tensor:
    """Return the grid contiguous, with zeros added at the lower and right end so that ``size`` divides its sides."""
    below, right = (-n % size for n in x_BHWC.shape[1:3])
    return F.pad(x_BHWC, (0, 0, 0, right, 0, below)) if below or right else x_BHWC.contiguous()


def crop(results: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    """Undo :func:`complete` for the results of each of ``xs``."""
    return [y[:, : x.shape[1], : x.shape[2]].contiguous() for y, x in zip(results, xs, strict=True)]


def windows(xs: Sequence[Tensor], window_size: int) -> list[Tensor]:
    """View complete grids as windows, (K, K, R, columns, C) each."""
    split = (x.view(-1, window_size, x.shape[2] // window_size, window_size, x.shape[3]) for x in xs)
    return [x.permute(1, 3, 0, 2, 4) for x in split]


def window_chunks(levels: Sequence[Tensor], limit: int) -> Iterator[tuple[Chunk, slice]]:
    """Cut the windows of all levels into chunks of about ``limit`` cells; each comes with its windows."""
    start = 0
    for chunk in cut([x.shape[2] for x in levels], [x[:, :, 0, :, 0].numel() for x in levels], limit):
        stop = start + sum((rows.stop - rows.start) * levels[level].shape[3] for level, rows in chunk)
        yield chunk, slice(start, stop)
        start = stop


def real(xs: Sequence[Tensor], window_size: int) -> list[Tensor] | None:
    """Return which cells of the windows are on the grids, or None if all are."""
    if all(n % window_size == 0 for x in xs for n in x.shape[1:3]):
        return None
    ones = (x.new_ones(*x.shape[:3], 1, dtype=torch.bool) for x in xs)
    return windows([complete(x, window_size) for x in ones], window_size)


def gather(levels: Sequence[Tensor], chunk: Chunk, fill: float) -> Tensor:
    """Return the cells of a chunk, (T, C); the same cell of all its windows is stored contiguously.

    If the number of windows is a multiple of ``ALIASED``, a few windows of ``fill`` are added.
    """
    parts = [levels[level][:, :, rows] for level, rows in chunk]
    k, _, _, _, c = parts[0].shape
    windows = sum(part.shape[2] * part.shape[3] for part in parts)
    out = parts[0].new_empty(k, k, windows + (ADDED if windows % ALIASED == 0 else 0), c)
    out[:, :, windows:] = fill
    for place, part in _places(out, parts):
        place.copy_(part)
    return out.view(-1, c)


def scatter(tokens_TC: Tensor, levels: Sequence[Tensor], chunk: Chunk) -> None:
    """Undo :func:`gather`, dropping the windows it added."""
    parts = [levels[level][:, :, rows] for level, rows in chunk]
    k = len(parts[0])
    for place, part in _places(tokens_TC.unflatten(0, (k, k, -1)), parts):
        part.copy_(place)


def _places(tokens_KKMC: Tensor, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for part in parts:
        stop = start + part.shape[2] * part.shape[3]
        yield tokens_KKMC[:, :, start:stop].unflatten(2, part.shape[2:4]), part
        start = stop
