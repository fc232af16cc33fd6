"""Which rows of keys every block of queries reads: index lists for :func:`baselines.fma.blocks.attend_blocks`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from baselines.fma.tiling import ancestors, cells_of, interaction_lists, near_lists
from baselines.fma.tree import Tree

Level = tuple[int, int]
"""Tokens of a cell and summaries of it."""


@dataclass(frozen=True, eq=False)
class Reads:
    """What blocks of queries read: rows of keys, (M, S) with -1 for none, and what is added to a key's score, (T,)."""

    index_MS: Tensor
    bias_T: Tensor

    def to(self, device: torch.device) -> Reads:
        return Reads(self.index_MS.to(device, torch.int32), self.bias_T.to(device))


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The index lists for the attention on one grid.

    Attributes:
        blocks: fine cells on the grid, as runs of tokens; None if all are.
        stretch: of every level, tokens of a part over those of them on the grid, (cells * rank,); None where all are.
        near: near field and all levels, rows of tokens before those of level 1, 2, ...; with queries down-sampled the
            only the near field.
        far: with queries down-sampled, the summaries that the queries of each level read.
    """

    blocks: Tensor | None
    stretch: tuple[Tensor | None, ...]
    near: Reads
    far: tuple[Reads, ...]


@lru_cache(maxsize=16)
def attention_plan(
    tree: Tree, levels: tuple[Level, ...], causal: bool, scale_coarse: bool, separate: bool, device: torch.device
) -> AttentionPlan:
    """Return the plan of a grid.

    Args:
        tree: its cells.
        levels: width and rank of every level.
        causal: queries read what is not after them.
        scale_coarse: add the logarithm of the number of tokens that a summary represents to its score.
        separate: whether to separate the levels, for queries down-sampled.
        device: device of the lists.
    """
    # The lists outlive the call, so they must be ordinary tensors even in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        return _plan(tree, levels, causal, scale_coarse, separate, device)


def _plan(
    tree: Tree, levels: tuple[Level, ...], causal: bool, scale_coarse: bool, separate: bool, device: torch.device
) -> AttentionPlan:
    real = tree.real
    # Blocks in the order of their runs of tokens.
    places, order = tree.places(1).sort()
    index = [_rows(near_lists(tree.fine, causal)[order], tree.places(1), tree.width(1), real)]
    bias, stretch, far, first = [torch.zeros(tree.tokens)], [], [], tree.tokens
    for level, (width, rank) in enumerate(levels, 1):
        part = width // rank
        counts = real.view(-1, part).sum(1)
        stretch.append(None if (counts == part).all() else (part / counts.clamp(min=1)).to(device))
        scale = counts.clamp(min=1).log() if scale_coarse else torch.zeros(len(counts))
        lists, runs = interaction_lists(cells_of(tree.fine, 2 ** (level - 1)), causal), tree.places(level)
        if separate:
            rows = torch.full((tree.tokens // width, lists.shape[1] * rank), -1)
            rows[runs] = _rows(lists, runs, rank, counts > 0)
            far.append(Reads(rows, scale).to(device))
        else:
            rows = _rows(lists[ancestors(tree.fine, level)[order]], runs, rank, counts > 0)
            index.append(torch.where(rows < 0, -1, rows + first))
            bias.append(scale)
            first += len(counts)
    near = Reads(torch.cat(index, 1), torch.cat(bias)).to(device)
    every = len(places) == tree.tokens // tree.width(1)
    return AttentionPlan(None if every else places.to(device), tuple(stretch), near, tuple(far))


def _rows(lists: Tensor, places: Tensor, rows: int, there: Tensor) -> Tensor:
    """Return the rows of keys that every block reads, (blocks, cells of a list * rows); -1 for none.

    Args:
        lists: cells that every block sees; -1 for none.
        places: which run of rows every cell is.
        rows: of a cell.
        there: which rows exist.
    """
    runs = places[lists.clamp(min=0)][..., None] * rows + torch.arange(rows)
    return runs.where((lists >= 0)[..., None] & there[runs], -1).flatten(1)
