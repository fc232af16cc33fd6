"""Multipole attention: one windowed attention, shared by all the levels of a pyramid (arXiv:2507.02748).

Axes in names: B batch, H W grid, C channels, P cells of a block, M blocks of all samples (and, in the attention, of all
levels), T tokens of all levels, F = heads * head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mano.layout import fits, from_blocks, from_windows, real_cells, to_blocks, to_windows
from mano.levels import Grid, LevelWeights, ceil_div, check, level_grids, window_counts
from mano.windows import window_attention

MAX_GATES = 32


def down_sample(x_BHWC: Tensor, weight: Tensor) -> Tensor:
    """Convolve with kernel = stride = rate: (B, H, W, C) -> (B, ceil(H / rate), ceil(W / rate), C').

    Cells beyond the grid count as zero. ``weight`` is (C', C, rate, rate), as in ``nn.Conv2d``.
    """
    b, h, w, _ = x_BHWC.shape
    rate = weight.shape[-1]
    w_PCC = weight.permute(2, 3, 1, 0).flatten(0, 1)
    first, *others = to_blocks(x_BHWC, rate).unbind(0)
    out_MC = first @ w_PCC[0]
    for block_MC, w_CC in zip(others, w_PCC[1:], strict=True):
        out_MC = torch.addmm(out_MC, block_MC, w_CC)
    return out_MC.view(b, ceil_div(h, rate), ceil_div(w, rate), -1)


def up_sample(x_BHWC: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Convolve transposed with kernel = stride = rate, cropped to ``grid``: (B, h, w, C) -> (B, H, W, C').

    ``weight`` is (C, C', rate, rate), as in ``nn.ConvTranspose2d``.
    """
    rate, c = weight.shape[-1], weight.shape[1]
    w_CF = weight.permute(0, 2, 3, 1).flatten(1)
    blocks_PMC = (x_BHWC.flatten(0, 2) @ w_CF).view(-1, rate * rate, c).transpose(0, 1)
    return from_blocks(blocks_PMC, rate, len(x_BHWC), grid)


class MultipoleAttention(nn.Module):
    """Map (B, H, W, dim) to (B, H, W, dim) with windows at every scale of the grid, in time linear in H * W.

    With one attention A, one down-sampling D and one up-sampling U, shared by all levels::

        X_0 = X,  X_{l+1} = D X_l        O_l = A(X_l)        R_{L-1} = O_{L-1},  R_l = O_l + w_l U R_{l+1}

    and R_0 returned. D and U are convolutions without bias (kernel = stride = rate); A is attention within windows,
    its tokens normalised twice, its outputs averaged where windows overlap, then projected.

    Any grid is served. D reads cells beyond the grid as zero: they add nothing, as D has no bias and acts on raw
    features. A masks them. Every coarse cell covers at least one real cell, so none is made of padding alone.

    The parameters do not depend on the grid nor on the number of levels.

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
        pyramid = [x_BHWC]
        for _ in self.grids(x_BHWC.shape[1:3])[1:]:
            pyramid.append(down_sample(pyramid[-1], self.down.weight))
        result, *finer = reversed(self._attend(pyramid))
        for i, o_BHWC in enumerate(finer):
            result = o_BHWC + up_sample(result, self.up.weight * self._weight(i), o_BHWC.shape[1:3])
        return result

    def _weight(self, merge: int) -> float | Tensor:
        if self.level_weights == "learned":
            return self.gates[merge]
        return 1.0 if self.level_weights == "sum" else 1 / (merge + 1)

    def _attend(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Apply A to every level; tokens are normalised, projected and attended to for all levels together."""
        b, grids, k, s = len(pyramid[0]), [tuple(x.shape[1:3]) for x in pyramid], self.window_size, self.stride
        tiled = s == k  # then each cell is in one window, and tokens can be in the order of the windows throughout
        inputs = [to_blocks(x, k) if tiled else x.reshape(1, -1, x.shape[-1]) for x in pyramid]
        counts = [x.shape[1] for x in inputs]
        x_PMC = torch.cat(inputs, 1)
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
        parts = zip(out_TC.view_as(x_PMC).split(counts, 1), grids, strict=True)
        return [from_blocks(o, k, b, grid) if tiled else o.view(b, *grid, -1) for o, grid in parts]

    def _real(self, b: int, grids: list[Grid], device: torch.device) -> Tensor | None:
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
