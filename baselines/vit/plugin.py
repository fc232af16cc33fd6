"""timm's vision transformer as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from attn_bench.nn.size_checks import not_two_axes, patch_exceeds_grid
from attn_bench.plugin import Mixer, Model, Problem

if TYPE_CHECKING:
    from torch import nn

    from baselines.vit.dense_vit import DenseViT


class ViT(Model):
    """timm's vision transformer with a dense output (:class:`baselines.vit.dense_vit.DenseViT`).

    The blocks are timm's; a linear map from each token to its patch of the output field is added. Its cost grows as
    the square of the number of patches. The presets ``patch2``, ``patch4`` and ``patch8`` set only the patch size.
    """

    name = "vit"
    summary = "Vision transformer (timm): exact attention over patches, learned positions"
    citation = "arXiv:2010.11929"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n^2"
    presets = {"patch2": {"patch_size": 2}, "patch4": {"patch_size": 4}, "patch8": {"patch_size": 8}}
    imports = ("torch", "timm")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of the transformer; unset, a patch is 4 x 4 on images and 2 x 2 on fields."""

        dim: Annotated[int, Field(ge=1, description="channels per token")] = 64
        dropout: Annotated[
            float,
            Field(ge=0, lt=1, description="dropout probability after the attention and in the feed-forward networks"),
        ] = 0.0

    def patch_size(self, problem: Problem, options: Options) -> int:
        """Return the side of a patch, as given or the default of the kind."""
        return options.patch_size or (2 if problem.kind == "field" else 4)

    def build(self, problem: Problem, options: Options) -> nn.Module:
        """Return the transformer with timm's random weights; for images and masks with a head.

        Raises:
            OptionError: an invalid value.
        """
        from attn_bench.nn.heads import with_head
        from baselines.vit.dense_vit import DenseViT

        grid, patch_size = (problem.grid[0], problem.grid[1]), self.patch_size(problem, options)
        return with_head(
            problem, options.dim, lambda outputs: DenseViT(problem.inputs, outputs, grid, patch_size, options)
        )

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if a grid has one axis, or a patch is larger than the grid; else None."""
        refused = not_two_axes(self.name, problem.grid)
        return refused or patch_exceeds_grid(self.patch_size(problem, options), problem.grid)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the rows and columns of patches on the problem's grid."""
        vit = cast("DenseViT", getattr(module, "features", module))
        return {"tokens": list(vit.tokens((problem.grid[0], problem.grid[1])))}
