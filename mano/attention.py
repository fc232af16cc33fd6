"""Multipole attention: one windowed attention, shared by all the levels of a pyramid (arXiv:2507.02748).

Axes in names: B batch, H W grid, C channels, T tokens of all levels, A heads, P cells of a window, M windows of all
levels, F = heads * head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mano import reference
from mano.levels import Backend, Grid, LevelWeights, check, level_grids, window_counts
from mano.overlapping.operator import window_attention
from mano.tiled import cpp
from mano.tiled.operator import tiled_multipole
from mano.tiled.sampling import down_sample, up_sample
from mano.windows import SMALL

MAX_GATES = 32


@torch.compiler.assume_constant_result
def _compiled(dtype: torch.dtype, dim: int, heads: int, head_dim: int, window: int, rate: int, norms: int) -> bool:
    return cpp.code(cpp.Kind(dtype, dim, heads, head_dim, window, rate, norms)) is not None


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
        backend: what computes it. ``"auto"``: Triton kernels on CUDA, compiled C++ on the CPU where it serves the layer
            and there is a compiler, torch's operations otherwise. ``"cpp"``, ``"triton"`` and ``"torch"`` insist on
            one; ``"reference"`` reads the equations literally (:mod:`mano.reference`), slowly.

    Raises:
        ValueError: an argument that cannot work.
        RuntimeError: in a call, ``backend`` cannot serve the layer or the device.
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
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        stride = window_size if stride is None else stride
        check(dim, heads, head_dim, window_size, stride, rate, levels, level_weights, dropout, backend)
        self.heads, self.head_dim = heads, head_dim or dim // heads
        self.window_size, self.stride, self.rate, self.levels = window_size, stride, rate, levels
        self.level_weights, self.dropout, self.backend = level_weights, dropout, backend
        self.norm = nn.LayerNorm(dim)
        self.inner_norm = nn.LayerNorm(dim) if double_norm else nn.Identity()
        self.to_qkv = nn.Linear(dim, 3 * self.heads * self.head_dim, bias=False)
        self.to_out = nn.Linear(self.heads * self.head_dim, dim)
        self.down = nn.Conv2d(dim, dim, rate, rate, bias=False)
        self.up = nn.ConvTranspose2d(dim, dim, rate, rate, bias=False)
        if level_weights == "learned":
            self.gates = nn.Parameter(1 / torch.arange(1.0, MAX_GATES + 1))

    def extra_repr(self) -> str:
        names = ("heads", "head_dim", "window_size", "stride", "rate", "levels", "level_weights", "dropout", "backend")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def grids(self, grid: Grid) -> tuple[Grid, ...]:
        """Return the grids of the levels that are used on ``grid``, finest first."""
        return level_grids(grid, self.window_size, self.rate, self.levels)

    def compiled(self) -> bool:
        """Tell whether compiled code serves this layer on the CPU (:mod:`mano.tiled.cpp`), under autocast if on.

        Training with dropout takes torch's operations all the same.
        """
        if self.backend not in ("auto", "cpp"):
            return False
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.to_qkv.weight.dtype
        dim, norms = self.norm.normalized_shape[0], 2 if isinstance(self.inner_norm, nn.LayerNorm) else 1
        sizes = dim, self.heads, self.head_dim, self.window_size, self.rate, norms
        return self.stride == self.window_size and _compiled(dtype, *sizes)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        grids = self.grids((x_BHWC.shape[1], x_BHWC.shape[2]))
        level_weights = self._level_weights(len(grids) - 1)
        dropping = self.training and self.dropout > 0
        self._check_backend(x_BHWC, dropping)
        if self.backend == "reference":
            return reference.multipole(self, x_BHWC, len(grids))
        if x_BHWC.device.type == "cpu" and self.stride == self.window_size and not dropping:
            return self._tiled(x_BHWC, level_weights)
        pyramid = [x_BHWC]
        for _ in grids[1:]:
            pyramid.append(down_sample(pyramid[-1], self.down.weight))
        *outputs, result = self._attend(pyramid, dropping)
        for output, weight in zip(reversed(outputs), reversed(level_weights), strict=True):
            result = output + up_sample(result, self.up.weight * weight, output.shape[1:3])
        return result

    def _check_backend(self, x_BHWC: Tensor, dropping: bool) -> None:
        on_cpu = x_BHWC.device.type == "cpu"
        if self.backend == "cpp" and (dropping or not on_cpu or not self.compiled()):
            raise RuntimeError(
                "backend 'cpp' cannot serve this layer here: it needs the CPU, a C++ compiler, float32 or float64, "
                "stride = window_size <= 4, channels that fill vector registers and no dropout; use backend 'auto'"
            )
        if self.backend == "triton" and (dropping or on_cpu or x_BHWC.dtype == torch.float64):
            raise RuntimeError(
                "backend 'triton' cannot serve this layer here: it needs CUDA, a dtype other than float64 and no "
                "dropout; use backend 'auto'"
            )

    def constant_weight(self, merge: int) -> float:
        """Return the weight of a merge, counted from the coarsest, where it is not learned."""
        return 1.0 if self.level_weights == "sum" else 1 / (merge + 1)

    def _level_weights(self, merges: int) -> list[float] | list[Tensor]:
        """Return w_0, w_1, ..., finest first."""
        if self.level_weights == "learned":
            return list(self.gates[:merges].flip(0).unbind(0))
        return [self.constant_weight(i) for i in reversed(range(merges))]

    def _tiled(self, x_BHWC: Tensor, level_weights: list[float] | list[Tensor]) -> Tensor:
        learned = self.level_weights == "learned" and level_weights
        gates = torch.stack(level_weights) if learned else torch.tensor(level_weights, dtype=self.up.weight.dtype)
        norms = [p for norm in (self.norm, self.inner_norm) for p in norm.parameters()]
        projections = self.to_qkv.weight, self.to_out.weight, self.to_out.bias
        tensors = [x_BHWC, *norms, *projections, self.down.weight, self.up.weight]
        if torch.is_autocast_enabled("cpu"):
            tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
        x, norms, weights = tensors[0], tensors[1 : len(norms) + 1], tensors[len(norms) + 1 :]
        # For larger windows the probabilities take more room than all else, and a matrix product computes them anew.
        small = self.window_size**2 <= SMALL
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, gates))
        keep = small and differentiated and not self.compiled()
        sizes, compiled = (self.heads, self.window_size, self.norm.eps), self.backend in ("auto", "cpp")
        return tiled_multipole(x, norms, *weights, gates, *sizes, keep, compiled)[0]

    def _attend(self, pyramid: list[Tensor], dropping: bool) -> list[Tensor]:
        """Apply A to all levels together."""
        x_TC = torch.cat([level.reshape(-1, level.shape[3]) for level in pyramid])
        qkv_TF = self.to_qkv(self.inner_norm(self.norm(x_TC)))
        keep = self._keep(qkv_TF, pyramid) if dropping else None
        sizes = *pyramid[0].shape[:3], len(pyramid), self.rate, self.heads, self.window_size, self.stride
        o_TF, _ = window_attention(qkv_TF, *sizes, keep, self.backend != "torch")
        out_TC = F.dropout(self.to_out(o_TF), self.dropout, self.training)
        parts = out_TC.split([level[..., 0].numel() for level in pyramid])
        return [part.view(level.shape) for part, level in zip(parts, pyramid, strict=True)]

    def _keep(self, like: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Return the factors that drop attention probabilities, (A, P, P, M)."""
        counts = [window_counts((x.shape[1], x.shape[2]), self.window_size, self.stride) for x in pyramid]
        cells, windows = self.window_size**2, len(pyramid[0]) * sum(map(math.prod, counts))
        return F.dropout(like.new_ones(self.heads, cells, cells, windows), self.dropout)
