"""MANO as a plugin of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from attn_bench.plugin import Mixer, OptionError, Problem, Tokens
from mano.levels import Backend, LevelWeights

if TYPE_CHECKING:
    from torch import nn


class MANOModel(Mixer):
    """The Multipole Attention Neural Operator (:class:`mano.attention.MultipoleAttention` as the mixer).

    A token is a point, on images a patch of 2 x 2. The attention normalises its tokens itself.
    The defaults are small enough to train on two CPU cores; learning rates from 1e-3 to 4e-3 suit them.
    The preset ``paper`` is its Darcy setting: windows of 2 x 2, rate 2, 4 heads. The paper does not give all of the
    rest; 64 channels, 8 blocks and feed-forward networks 4 times as wide are our choice.
    """

    name = "mano"
    summary = "Multipole attention: windowed attention at all scales, weights shared, linear in the grid's points"
    citation = "arXiv:2507.02748"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n"
    presets = {"paper": {"dim": 64, "depth": 8, "heads": 4, "mlp_ratio": 4.0, "window_size": 2, "rate": 2}}
    imports = ("torch",)
    normalises = True
    patch_on_images = 2

    @dataclass(frozen=True)
    class Options(Mixer.Options):
        """Options of multipole attention, and of the operator around it; ``dropout`` acts in the attention too."""

        head_dim: Annotated[int | None, Field(ge=1, description="channels of a head; dim / heads where unset")] = None
        window_size: Annotated[int, Field(ge=1, description="side of an attention window, in cells")] = 2
        stride: Annotated[
            int | None,
            Field(
                ge=1,
                description="distance between windows, window_size where unset; less lets them overlap",
            ),
        ] = None
        rate: Annotated[int, Field(ge=2, description="factor between the grids of two levels")] = 2
        levels: Annotated[
            int | None, Field(ge=1, description="most levels to use; as many as the grid has where unset")
        ] = None
        level_weights: Annotated[
            LevelWeights,
            Field(
                description="weight of a coarser level: harmonic (the authors' code), sum (the paper's text) or learned"
            ),
        ] = "harmonic"
        backend: Annotated[
            Backend, Field(description="what computes the attention; auto chooses by device and compiler")
        ] = "auto"
        double_norm: Annotated[
            bool, Field(description="normalise tokens twice before attention, as the authors' code does, or once")
        ] = True

        def check_heads(self) -> None:
            """Raise OptionError unless the heads divide the channels or have channels of their own."""
            if self.head_dim is None:
                super().check_heads()

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return multipole attention; raises OptionError."""
        from mano.attention import MultipoleAttention

        try:
            return MultipoleAttention(
                options.dim,
                heads=options.heads,
                head_dim=options.head_dim,
                window_size=options.window_size,
                stride=options.stride,
                rate=options.rate,
                levels=options.levels,
                level_weights=options.level_weights,
                double_norm=options.double_norm,
                dropout=options.dropout,
                backend=options.backend,
            )
        except ValueError as error:
            raise OptionError(str(error)) from None

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Say that a grid has one axis, or that a patch is larger than the grid."""
        if len(problem.grid) != 2:
            return f"mano serves grids of two axes; this one is {problem.grid}"
        return super().unsupported(problem, device, options)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return how many levels are used on the problem's grid, the grid of the coarsest, and what computes them.

        On the CPU ``attention`` is ``"compiled"`` or, with dropout too, ``"torch"`` (:mod:`mano.tiled.cpp`).
        """
        from attn_bench.nn.patches import Patched
        from mano.attention import MultipoleAttention

        attention = next(part for part in module.modules() if isinstance(part, MultipoleAttention))
        patched = next((part for part in module.modules() if isinstance(part, Patched)), None)
        h, w = patched.grid(problem.grid) if patched else problem.grid
        grids = attention.grids((h, w))
        found: dict[str, Any] = {"levels": len(grids), "coarsest_grid": list(grids[-1])}
        if attention.to_qkv.weight.device.type == "cpu":
            found["attention"] = "compiled" if attention.compiled() and not attention.dropout else "torch"
        return found
