"""The patches that a network of timm cuts images into; does not import torch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attn_bench.nn.size_checks import patch_exceeds_grid
from attn_bench.plugin import OptionError

if TYPE_CHECKING:
    from torch import nn


def check_patches(module: nn.Module, grid: tuple[int, ...]) -> None:
    """Raise OptionError if the network cannot cut images of ``grid`` into its patches."""
    embed = _patch_embed(module)
    if embed is None:
        return
    patch = max(embed.patch_size)
    if reason := patch_exceeds_grid(patch, grid):
        raise OptionError(reason)
    # Networks of a fixed size ignore pixels beyond the last complete patch.
    takes_any = embed.dynamic_img_pad or (embed.img_size is not None and embed.strict_img_size)
    if not takes_any and any(n % side for n, side in zip(grid, embed.patch_size, strict=True)):
        size = " x ".join(map(str, grid))
        raise OptionError(f"image sides must be multiples of the patch size, {patch} (given: {size})")


def pixels_left_out(module: nn.Module) -> list[int]:
    """Return how many rows and columns at the bottom and right of an image belong to no complete patch.

    timm's networks of a fixed size ignore them.
    """
    embed = _patch_embed(module)
    if embed is None or embed.img_size is None:
        return [0, 0]
    return [n % side for n, side in zip(embed.img_size, embed.patch_size, strict=True)]


def _patch_embed(module: nn.Module) -> Any:
    from timm.layers.patch_embed import PatchEmbed

    return next((part for part in module.modules() if isinstance(part, PatchEmbed)), None)
