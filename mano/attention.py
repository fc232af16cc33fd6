"""Multipole attention: one windowed attention, shared by all the levels of a pyramid (arXiv:2507.02748).

Axes in names: B batch, H W grid, C channels, T tokens of all levels, A heads, P cells of a window, M windows of all
levels, F = heads * head_dim.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.precision import wide_dtype
from attn_bench.nn.size_checks import check_heads, check_positive
from mano import periodic, reference
from mano.attend import SMALL
from mano.levels import Grid, level_grids, window_counts
from mano.multipole_options import MultipoleOptions
from mano.overlapping.layout import Windows
from mano.overlapping.window_attention import window_attention
from mano.tiled import cpp
from mano.tiled.layer import Weights
from mano.tiled.sampling import down_sample, up_sample
from mano.tiled.tiled_multipole import tiled_multipole

MAX_GATES = 32
# Convolutions of "conv-per-level" where the grid is not known: enough for 512 x 512 cells with a rate of 2.
MERGES = 8


class MultipoleAttention(nn.Module):
    """Map (B, H, W, dim) to (B, H, W, dim) with windows at every scale of the grid, in time linear in H * W.

    With one attention A, one down-sampling D and one up-sampling U, shared by all levels::

        X_0 = X,  X_{l+1} = D X_l        O_l = A(X_l)        R_{L-1} = O_{L-1},  R_l = O_l + w_l U R_{l+1}

    and R_0 is returned. D and U are convolutions without bias (kernel = stride = rate); A is attention within windows,
    with tokens normalized twice and outputs averaged where windows overlap, then projected.

    Any grid is supported. D reads cells beyond the grid as zero; they add nothing, as D has no bias and acts on raw
    features. A masks them. Every coarse cell covers at least one real cell, so none consists only of padding.

    The levels depend on the grid, so compile with ``torch.compile(..., dynamic=False)``: symbolic sizes take minutes.
    There is no second derivative.

    Args:
        dim: channels.
        merges: levels, without the finest, of the grid that it is built for; only ``down_sampling="conv-per-level"``
            reads it.
        periodic: whether rows, and columns, go on at the opposite edge (:mod:`mano.periodic`); empty: neither.
        **options: fields of :class:`mano.multipole_options.MultipoleOptions`, by name:

            - ``heads``, ``head_dim``: attention heads, and channels of each; ``dim // heads`` if unset.
            - ``window_size``, ``stride``: side of a window, and distance between windows, in cells. ``stride`` is
              ``window_size`` if unset; a smaller one makes windows overlap.
            - ``rate``: factor between the grids of successive levels.
            - ``levels``: maximum number of levels; if unset, all levels of the grid (:func:`mano.levels.level_grids`).
              A grid with fewer levels uses those it has.
            - ``level_weights``: w_l. ``"sum"``: 1, the paper's text. ``"harmonic"``: 1 / (i + 1) for merge i, counted
              from the coarsest, as in the authors' module. ``"learned"``: one gate for each merge, initially harmonic.
            - ``down_sampling``: D. ``"conv"``: one convolution, shared by all levels. ``"conv-per-level"``: ``merges``
              of them, one for each level, finest first; further levels share the last. ``"average"``: the mean of
              the real cells.
            - ``up_sampling``: U. ``"transposed"``: one transposed convolution, shared by all levels. ``"nearest"``:
              each cell is repeated.
            - ``double_norm``: normalize tokens twice, as in the authors' module, or once.
            - ``dropout``: probability for attention weights and for outputs.
            - ``backend``: the implementation. ``"auto"``: Triton kernels on CUDA, C++ on the CPU where it supports the
              layer (:class:`mano.tiled.cpp.LayerSizes`) and there is a compiler, torch's operations otherwise.
              ``"cpp"``, ``"triton"`` and ``"torch"`` insist on one; ``"reference"`` reads the equations literally
              (:mod:`mano.reference`), slowly.

    Raises:
        OptionError: an invalid option.
        RuntimeError: in a call, ``backend`` cannot serve the layer or the device.
    """

    def __init__(self, dim: int, *, merges: int = MERGES, periodic: tuple[bool, ...] = (), **options: Any) -> None:
        super().__init__()
        check_positive(dim=dim)
        chosen = MultipoleOptions(**options)
        if chosen.head_dim is None:
            check_heads(dim, chosen.heads)
        self.heads, self.head_dim = chosen.heads, chosen.head_dim or dim // chosen.heads
        self.window_size, self.stride = chosen.window_size, chosen.distance
        self.rate, self.levels, self.level_weights = chosen.rate, chosen.levels, chosen.level_weights
        self.dropout, self.backend = chosen.dropout, chosen.backend
        self.periodic = periodic or (False, False)
        self.norm = nn.LayerNorm(dim)
        self.inner_norm = nn.LayerNorm(dim) if chosen.double_norm else nn.Identity()
        self.to_qkv = nn.Linear(dim, 3 * self.heads * self.head_dim, bias=False)
        self.to_out = nn.Linear(self.heads * self.head_dim, dim)
        self.down_sampling, self.up_sampling = chosen.down_sampling, chosen.up_sampling
        if self.down_sampling == "conv":
            self.down = nn.Conv2d(dim, dim, self.rate, self.rate, bias=False)
        elif self.down_sampling == "conv-per-level":
            convolutions = (nn.Conv2d(dim, dim, self.rate, self.rate, bias=False) for _ in range(max(1, merges)))
            self.downs = nn.ModuleList(convolutions)
        if self.up_sampling == "transposed":
            self.up = nn.ConvTranspose2d(dim, dim, self.rate, self.rate, bias=False)
        if self.level_weights == "learned":
            self.gates = nn.Parameter(1 / torch.arange(1.0, MAX_GATES + 1))

    def extra_repr(self) -> str:
        names = ("heads", "head_dim", "window_size", "stride", "rate", "levels", "level_weights", "down_sampling",
                 "up_sampling", "dropout", "backend")  # fmt: skip
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def grids(self, grid: Grid) -> tuple[Grid, ...]:
        """Return the grids of the levels that are used on ``grid``, finest first."""
        return level_grids(grid, self.window_size, self.rate, self.levels)

    def uses_cpp(self) -> bool:
        """Tell whether C++ serves this layer on the CPU (:mod:`mano.tiled.cpp`), under autocast if on.

        Training with dropout takes torch's operations all the same.
        """
        if self.backend not in ("auto", "cpp"):
            return False
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.to_qkv.weight.dtype
        norms = 2 if isinstance(self.inner_norm, nn.LayerNorm) else 1
        channels = self.norm.normalized_shape[0]
        windows = self.window_size, self.stride
        return cpp.serves(dtype, channels, self.heads, self.head_dim, *windows, self.rate, norms)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        grids = self.grids((x_BHWC.shape[1], x_BHWC.shape[2]))
        level_weights = self._level_weights(len(grids) - 1)
        dropping = self.training and self.dropout > 0
        self._check_backend(x_BHWC, dropping)
        wrapping = periodic.wraps(self, grids)
        if self.backend == "reference" and not wrapping:
            return reference.multipole(self, x_BHWC, len(grids))
        tiled = self._tiles(x_BHWC, dropping)
        if tiled and not wrapping and (self.down_sampling, self.up_sampling) == ("conv", "transposed"):
            return self._tiled(x_BHWC, level_weights)
        pyramid = [x_BHWC]
        for level in range(len(grids) - 1):
            pyramid.append(periodic.coarser(self, pyramid[-1], level))
        if wrapping:
            attended = [periodic.attend(self, x, dropping) for x in pyramid]
        else:
            attended = [self._tiled(x, []) for x in pyramid] if tiled else self._attend(pyramid, dropping)
        *outputs, result = attended
        for output, weight in zip(reversed(outputs), reversed(list(level_weights)), strict=True):
            result = output + self._finer(result, weight, output.shape[1:3])
        return result

    def coarser(self, x_BHWC: Tensor, level: int) -> Tensor:
        """D: return level ``level + 1`` from level ``level``."""
        if self.down_sampling == "average":
            x_BCHW = x_BHWC.permute(0, 3, 1, 2)
            mean = F.avg_pool2d(x_BCHW, self.rate, ceil_mode=True, count_include_pad=False)
            return mean.permute(0, 2, 3, 1)
        return down_sample(x_BHWC, self.down_weight(level))

    def down_weight(self, level: int) -> Tensor:
        """Return the weights of the convolution D that makes level ``level + 1``."""
        if self.down_sampling == "conv":
            return self.down.weight
        return cast("nn.Conv2d", self.downs[min(level, len(self.downs) - 1)]).weight

    def _finer(self, x_BHWC: Tensor, weight: Tensor | float, grid: torch.Size) -> Tensor:
        """U: return ``weight`` times a level on the grid of the one before."""
        if self.up_sampling == "transposed":
            return up_sample(x_BHWC, self.up.weight * weight, grid)
        repeated = x_BHWC.repeat_interleave(self.rate, 1).repeat_interleave(self.rate, 2)
        return repeated[:, : grid[0], : grid[1]] * weight

    def _check_backend(self, x_BHWC: Tensor, dropping: bool) -> None:
        on_cpu = x_BHWC.device.type == "cpu"
        if self.backend == "cpp" and (dropping or not on_cpu or not self.uses_cpp()):
            raise RuntimeError(
                "backend 'cpp' cannot serve this layer here: it needs the CPU, a C++ compiler, float32, float64 or "
                "bf16, window_size <= 8, channels that fill vector registers and no dropout; use backend 'auto'"
            )
        if self.backend == "triton" and (dropping or on_cpu or x_BHWC.dtype == torch.float64):
            raise RuntimeError(
                "backend 'triton' cannot serve this layer here: it needs CUDA, a dtype other than float64 and no "
                "dropout; use backend 'auto'"
            )

    def constant_weight(self, merge: int) -> float:
        """Return the weight of a merge, counted from the coarsest, where it is not learned."""
        return 1.0 if self.level_weights == "sum" else 1 / (merge + 1)

    def _level_weights(self, merges: int) -> Tensor | list[float]:
        """Return w_0, w_1, ..., finest first."""
        if self.level_weights == "learned":
            return self.gates[:merges].flip(0)
        return [self.constant_weight(i) for i in reversed(range(merges))]

    def _tiled(self, x_BHWC: Tensor, level_weights: Tensor | list[float]) -> Tensor:
        down: Tensor
        up: Tensor
        if len(level_weights):
            down, up = self.down.weight, self.up.weight
        else:  # only their shapes are read
            dim = len(self.to_out.bias)
            down = up = self.to_out.bias.new_zeros(dim, dim, self.rate, self.rate)
        projections = self.to_qkv.weight, self.to_out.weight, self.to_out.bias, down, up
        tensors = [x_BHWC, *projections, *self.norm.parameters(), *self.inner_norm.parameters()]
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            of_weights = wide_dtype(dtype) if self.uses_cpp() else dtype
            tensors = [x_BHWC.to(dtype), *(tensor.to(of_weights) for tensor in tensors[1:])]
        x, qkv, out, bias, down, up, *norms = tensors
        gates = torch.as_tensor(level_weights, dtype=self.to_qkv.weight.dtype)
        # For larger windows the probabilities take more room than all else, and a matrix product computes them again.
        small = self.window_size**2 <= SMALL
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, gates))
        store_probabilities = small and differentiated and not self.uses_cpp()
        weights = Weights(qkv, out, bias, down, up, gates, norms).pack()
        sizes = self.heads, self.window_size, self.stride, self.norm.eps
        use_cpp = self.backend in ("auto", "cpp")
        return tiled_multipole(x, weights, *sizes, store_probabilities, use_cpp)[0]

    def attend_alone(self, x_BHWC: Tensor, dropping: bool) -> Tensor:
        """A: attention in the windows of one level, with ``dropping`` as in training with dropout."""
        return self._tiled(x_BHWC, []) if self._tiles(x_BHWC, dropping) else self._attend([x_BHWC], dropping)[0]

    def _tiles(self, x_BHWC: Tensor, dropping: bool) -> bool:
        """Tell whether one pass over windows computes everything: windows side by side, or those that C++ serves."""
        side_by_side = self.stride == self.window_size
        return x_BHWC.device.type == "cpu" and not dropping and (side_by_side or self.uses_cpp())

    def _attend(self, pyramid: list[Tensor], dropping: bool) -> list[Tensor]:
        """Apply A to all levels together."""
        x_TC = torch.cat([level.reshape(-1, level.shape[3]) for level in pyramid])
        qkv_TF = self.to_qkv(self.inner_norm(self.norm(x_TC)))
        factors = self._dropout_factors(qkv_TF, pyramid) if dropping else None
        batch, height, width = pyramid[0].shape[:3]
        windows = Windows(batch, height, width, len(pyramid), self.rate, self.heads, self.window_size, self.stride)
        o_TF, _ = window_attention(qkv_TF, list(windows), factors, self.backend != "torch")
        out_TC = F.dropout(self.to_out(o_TF), self.dropout, self.training)
        parts = out_TC.split([level[..., 0].numel() for level in pyramid])
        return [part.view(level.shape) for part, level in zip(parts, pyramid, strict=True)]

    def _dropout_factors(self, like: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Return the factors of the attention probabilities, (A, P, P, M)."""
        counts = [window_counts((x.shape[1], x.shape[2]), self.window_size, self.stride) for x in pyramid]
        cells, windows = self.window_size**2, len(pyramid[0]) * sum(map(math.prod, counts))
        return F.dropout(like.new_ones(self.heads, cells, cells, windows), self.dropout)
