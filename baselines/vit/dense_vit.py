"""timm's vision transformer with a dense output."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attn_bench.nn.patches import PatchUnembed
from attn_bench.plugin import Mixer


class DenseViT(nn.Module):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W).

    ``trunk`` is timm's ``VisionTransformer`` up to and with its last norm: patch embedding, learned position
    embedding, blocks with exact attention over all patches; no class token, no head. Added here: the un-embedding.

    Any H and W: timm pads the field with zeros at the bottom and right to whole patches. On grids other than ``grid``
    timm interpolates the position embedding (bicubic, antialiased), with the same parameters.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        grid: (H, W) for which the position embedding is made, kept as an attribute.
        patch_size: side of a patch, in points.
        options: of the plugin; ``dropout`` acts after the attention and in the feed-forward networks.
    """

    def __init__(
        self, in_channels: int, out_channels: int, grid: tuple[int, int], patch_size: int, options: Mixer.Options
    ) -> None:
        super().__init__()
        self.grid = grid
        self.patch_size = patch_size
        h, w = self.tokens(grid)
        self.trunk = VisionTransformer(
            # Complete patches, as timm rounds the grid of the position embedding down but pads the field.
            img_size=(h * patch_size, w * patch_size),
            patch_size=patch_size,
            in_chans=in_channels,
            num_classes=0,
            global_pool="",
            embed_dim=options.dim,
            depth=options.depth,
            num_heads=options.heads,
            mlp_ratio=options.mlp_ratio,
            class_token=False,
            proj_drop_rate=options.dropout,
            dynamic_img_size=True,
            dynamic_img_pad=True,
        )
        self.unembed = PatchUnembed(options.dim, out_channels, patch_size)

    def tokens(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches on ``grid``."""
        return -(-grid[0] // self.patch_size), -(-grid[1] // self.patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        grid = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        x_BNC = self.trunk.forward_features(x_BCHW)
        return self.unembed(x_BNC.unflatten(1, self.tokens(grid)), grid)
