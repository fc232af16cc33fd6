"""Multipole attention as the equations (arXiv:2507.02748) say it, slowly: unfold, attend, fold, level by level.

Tests and benchmarks compare the fast implementations with it; ``MultipoleAttention(backend="reference")`` runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from mano.attention import MultipoleAttention


def attend(module: MultipoleAttention, x_BCHW: Tensor) -> Tensor:
    """A: windows by ``F.unfold``, every token of every window normalised and projected, back by ``F.fold``."""
    b, c, h, w = x_BCHW.shape
    k, s, heads = module.window_size, module.stride, module.heads
    rows, columns = (max(0, -(-(n - k) // s)) + 1 for n in (h, w))
    size = ((rows - 1) * s + k, (columns - 1) * s + k)
    extend = (0, size[1] - w, 0, size[0] - h)
    real = F.unfold(F.pad(x_BCHW.new_ones(1, 1, h, w), extend), k, stride=s)[0].T  # windows, cells
    cells = F.unfold(F.pad(x_BCHW, extend), k, stride=s).view(b, c, k * k, rows * columns)
    tokens = module.inner_norm(module.norm(cells.permute(0, 3, 2, 1)))  # batch, windows, cells, channels
    q, k_, v = module.to_qkv(tokens).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
    scores = q @ k_.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(real[None, :, None, None, :] == 0, float("-inf"))
    shares = F.dropout(scores.softmax(-1), module.dropout, module.training)
    out = F.dropout(module.to_out((shares @ v).transpose(2, 3).flatten(3)), module.dropout, module.training)
    out = F.fold(out.permute(0, 3, 2, 1).flatten(1, 2), size, k, stride=s)
    coverage = F.fold(F.unfold(x_BCHW.new_ones(1, 1, *size), k, stride=s), size, k, stride=s)
    return (out / coverage)[..., :h, :w]


def down(module: MultipoleAttention, x_BCHW: Tensor) -> Tensor:
    """D: each coarse cell sums its real cells and nothing else."""
    b, c, h, w = x_BCHW.shape
    r = module.rate
    out = x_BCHW.new_zeros(b, c, -(-h // r), -(-w // r))
    for dy in range(r):
        for dx in range(r):
            part = torch.einsum("bchw,dc->bdhw", x_BCHW[:, :, dy::r, dx::r], module.down.weight[:, :, dy, dx])
            out = out + F.pad(part, (0, out.shape[3] - part.shape[3], 0, out.shape[2] - part.shape[2]))
    return out


def multipole(module: MultipoleAttention, x_BHWC: Tensor, levels: int) -> Tensor:
    """Return R_0 of the equations, (B, H, W, C), with exactly ``levels`` levels."""
    x = x_BHWC.permute(0, 3, 1, 2)
    outputs = []
    for level in range(levels):
        outputs.append(attend(module, x))
        if level < levels - 1:
            x = down(module, x)
    result = outputs.pop()
    for i, o in enumerate(reversed(outputs)):
        weight = module.gates[i] if module.level_weights == "learned" else module.constant_weight(i)
        up = F.conv_transpose2d(result, module.up.weight, stride=module.rate)
        result = o + weight * up[..., : o.shape[2], : o.shape[3]]
    return result.permute(0, 2, 3, 1)
