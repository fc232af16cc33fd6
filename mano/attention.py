"""Multipole attention: one windowed attention, shared by all the levels of a pyramid (arXiv:2507.02748).

Axes in names: B batch, H W grid, C channels, P cells of a block, M blocks of all samples (and, in the attention, of all
levels), T tokens of all levels, F = heads * head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mano.layout import fits, from_blocks, from_windows, real_cells, to_blocks, to_windows
from mano.levels import Grid, LevelWeights, check, level_grids, window_counts
from mano.windows import window_attention

MAX_GATES = 32


def down_sample(blocks_PMC: Tensor, weight: Tensor) -> Tensor:
    """Convolve with kernel = stride = rate, on blocks of rate x rate cells: (P, M, C) -> (M, C').

    ``weight`` is (C', C, rate, rate), as in ``nn.Conv2d``.
    """
    w_PCC = weight.permute(2, 3, 1, 0).flatten(0, 1)
    first, *others = blocks_PMC.unbind(0)
    out_MC = first @ w_PCC[0]
    for block_MC, w_CC in zip(others, w_PCC[1:], strict=True):
        out_MC = torch.addmm(out_MC, block_MC, w_CC)
    return out_MC


def up_sample(x_MC: Tensor, weight: Tensor) -> Tensor:
    """Convolve transposed with kernel = stride = rate, to blocks of rate x rate cells: (M, C) -> (P, M, C').

    ``weight`` is (C, C', rate, rate), as in ``nn.ConvTranspose2d``.
    """
    w_CPC = weight.permute(0, 2, 3, 1).flatten(1, 2)
    return (x_MC @ w_CPC.flatten(1)).unflatten(1, w_CPC.shape[1:]).transpose(0, 1)


class MultipoleAttention(nn.Module):
    """Map (B, H, W, dim) to (B, H, W, dim) with windows at every scale of the grid, in time linear in H * W.

    With one attention A, one down-sampling D and one up-sampling U, shared by all levels::

        X_0 = X,  X_{l+1} = D X_l        O_l = A(X_l)        R_{L-1} = O_{L-1},  R_l = O_l + w_l U R_{l+1}

    and R_0 returned. D and U are convolutions without bias (kernel = stride = rate); A is attention within windows,
    its tokens normalised twice, its outputs averaged where windows overlap, then projected.

    Any grid is served. D reads cells beyond the grid as zero: they add nothing, as D has no bias and acts on raw
    features. A masks them. Every coarse cell covers at least one real cell, so none is made of padding alone.

    The parameters do not depend on the grid nor on the number of levels. The levels do depend on the grid, so compile
    with ``torch.compile(..., dynamic=False)``: symbolic sizes take minutes. There is no second derivative.

    Args:
        dim: channels.
        heads: attention heads.
        head_dim: channels of a head; ``dim // heads`` where None.
        window_size: side of a window, in cells.
        stride: distance between windows; ``window_size`` where None, less lets them overlap.
        rate: factor between the grids of two levels.
        levels: most levels to use; as many as the grid has (:func:`mano.levels.level_grids`) where None. On a grid
            with fewer, those there are.
        level_weights: w_l. ``"sum"``: 1, the paper's text. ``"harmonic"``: 1 / (i + 1) for merge i, counted from the
            coarsest, as the authors' module has it. ``"learned"``: one gate per merge, harmonic at first.
        double_norm: normalise tokens twice, as the authors' module does, or once.
        dropout: probability for attention weights and for outputs.

    Raises:
        ValueError: an argument that cannot work.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        head_dim: int | None = None,
        window_size: int = 2,
        stride: int | None = None,
        rate: int = 2,
        levels: int | None = None,
        level_weights: LevelWeights = "harmonic",
        double_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        stride = window_size if stride is None else stride
        check(dim, heads, head_dim, window_size, stride, rate, levels, level_weights, dropout)
        self.heads, self.head_dim = heads, head_dim or dim // heads
        self.window_size, self.stride, self.rate, self.levels = window_size, stride, rate, levels
        self.level_weights, self.dropout = level_weights, dropout
        self.norm = nn.LayerNorm(dim)
        self.inner_norm = nn.LayerNorm(dim) if double_norm else nn.Identity()
        self.to_qkv = nn.Linear(dim, 3 * self.heads * self.head_dim, bias=False)
        self.to_out = nn.Linear(self.heads * self.head_dim, dim)
        self.down = nn.Conv2d(dim, dim, rate, rate, bias=False)
        self.up = nn.ConvTranspose2d(dim, dim, rate, rate, bias=False)
        if level_weights == "learned":
            self.gates = nn.Parameter(1 / torch.arange(1.0, MAX_GATES + 1))

    def extra_repr(self) -> str:
        names = ("heads", "head_dim", "window_size", "stride", "rate", "levels", "level_weights", "dropout")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def grids(self, grid: Grid) -> tuple[Grid, ...]:
        """Return the grids of the levels that are used on ``grid``, finest first."""
        return level_grids(grid, self.window_size, self.rate, self.levels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        b, h, w, c = x_BHWC.shape
        grids = self.grids((h, w))
        coarser = grids[1:]
        pyramid, blocks = [x_BHWC], []
        for grid in coarser:
            blocks.append(to_blocks(pyramid[-1], self.rate))
            pyramid.append(down_sample(blocks[-1], self.down.weight).view(b, *grid, c))
        aligned = self.rate == self.window_size == self.stride  # then blocks are windows too
        inputs = [*blocks, to_blocks(pyramid[-1], self.rate)] if aligned else [self._to_windows(x) for x in pyramid]
        # The finest level apart, as joining it to the others would copy most of the tokens.
        outputs = self._attend(inputs[:1], b, grids[:1])
        outputs += self._attend(inputs[1:], b, grids[1:]) if coarser else []
        result = self._from_windows(outputs[-1], b, grids[-1])
        for i, l in enumerate(reversed(range(len(coarser)))):
            up = up_sample(result.reshape(-1, c), self.up.weight * self._weight(i))
            if aligned:
                result = self._from_windows(outputs[l] + up, b, grids[l])
            else:
                result = self._from_windows(outputs[l], b, grids[l]) + from_blocks(up, self.rate, b, grids[l])
        return result

    def _to_windows(self, x_BHWC: Tensor) -> Tensor:
        """Return (P, M, C) in the order of the windows where they tile the grid, else (1, T, C)."""
        if self.stride == self.window_size:
            return to_blocks(x_BHWC, self.window_size)
        return x_BHWC.reshape(1, -1, x_BHWC.shape[-1])

    def _from_windows(self, x: Tensor, b: int, grid: Grid) -> Tensor:
        if self.stride == self.window_size:
            return from_blocks(x, self.window_size, b, grid)
        return x.view(b, *grid, -1)

    def _weight(self, merge: int) -> float | Tensor:
        if self.level_weights == "learned":
            return self.gates[merge]
        return 1.0 if self.level_weights == "sum" else 1 / (merge + 1)

    def _attend(self, inputs: list[Tensor], b: int, grids: Sequence[Grid]) -> list[Tensor]:
        """Apply A to some levels; tokens are normalised, projected and attended to for all of them together."""
        k, s, tiled = self.window_size, self.stride, self.stride == self.window_size
        counts = [x.shape[1] for x in inputs]
        x_PMC = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
        x_TC = self.inner_norm(self.norm(x_PMC)).flatten(0, 1)
        qkv_FT = self.to_qkv.weight @ x_TC.t()
        if tiled:
            qkv_FPM = qkv_FT.unflatten(1, x_PMC.shape[:2])
        else:
            parts = zip(qkv_FT.split(counts, 1), grids, strict=True)
            qkv_FPM = torch.cat([to_windows(x.unflatten(1, (b, *grid)), k, s) for x, grid in parts], 2)
        qkv_3AEPM = qkv_FPM.unflatten(0, (3, self.heads, self.head_dim))
        o_FPM = window_attention(qkv_3AEPM, self._real(b, grids, x_TC.device), self._keep(qkv_3AEPM)).flatten(0, 1)
        if tiled:
            o_FT = o_FPM.flatten(1)
        else:
            windows = [b * math.prod(window_counts(grid, k, s)) for grid in grids]
            parts = zip(o_FPM.split(windows, 2), grids, strict=True)
            o_FT = torch.cat([from_windows(o, k, s, b, grid).flatten(1) for o, grid in parts], 1)
        out_TC = F.dropout(self.to_out(o_FT.t()), self.dropout, self.training)
        return list(out_TC.view_as(x_PMC).split(counts, 1))

    def _real(self, b: int, grids: Sequence[Grid], device: torch.device) -> Tensor | None:
        """Return which cells of the windows lie on the grids, (P, M), or None if all do."""
        k, s = self.window_size, self.stride
        if all(fits(k, s, grid) for grid in grids):
            return None
        return torch.cat([real_cells(k, s, b, grid, device) for grid in grids], 1)

    def _keep(self, qkv_3AEPM: Tensor) -> Tensor | None:
        """Return the factors that drop attention probabilities, (A, P, P, M), or None if none are dropped."""
        if not (self.training and self.dropout):
            return None
        a, (p, m) = self.heads, qkv_3AEPM.shape[3:]
        return F.dropout(qkv_3AEPM.new_ones(a, p, p, m), self.dropout)
