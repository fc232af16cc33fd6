"""Fast Multipole Attention (arXiv:2310.11960) on sequences and on grids.

Axes in names: B batch, C channels, T tokens of the completed grid cell by cell, H heads, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.fast_linear import Linear
from attn_bench.nn.size_checks import check_heads, check_positive
from attn_bench.plugin import OptionError
from baselines.fma.attention_plan import AttentionPlan, Level, attention_plan
from baselines.fma.blocks import attend_blocks
from baselines.fma.summaries import Summaries, Summary
from baselines.fma.tiling import Grid
from baselines.fma.tree import Tree


class FastMultipoleAttention(nn.Module):
    """Fast Multipole Attention on sequences or grids: (B, \\*grid, dim) to the same, for any grid with as many axes.

    On a sequence (N,), a query reads the tokens of its fine cell, an interval of ``cell_size`` = m, and of the adjacent
    cells (causal: its cell up to itself, and the one before). Of intervals further away, of width m 2^(l-1) at level l,
    it reads ``rank`` summaries each. One softmax over all of them takes O(N (m + rank log(N / m))). Up to 2 m tokens
    this is exact attention, and is computed as such. Section 3 of arXiv:2310.11960.

    On a grid (H, W), a query reads the tokens of the 3 x 3 fine cells around it, and at every level of the quadtree
    ``rank`` summaries of each cell in the classical interaction list (children of the 3 x 3 cells around its cell's
    parent, without those around its cell: at most 27). The paper's 2D code is not published; this is our reading. If
    everything is near, it is exact attention. Cells are squares, so a grid much longer than wide needs much padding.

    Our choices, where the paper is silent or its published code is faulty: cells beyond the grid are masked; the
    kernels start as averages (:class:`baselines.fma.summaries.Summaries`); dropout acts on the output.

    With ``query_downsampling`` scores, softmax and values are O(N). (Learned kernels still read every token at every
    level; averages are computed from averages, so that everything is O(N).) The tokens of a part, which has one summary
    among a level's keys, share one query to that level, and the results of all levels are merged with the near field
    as one softmax over everything read (the paper up-samples products; sharing a query and repeating its result is our
    reading). The query is a summary of the part's tokens; if causal, of the part before, as a query that includes
    later tokens would leak.

    Args:
        dim: channels.
        grid: grid up to which every level has its own weights, (N,) or (H, W); larger grids stretch those of the last
            level.
        cell_size: side of a fine cell, in tokens.
        heads: attention heads; must divide ``dim``.
        rank: summaries of a cell, one number or one for each level (the last for all further levels); must divide its
            tokens; a larger number means all of them. On a grid, a power of 4 makes each represent a square.
        summary: how tokens become summaries: ``grouped``, ``dense`` or ``average``.
        causal: whether a token reads nothing after it; sequences only.
        scale_coarse: whether to add the logarithm of the number of tokens that a summary represents to its score.
        query_downsampling: the linear variant.
        dropout: dropout probability of the output.

    Raises:
        OptionError: an invalid value.
    """

    def __init__(
        self,
        dim: int,
        grid: Grid,
        cell_size: int,
        *,
        heads: int,
        rank: int | Sequence[int] = 4,
        summary: Summary = "grouped",
        causal: bool = False,
        scale_coarse: bool = False,
        query_downsampling: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_positive(cell_size=cell_size, grid=min(grid))
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout is {dropout}; it must be >= 0 and < 1")
        self.heads, self.cell_size, self.dimensions = heads, cell_size, len(grid)
        self.causal, self.scale_coarse = causal, scale_coarse
        self.ranks = (rank,) if isinstance(rank, int) else tuple(rank)
        if not self.ranks or min(self.ranks) < 1:
            raise OptionError(f"rank is {rank}; it must be >= 1 at every level")
        self.query_downsampling = query_downsampling
        self.tree = Tree(grid, cell_size)
        self._trained_levels = None if summary == "average" else self.tree.levels
        levels = self.levels(self.tree.levels)
        self.qkv = Linear(dim, 3 * dim, bias=False)
        widths, ranks = [width for width, _ in levels], [p for _, p in levels]
        self.key_summaries = Summaries(dim // heads, widths, ranks, summary)
        self.value_summaries = Summaries(dim // heads, widths, ranks, summary)
        if query_downsampling:
            parts = [width // p for width, p in levels]
            self.query_summaries = Summaries(dim // heads, parts, [1] * len(parts), summary)
        self.project = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def levels(self, count: int) -> tuple[Level, ...]:
        """Return tokens and summaries of a cell at each of ``count`` levels.

        Raises:
            OptionError: a rank does not divide the tokens of a cell, or parts of cells are not nested.
        """
        found: list[Level] = []
        for level in range(1, count + 1):
            width = self.tree.width(level)
            if self._trained_levels and level > self._trained_levels:
                p = found[-1][1]
            else:
                p = min(self.ranks[min(level, len(self.ranks)) - 1], width)
            if width % p:
                raise OptionError(f"rank is {p} at level {level}; it must divide the tokens of a cell ({width})")
            if self.query_downsampling and found and (width // p) % (found[-1][0] // found[-1][1]):
                raise OptionError(
                    f"rank is {p} at level {level}; with query_downsampling, at most twice the one before"
                )
            found.append((width, p))
        return tuple(found)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.qkv(x))

    def attend(self, qkv: Tensor) -> Tensor:
        """Return the output for the queries, keys and values of all tokens, (B, \\*grid, 3 dim)."""
        b, *grid, _ = qkv.shape
        tree = Tree(tuple(grid), self.cell_size)
        if not tree.levels:
            q, k, v = qkv.reshape(b, -1, 3, self.heads, qkv.shape[-1] // 3 // self.heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2)
            return self.dropout(self.project(y.reshape(b, *grid, -1)))
        levels = self.levels(tree.levels)
        at = attention_plan(tree, levels, self.causal, self.scale_coarse, self.query_downsampling, qkv.device)
        q_BTHE, k_BTHE, v_BTHE = tree.gather(qkv).unflatten(-1, (3, self.heads, -1)).unbind(2)
        keys = self.key_summaries(k_BTHE, levels, at.stretch)
        values = self.value_summaries(v_BTHE, levels, at.stretch)
        if self.query_downsampling:
            far = self._far(q_BTHE, keys, values, levels, at)
            near = self._read(q_BTHE, k_BTHE, v_BTHE, at)
            o_BTHE, _ = _merge(near, far)
        else:
            o_BTHE, _ = self._read(q_BTHE, torch.cat([k_BTHE, *keys], 1), torch.cat([v_BTHE, *values], 1), at)
        return self.dropout(self.project(tree.scatter(o_BTHE.to(qkv.dtype).flatten(2))))

    def _read(self, q_BTHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor, at: AttentionPlan) -> tuple[Tensor, Tensor]:
        """Attend from every token of the grid; zeros for those beyond it. Also return the log-sum-exp, (B, T, H)."""
        diagonal = self.cell_size if self.causal else -1
        if at.blocks is None:
            return attend_blocks(q_BTHE, k_BTHE, v_BTHE, at.near.index_MS, at.near.bias_T, diagonal)
        q_BMIHE = q_BTHE.unflatten(1, (-1, self.cell_size**self.dimensions)).index_select(1, at.blocks)
        found = attend_blocks(q_BMIHE.flatten(1, 2), k_BTHE, v_BTHE, at.near.index_MS, at.near.bias_T, diagonal)
        out, lse = (_put(y.unflatten(1, q_BMIHE.shape[1:3]), at.blocks, q_BTHE.shape[1]) for y in found)
        return out, lse

    def _far(
        self, q_BTHE: Tensor, keys: list[Tensor], values: list[Tensor], levels: tuple[Level, ...], at: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        """Attend from down-sampled queries to the summaries of every level: a result for each part of level 1."""
        queries = self.query_summaries(q_BTHE, [(width // rank, 1) for width, rank in levels], at.stretch)
        if self.causal:
            queries = [F.pad(q_BRHE[:, :-1], (0, 0, 0, 0, 1, 0)) for q_BRHE in queries]
        found = [
            attend_blocks(q_BRHE, k, v, reads.index_MS, reads.bias_T, -1)
            for q_BRHE, k, v, reads in zip(queries, keys, values, at.far, strict=True)
        ]
        merged = found.pop()
        for fine in reversed(found):
            merged = _merge(fine, merged)
        return merged


def _merge(fine: tuple[Tensor, Tensor], coarse: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merge the results of queries over two sets of keys by their log-sum-exp; several share one of the second set.

    Args:
        fine: results (B, N, H, E) and log-sum-exp (B, N, H).
        coarse: (B, N / r, H, E) and (B, N / r, H).
    """
    (out, lse), (shared, shared_lse) = fine, coarse
    together = (-1, out.shape[1] // shared.shape[1])
    lse_BXRH, shared_lse = lse.unflatten(1, together), shared_lse[:, :, None]
    share = (shared_lse - lse_BXRH).sigmoid()[..., None].to(out.dtype)
    merged = torch.lerp(out.unflatten(1, together), shared[:, :, None], share)
    return merged.flatten(1, 2), torch.logaddexp(lse_BXRH, shared_lse).flatten(1, 2)


def _put(x_BMI: Tensor, blocks: Tensor, tokens: int) -> Tensor:
    """Place blocks (B, M, I, ...) at their positions among all tokens, (B, T, ...), with zeros elsewhere."""
    every = x_BMI.new_zeros(len(x_BMI), tokens // x_BMI.shape[2], *x_BMI.shape[2:])
    return every.index_copy(1, blocks, x_BMI).flatten(1, 2)
