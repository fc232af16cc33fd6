"""Multipole attention: one windowed attention, shared by all the levels of a pyramid (arXiv:2507.02748).

Axes in names: B batch, H W grid, C channels, T tokens of all levels, A heads, P cells of a window, M windows of all
levels, F = heads * head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mano.levels import Grid, LevelWeights, check, level_grids, window_counts
from mano.overlap import window_attention
from mano.tiles import tiled_attention

MAX_GATES = 32


def down_sample(x_BHWC: Tensor, weight: Tensor) -> Tensor:
    """D: convolve with kernel = stride = the last sides of ``weight``; cells beyond the grid are 0."""
    rate = weight.shape[-1]
    below, right = (-n % rate for n in x_BHWC.shape[1:3])
    padded = F.pad(x_BHWC, (0, 0, 0, right, 0, below)) if below or right else x_BHWC
    return F.conv2d(padded.permute(0, 3, 1, 2), weight, stride=rate).permute(0, 2, 3, 1)


def up_sample(x_BHWC: Tensor, weight: Tensor, fine_BHWC: Tensor) -> Tensor:
    """U: convolve transposed with kernel = stride, cut to the grid of ``fine_BHWC``, and add that."""
    up_BCHW = F.conv_transpose2d(x_BHWC.permute(0, 3, 1, 2), weight, stride=weight.shape[-1])
    fine_BCHW = fine_BHWC.permute(0, 3, 1, 2)
    if up_BCHW.shape == fine_BCHW.shape:
        total_BCHW = up_BCHW.add_(fine_BCHW)
    else:
        total_BCHW = up_BCHW[..., : fine_BCHW.shape[2], : fine_BCHW.shape[3]] + fine_BCHW
    return total_BCHW.permute(0, 2, 3, 1)


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
        grids = self.grids((x_BHWC.shape[1], x_BHWC.shape[2]))
        pyramid = [x_BHWC]
        for _ in grids[1:]:
            pyramid.append(down_sample(pyramid[-1], self.down.weight))
        *outputs, result = self._attend(pyramid)
        for i, output in enumerate(reversed(outputs)):
            result = up_sample(result, self.up.weight * self._weight(i), output)
        return result

    def _weight(self, merge: int) -> float | Tensor:
        if self.level_weights == "learned":
            return self.gates[merge]
        return 1.0 if self.level_weights == "sum" else 1 / (merge + 1)

    def _attend(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Apply A to all levels together."""
        x = pyramid[0]
        dropping = self.training and self.dropout > 0
        if x.device.type == "cpu" and self.stride == self.window_size and not dropping:
            norms = [p for norm in (self.norm, self.inner_norm) for p in norm.parameters()]
            tensors = [*pyramid, *norms, self.to_qkv.weight, self.to_out.weight, self.to_out.bias]
            if torch.is_autocast_enabled("cpu"):
                tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
            levels, (*norms, qkv, out, bias) = tensors[: len(pyramid)], tensors[len(pyramid) :]
            return tiled_attention(levels, norms, qkv, out, bias, self.heads, self.window_size, self.norm.eps)
        x_TC = torch.cat([level.reshape(-1, level.shape[3]) for level in pyramid])
        qkv_TF = self.to_qkv(self.inner_norm(self.norm(x_TC)))
        sides = [n for level in pyramid for n in level.shape[1:3]]
        keep = self._keep(qkv_TF, len(x), sides) if dropping else None
        o_TF = window_attention(qkv_TF, sides, len(x), self.heads, self.window_size, self.stride, keep)
        out_TC = F.dropout(self.to_out(o_TF), self.dropout, self.training)
        parts = out_TC.split([level[..., 0].numel() for level in pyramid])
        return [part.view(level.shape) for part, level in zip(parts, pyramid, strict=True)]

    def _keep(self, like: Tensor, batch: int, sides: list[int]) -> Tensor:
        """Return the factors that drop attention probabilities, (A, P, P, M)."""
        counts = [window_counts(grid, self.window_size, self.stride) for grid in zip(sides[::2], sides[1::2])]
        cells, windows = self.window_size**2, batch * sum(map(math.prod, counts))
        return F.dropout(like.new_ones(self.heads, cells, cells, windows), self.dropout)
