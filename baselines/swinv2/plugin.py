"""timm's Swin Transformer V2 as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from attn_bench.nn.size_checks import not_two_axes, patch_exceeds_grid
from attn_bench.plugin import Mixer, Model, Problem

if TYPE_CHECKING:
    from torch import nn

    from baselines.swinv2.dense_swinv2 import DenseSwinV2


class SwinV2(Model):
    """timm's SwinV2 at constant resolution with a dense output (:class:`baselines.swinv2.dense_swinv2.DenseSwinV2`).

    Windowed attention with shifts and without merging, as an operator on fields needs; coordinates, patch embedding
    and un-embedding are added. Linear in the number of grid points. Learning rates of 1e-3 and 2e-3 suit the defaults.
    """

    name = "swinv2"
    summary = "Swin Transformer V2 (timm): attention in shifted windows at one resolution, linear in the grid points"
    citation = "arXiv:2111.09883"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n"
    presets = {"fine": {"patch_size": 1}, "window4": {"window_size": 4}, "window8": {"window_size": 8}}
    imports = ("torch", "timm")

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of the operator; every second block shifts its windows."""

        patch_size: Annotated[int, Field(ge=1, description="side of a patch in grid points; a patch is one token")] = 2
        window_size: Annotated[int, Field(ge=1, description="side of an attention window, in patches")] = 4
        dim: Annotated[int, Field(ge=1, description="channels per token")] = 64
        dropout: Annotated[
            float,
            Field(ge=0, lt=1, description="dropout probability after the attention and in the feed-forward networks"),
        ] = 0.0
        coordinates: Annotated[bool, Field(description="add the coordinates of each point as two inputs")] = True

    def build(self, problem: Problem, options: Options) -> nn.Module:
        """Return the operator with random weights; for images and masks with a head.

        Raises:
            OptionError: an invalid value.
        """
        from attn_bench.nn.heads import with_head
        from baselines.swinv2.dense_swinv2 import DenseSwinV2

        grid = (problem.grid[0], problem.grid[1])
        return with_head(
            problem, options.dim, lambda outputs: DenseSwinV2(problem.inputs, outputs, grid, options, problem.periodic)
        )

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if a grid has one axis, or a patch is larger than the grid; else None."""
        return not_two_axes(self.name, problem.grid) or patch_exceeds_grid(options.patch_size, problem.grid)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return rows and columns of patches, and window and shift of each block in patches, on the problem's grid.

        ``attends_to_padding`` is true if the patches are not a multiple of the window there, ``shifts_without_mask`` if
        shifted windows join opposite edges of a periodic axis.
        """
        swin = cast("DenseSwinV2", getattr(module, "features", module))
        grid = (problem.grid[0], problem.grid[1])
        tokens, windows = swin.tokens(grid), swin.windows(grid)
        found: dict[str, Any] = {
            "tokens": list(tokens),
            "windows": [list(window) for window, _ in windows],
            "shifts": [list(shift) for _, shift in windows],
        }
        if any(n % side for window, _ in windows for n, side in zip(tokens, window)):
            found["attends_to_padding"] = True
        if any(any(swin.wrapped(grid, window)) for window, _ in windows):
            found["shifts_without_mask"] = True
        return found
