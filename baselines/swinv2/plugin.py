"""timm's Swin Transformer V2 as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from attn_bench.nn.checks import check_dropout, check_heads, check_hidden, check_positive, patch_exceeds_grid
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import Problem

if TYPE_CHECKING:
    from torch import nn

    from baselines.swinv2.dense import DenseSwinV2


class SwinV2(PooledModel):
    """timm's SwinV2 blocks at constant resolution with a dense output (:class:`baselines.swinv2.dense.DenseSwinV2`).

    Windowed attention with shifts and without merging, as an operator on fields needs; coordinates, patch embedding
    and un-embedding are added. Linear in the number of grid points. Learning rates of 1e-3 and 2e-3 suit the defaults.
    """

    name = "swinv2"
    summary = "Swin Transformer V2 (timm): attention in shifted windows at one resolution, linear in the grid's points"
    citation = "arXiv:2111.09883"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n"
    presets = {"fine": {"patch_size": 1}, "window4": {"window_size": 4}, "window8": {"window_size": 8}}
    imports = ("torch", "timm")

    def build(
        self,
        problem: Problem,
        *,
        patch_size: int = 2,
        window_size: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
        coordinates: bool = True,
    ) -> nn.Module:
        """Return the operator with random weights; for images and masks below a head.

        Args:
            patch_size: side of a patch, in grid points; a patch is one token.
            window_size: side of an attention window, in patches.
            dim: channels of a token.
            depth: blocks of attention and feed-forward network; every second one shifts its windows.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            dropout: dropout probability after the attention and in the feed-forward networks.
            coordinates: give the model the coordinates of each point as two more inputs.

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(patch_size=patch_size, window_size=window_size, depth=depth)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        check_dropout(dropout=dropout)
        from attn_bench.nn.heads import with_head
        from baselines.swinv2.dense import DenseSwinV2

        def dense(outputs: int) -> nn.Module:
            return DenseSwinV2(
                problem.inputs,
                outputs,
                (problem.grid[0], problem.grid[1]),
                patch_size=patch_size,
                window_size=window_size,
                dim=dim,
                depth=depth,
                heads=heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                coordinates=coordinates,
            )

        return with_head(problem, dim, dense)

    def unsupported(self, problem: Problem, device: str, *, patch_size: int = 2, **options: Any) -> str | None:
        """Say that a patch is larger than the grid."""
        return patch_exceeds_grid(patch_size, problem.grid)

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return rows and columns of patches, and window and shift of each block in patches, on the problem's grid.

        ``attends_to_padding`` says that the patches are no whole windows there.
        """
        swin = cast("DenseSwinV2", getattr(module, "features", module))
        tokens, windows = swin.tokens(swin.grid), swin.windows(swin.grid)
        found: dict[str, Any] = {
            "tokens": list(tokens),
            "windows": [list(window) for window, _ in windows],
            "shifts": [list(shift) for _, shift in windows],
        }
        if any(n % side for window, _ in windows for n, side in zip(tokens, window)):
            found["attends_to_padding"] = True
        return found
