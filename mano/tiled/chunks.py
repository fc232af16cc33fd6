"""Chunks of the tokens of all levels, few enough to stay in cache, laid out for windows that tile the grids.

Axes in names: B batch, H W grid, C channels, K x K cells of a window, M windows of a chunk, T = K * K * M its tokens.
Windows of a level are (K, K, R, columns, C): R rows of windows, those of all samples one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mano.levels import ceil_div

Chunk = list[tuple[int, slice]]
"""For each part its level and its rows."""


ALIASED, ADDED = 64, 16
"""Channels are rows of M numbers: where M is a multiple of 64, rows fall on the same few sets of the first cache, and a
transposed copy takes three times as long."""


def cut(rows: Sequence[int], tokens: Sequence[int], limit: int) -> list[Chunk]:
    """Cut all levels into chunks of equal size, to a row, coarse levels first, small ones together.

    Args:
        rows: of each level.
        tokens: of a row of each level.
        limit: about how many tokens a chunk may have; it has one row at least.
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


def windows(xs: Sequence[Tensor], window: int) -> list[Tensor]:
    """View complete grids as windows."""
    split = (x.view(-1, window, x.shape[2] // window, window, x.shape[3]) for x in xs)
    return [x.permute(1, 3, 0, 2, 4) for x in split]


def window_chunks(levels: Sequence[Tensor], limit: int) -> Iterator[tuple[Chunk, slice]]:
    """Cut windows of all levels into chunks of about ``limit`` tokens; with each, which of all windows it holds."""
    start = 0
    for chunk in cut([x.shape[2] for x in levels], [x[:, :, 0, :, 0].numel() for x in levels], limit):
        stop = start + sum((rows.stop - rows.start) * levels[level].shape[3] for level, rows in chunk)
        yield chunk, slice(start, stop)
        start = stop


def real(xs: Sequence[Tensor], window: int) -> list[Tensor] | None:
    """Return which cells of the windows lie on the grids, or None if all do."""
    if all(n % window == 0 for x in xs for n in x.shape[1:3]):
        return None
    ones = (x.new_ones(*x.shape[:3], 1, dtype=torch.bool) for x in xs)
    return windows([complete(x, window) for x in ones], window)


def gather(levels: Sequence[Tensor], chunk: Chunk, fill: float) -> Tensor:
    """Return the tokens of a chunk, (T, C), those of the same cell of all windows one after the other.

    A few windows of ``fill`` are added where their number is a multiple of ``ALIASED``.
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
