"""Multipole attention, a slow, literal implementation of the equations (arXiv:2507.02748) with unfold and fold.

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
    """A: windows by ``F.unfold``, every token of every window normalized and projected, back by ``F.fold``."""
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


def down(module: MultipoleAttention, x_BCHW: Tensor, level: int) -> Tensor:
    """D: each coarse cell sums its real cells, weighted, and nothing else; their number divides an average."""
    b, c, h, w = x_BCHW.shape
    r = module.rate
    if module.down_sampling == "average":
        weight = torch.eye(c, dtype=x_BCHW.dtype, device=x_BCHW.device)[:, :, None, None].expand(c, c, r, r)
    else:
        weight = module.down_weight(level)
    out, real = (x_BCHW.new_zeros(b, c, -(-h // r), -(-w // r)) for _ in range(2))
    for dy in range(r):
        for dx in range(r):
            cells = x_BCHW[:, :, dy::r, dx::r]
            extend = (0, out.shape[3] - cells.shape[3], 0, out.shape[2] - cells.shape[2])
            out = out + F.pad(torch.einsum("bchw,dc->bdhw", cells, weight[:, :, dy, dx]), extend)
            real = real + F.pad(torch.ones_like(cells), extend)
    return out / real if module.down_sampling == "average" else out


def up(module: MultipoleAttention, x_BCHW: Tensor) -> Tensor:
    """U: each coarse cell becomes rate x rate cells."""
    if module.up_sampling == "nearest":
        return F.interpolate(x_BCHW, scale_factor=module.rate, mode="nearest")
    return F.conv_transpose2d(x_BCHW, module.up.weight, stride=module.rate)


def multipole(module: MultipoleAttention, x_BHWC: Tensor, levels: int) -> Tensor:
    """Return R_0 of the equations, (B, H, W, C), with exactly ``levels`` levels."""
    x = x_BHWC.permute(0, 3, 1, 2)
    outputs = []
    for level in range(levels):
        outputs.append(attend(module, x))
        if level < levels - 1:
            x = down(module, x, level)
    result = outputs.pop()
    for i, o in enumerate(reversed(outputs)):
        weight = module.gates[i] if module.level_weights == "learned" else module.constant_weight(i)
        result = o + weight * up(module, result)[..., : o.shape[2], : o.shape[3]]
    return result.permute(0, 2, 3, 1)
