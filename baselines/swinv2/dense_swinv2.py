"""Blocks of timm's Swin Transformer V2 at constant resolution with a dense output."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, SwinTransformerV2Stage
from torch import Tensor, nn

from attn_bench.nn.coordinates import append_coordinates
from attn_bench.nn.patches import PatchUnembed

if TYPE_CHECKING:
    from baselines.swinv2.plugin import SwinV2

Grid = tuple[int, int]


class DenseSwinV2(nn.Module):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W).

    ``stage`` is one stage of timm's SwinV2 without merging: every second block shifts its windows by half a window.
    Added here: coordinates as two more input channels (SwinV2 knows only relative positions), timm's patch embedding
    before the stage, LayerNorm and an un-embedding after it. The stage keeps the weights it starts with; timm's
    classifiers then zero the norms of every block, which trains worse here (Darcy 16 x 16: 0.063 against 0.043).

    Any H and W. The field is padded with zeros to whole patches. If the tokens are not a multiple of the window, timm
    pads them with zeros inside each block, at the bottom and right, *and lets the real tokens attend to the padding*;
    it also shifts before it pads but masks as if it had padded first, so that some windows of a shifted block join
    tokens of opposite edges. Both are timm's behavior (1.0.31) and are kept. If an axis has no more tokens than the
    window, timm uses the axis as the window and does not shift along it; see :meth:`windows`.

    When the grid changes, timm's ``set_input_size`` sets up the stage again: new masks and windows, the same
    parameters. A clamped window grows again on a larger grid, and its position bias with it, as timm scales relative
    positions by the current window.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        grid: (H, W) to set up for, kept as an attribute.
        options: of the plugin; ``dropout`` acts after the attention and in the feed-forward networks.
        periodic: whether rows, and columns, are periodic: shifted windows, which timm masks where they join opposite
            edges, then are not masked there. Only where the tokens are whole patches and whole windows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Grid,
        options: SwinV2.Options,
        periodic: tuple[bool, ...] = (),
    ) -> None:
        super().__init__()
        self.grid = grid
        self.periodic = periodic or (False, False)
        self.coordinates = options.coordinates
        self.patch_size = options.patch_size
        self.window_size = options.window_size
        self.embed = PatchEmbed(
            img_size=None,
            patch_size=options.patch_size,
            in_chans=in_channels + 2 * options.coordinates,
            embed_dim=options.dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        self.stage = SwinTransformerV2Stage(
            dim=options.dim,
            out_dim=options.dim,
            input_resolution=self.tokens(grid),
            depth=options.depth,
            num_heads=options.heads,
            window_size=options.window_size,
            mlp_ratio=options.mlp_ratio,
            proj_drop=options.dropout,
        )
        self._unmask(grid)
        self.norm = nn.LayerNorm(options.dim)
        self.unembed = PatchUnembed(options.dim, out_channels, options.patch_size)

    def tokens(self, grid: Grid) -> Grid:
        """Rows and columns of patches on ``grid``."""
        return -(-grid[0] // self.patch_size), -(-grid[1] // self.patch_size)

    def windows(self, grid: Grid) -> list[tuple[Grid, Grid]]:
        """Window and shift of each block on ``grid``, in patches, as timm sets them."""
        self._set_grid(grid)
        blocks = cast("list[SwinTransformerV2Block]", list(self.stage.blocks))
        return [(block.window_size, block.shift_size) for block in blocks]

    def _set_grid(self, grid: Grid) -> None:
        tokens = self.tokens(grid)
        if self.stage.input_resolution != tokens:
            self._resize(tokens)
            self._unmask(grid)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.inference_mode(False)
    def _resize(self, tokens: Grid) -> None:
        # Not in inference mode, as its buffers could not be used in training later.
        self.stage.set_input_size(tokens, self.window_size)

    def wrapped(self, grid: Grid, window: Grid) -> tuple[bool, bool]:
        """Tell along which axes windows of this size, in patches, join opposite edges when they are shifted."""
        h, w = (
            periodic and n % self.patch_size == 0 and (n // self.patch_size) % side == 0 and n // self.patch_size > side
            for n, side, periodic in zip(grid, window, self.periodic, strict=True)
        )
        return h, w

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.inference_mode(False)
    def _unmask(self, grid: Grid) -> None:
        """Let shifted windows join opposite edges of periodic axes: the mask is that of the other axes' shifts."""
        for block in cast("list[SwinTransformerV2Block]", list(self.stage.blocks)):
            wrapped, shift = self.wrapped(grid, block.window_size), block.shift_size
            if any(wrapped) and any(shift):
                mask = cast(Tensor, block.attn_mask)
                block.shift_size = (0 if wrapped[0] else shift[0], 0 if wrapped[1] else shift[1])
                block.register_buffer(
                    "attn_mask", block.get_attn_mask(device=mask.device, dtype=mask.dtype), persistent=False
                )
                block.shift_size = shift

    def forward(self, x_BCHW: Tensor) -> Tensor:
        grid = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        self._set_grid(grid)
        x_BHWC = self.embed(append_coordinates(x_BCHW) if self.coordinates else x_BCHW)
        return self.unembed(self.norm(self.stage(x_BHWC)), grid)
