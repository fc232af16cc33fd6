"""timm's vision transformer as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from attn_bench.nn.checks import check_dropout, check_heads, check_hidden, check_positive, patch_exceeds_grid, patch_of
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import Problem

if TYPE_CHECKING:
    from torch import nn

    from baselines.vit.dense import DenseViT


class ViT(PooledModel):
    """timm's vision transformer with a dense output (:class:`baselines.vit.dense.DenseViT`).

    The blocks are timm's; a linear map from each token to its patch of the output field is added. It grows as the
    square of the number of patches. The presets ``patch2``, ``patch4`` and ``patch8`` set the patch size alone.
    """

    name = "vit"
    summary = "Vision transformer (timm): exact attention over patches, learned positions"
    citation = "arXiv:2010.11929"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n^2"
    presets = {"patch2": {"patch_size": 2}, "patch4": {"patch_size": 4}, "patch8": {"patch_size": 8}}
    imports = ("torch", "timm")

    def build(
        self,
        problem: Problem,
        *,
        patch_size: int | None = None,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
    ) -> nn.Module:
        """Return the transformer with timm's random weights; for images and masks below a head.

        Args:
            patch_size: side of a patch, in grid points; a patch is one token. Unset: 4 on images, 2 on fields.
            dim: channels of a token.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            dropout: dropout probability after the attention and in the feed-forward networks.

        Raises:
            OptionError: a value cannot work.
        """
        patch = _patch(problem, patch_size)
        check_positive(patch_size=patch, depth=depth)
        check_heads(dim, heads)
        check_hidden(dim, mlp_ratio)
        check_dropout(dropout=dropout)
        from attn_bench.nn.heads import with_head
        from baselines.vit.dense import DenseViT

        def dense(outputs: int) -> nn.Module:
            return DenseViT(
                problem.inputs,
                outputs,
                (problem.grid[0], problem.grid[1]),
                patch_size=patch,
                dim=dim,
                depth=depth,
                heads=heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
            )

        return with_head(problem, dim, dense)

    def unsupported(
        self, problem: Problem, device: str, *, patch_size: int | None = None, **options: Any
    ) -> str | None:
        """Say that a patch is larger than the grid."""
        return patch_exceeds_grid(_patch(problem, patch_size), problem.grid)

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return the rows and columns of patches on the problem's grid."""
        vit = cast("DenseViT", getattr(module, "features", module))
        return {"tokens": list(vit.tokens(vit.grid))}


def _patch(problem: Problem, patch_size: int | None) -> int:
    return patch_of(problem, patch_size, on_images=4, on_fields=2)
