"""MANO for images: timm's Swin Transformer V2 whose window attention runs at several scales (arXiv:2507.02748, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.swin_transformer_v2 import (
    SwinTransformerV2,
    SwinTransformerV2Block,
    SwinTransformerV2Stage,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.nn.pretrained import create_timm

RATE = 2
LEVELS = (3, 2, 1, 1)


class MultipoleBlock(nn.Module):
    """timm's block of SwinV2 with its attention A at ``levels`` scales of the grid, on (B, H, W, dim)::

        X_0 = X,  X_{l+1} = D X_l        R_{L-1} = A(X_{L-1}),  R_l = A(X_l) + U R_{l+1}

    and R_0 replaces A(X); the rest of the block is timm's. D and U are convolutions without bias, kernel and stride 2,
    shared by the levels of the block, and its only new parameters: with one level there are none.

    The finest level is timm's own computation, including its treatment of the border of a grid that is not a multiple
    of the window. The coarser levels are padded to whole windows too, but nothing attends to the padding. Their windows
    are as in the finest level, shifted in every second block unless the grid is a single window.

    Args:
        block: timm's block; kept as ``block``, weights and all.
        levels: most levels to use; no level is coarser than a grid of one window.

    Raises:
        ValueError: ``levels`` is below 1.
    """

    def __init__(self, block: SwinTransformerV2Block, levels: int) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels is {levels}; it must be >= 1")
        self.block, self.levels = block, levels
        if levels > 1:
            self.down = nn.Conv2d(block.dim, block.dim, RATE, RATE, bias=False)
            self.up = nn.ConvTranspose2d(block.dim, block.dim, RATE, RATE, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        block = self.block
        x_BHWC = x_BHWC + block.drop_path1(block.norm1(self.attend(x_BHWC)))
        return x_BHWC + block.drop_path2(block.norm2(block.mlp(x_BHWC)))

    def attend(self, x_BHWC: Tensor) -> Tensor:
        """Return R_0, (B, H, W, dim)."""
        pyramid = [x_BHWC]
        for _ in self.grids((x_BHWC.shape[1], x_BHWC.shape[2]))[1:]:
            pyramid.append(_down_sample(pyramid[-1], self.down))
        outputs = [self.block._attn(x_BHWC), *(self._coarse(x) for x in pyramid[1:])]
        result = outputs.pop()
        for output in reversed(outputs):
            h, w = output.shape[1:3]
            result = output + self.up(result.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, :h, :w]
        return result

    def set_input_size(self, *args: Any, **options: Any) -> None:
        """Set up for another grid, like timm's block."""
        self.block.set_input_size(*args, **options)

    def grids(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the grid of every level that is used, finest first."""
        grids = [grid]
        window = self.block.window_size
        while len(grids) < self.levels and any(n > w for n, w in zip(grids[-1], window, strict=True)):
            h, w = grids[-1]
            grids.append((-(-h // RATE), -(-w // RATE)))
        return grids

    def _coarse(self, x_BHWC: Tensor) -> Tensor:
        """Apply timm's attention in windows; only real cells are attended to, and none beyond an edge."""
        block, (h, w) = self.block, x_BHWC.shape[1:3]
        window = block.window_size
        shift = [s if n > k else 0 for n, k, s in zip((h, w), window, block.shift_size, strict=True)]
        padded = [-(-n // k) * k for n, k in zip((h, w), window, strict=True)]
        x = F.pad(x_BHWC, (0, 0, 0, padded[1] - w, 0, padded[0] - h)).roll((-shift[0], -shift[1]), (1, 2))
        windows = window_partition(x, window).flatten(1, 2)
        out = block.attn(windows, mask=_mask((h, w), padded, window, shift, x)).unflatten(1, window)
        out = window_reverse(out, window, tuple(padded)).roll(shift, (1, 2))
        return out[:, :h, :w]


def _down_sample(x_BHWC: Tensor, down: nn.Conv2d) -> Tensor:
    h, w = x_BHWC.shape[1:3]
    return down(F.pad(x_BHWC, (0, 0, 0, w % RATE, 0, h % RATE)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _mask(
    grid: Sequence[int], padded: Sequence[int], window: tuple[int, int], shift: Sequence[int], like: Tensor
) -> Tensor:
    """Return the mask added to the scores: (windows, cells, cells), 0 or a number that softmax maps to 0."""
    at = [torch.arange(n, device=like.device) for n in padded]
    real = [(i + s) % n < size for i, s, n, size in zip(at, shift, padded, grid, strict=True)]
    beyond = [i >= n - s for i, s, n in zip(at, shift, padded, strict=True)]
    cells = torch.stack(
        [real[0][:, None] & real[1], *(axis.expand(*padded) for axis in (beyond[0][:, None], beyond[1]))], 2
    )
    windows = window_partition(cells[None], window).flatten(1, 2)  # windows, cells, (real, beyond rows, beyond columns)
    side = windows[..., 1:]
    allowed = (side[:, :, None] == side[:, None]).all(3) & windows[:, None, :, 0]
    # A padding cell may attend to anything, as its output is dropped, but the output must not be NaN.
    allowed |= ~windows[:, :, None, 0]
    return torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, torch.finfo(like.dtype).min)


def add_multipole(model: SwinTransformerV2, levels: Sequence[int] = LEVELS, *, zero_up: bool = True) -> None:
    """Replace every block of ``model`` by a :class:`MultipoleBlock` around it.

    Args:
        model: timm's SwinV2; changed in place, and called as before.
        levels: of each stage.
        zero_up: start with U at zero, so that the outputs are those of ``model`` before.

    Raises:
        ValueError: ``levels`` has not one number for each stage, or one is below 1.
    """
    if len(levels) != len(model.layers):
        raise ValueError(f"levels has {len(levels)} entries; the model has {len(model.layers)} stages")
    for stage, n in zip(_stages(model), levels, strict=True):
        blocks = [MultipoleBlock(cast(SwinTransformerV2Block, block), n) for block in stage.blocks]
        stage.blocks = nn.ModuleList(blocks)
        for block in blocks:
            if zero_up and n > 1:
                nn.init.zeros_(block.up.weight)


def _stages(model: SwinTransformerV2) -> list[SwinTransformerV2Stage]:
    return [cast(SwinTransformerV2Stage, stage) for stage in model.layers]


def multipole_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of every D and U, which a warm-up phase trains together with only the classifier."""
    blocks = [module for module in model.modules() if isinstance(module, MultipoleBlock) and module.levels > 1]
    return [weight for block in blocks for part in (block.down, block.up) for weight in part.parameters()]


def windows(model: nn.Module) -> list[dict[str, Any]]:
    """Return for each stage the grid, the window size and shift in effect, and the grids of the levels.

    On a grid that is not larger than the window, timm uses the grid as the window and does not shift.

    Args:
        model: timm's SwinV2 after :func:`add_multipole`, or a module that it is a part of.
    """
    found: list[dict[str, Any]] = []
    for stage in _stages(next(part for part in model.modules() if isinstance(part, SwinTransformerV2))):
        multipole = cast(MultipoleBlock, stage.blocks[-1])
        block, (h, w) = multipole.block, multipole.block.input_resolution
        found.append(
            {
                "grid": (h, w),
                "window_size": tuple(block.window_size),
                "shift": tuple(block.shift_size),
                "levels": multipole.grids((h, w)),
            }
        )
    return found


def mano_swinv2(
    variant: str = "swinv2_tiny_window8_256",
    *,
    levels: Sequence[int] = LEVELS,
    pretrained: bool = False,
    weights: str | Path | None = None,
    zero_up: bool = True,
    **options: Any,
) -> SwinTransformerV2:
    """Return timm's SwinV2 with multipole attention: (B, 3, H, W) -> (B, classes).

    Args:
        variant: any SwinV2 of timm, with a pretrained tag or without.
        levels: levels of each stage.
        pretrained: start from timm's weights, downloaded from the hub.
        weights: start from a local ``.safetensors`` or ``.pth`` file of timm's weights instead; nothing is unpickled.
        zero_up: start with U at zero, so that the network initially computes the same as timm's.
        **options: of timm's model: ``img_size``, ``window_size``, ``num_classes``, ``in_chans``, ``drop_path_rate``,
            and for a network of another size ``embed_dim``, ``depths``, ``num_heads``, ``patch_size``. Name the
            window with ``img_size``, or timm scales it with the image.

    Raises:
        ValueError: ``variant`` is not a SwinV2 of timm, ``levels`` do not fit it, or the weights are not available or
            belong to another model.
    """
    known = timm.list_models("swinv2_*", exclude_filters="swinv2_cr_*")
    if variant.split(".")[0] not in known:
        raise ValueError(f"{variant!r} is not a SwinV2 of timm; available are {', '.join(known)}")
    model = cast(SwinTransformerV2, create_timm(variant, pretrained=pretrained, weights=weights, **options))
    add_multipole(model, levels, zero_up=zero_up)
    return model
