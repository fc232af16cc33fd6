"""MANO as a plugin of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from attn_bench.nn.size_checks import exceeds_grid, not_two_axes
from attn_bench.plugin import Mixer, Problem, Tokens
from mano.levels import level_grids
from mano.multipole_options import MultipoleOptions

if TYPE_CHECKING:
    from torch import nn

PAPER: dict[str, Any] = {"dim": 64, "depth": 8, "heads": 4, "mlp_ratio": 4.0, "window_size": 2, "rate": 2}


class MANOModel(Mixer):
    """The Multipole Attention Neural Operator (:class:`mano.attention.MultipoleAttention` as the mixer).

    A token is a point, on images a patch of 2 x 2. The attention normalizes its tokens itself.
    The defaults are small enough to train on two CPU cores; learning rates from 1e-3 to 4e-3 suit them.
    The preset ``paper`` is its Darcy setting: windows of 2 x 2, rate 2, 4 heads. The paper does not give all of the
    rest; 64 channels, 8 blocks and feed-forward networks 4 times as wide are our choice. In ``paper-overlap`` the
    windows are 1 apart, so that they overlap; the paper does not give their distance.
    """

    name = "mano"
    summary = "Multipole attention: multi-scale windowed attention with shared weights, linear in the grid points"
    citation = "arXiv:2507.02748"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n"
    presets = {"paper": PAPER, "paper-overlap": PAPER | {"stride": 1}}
    imports = ("torch",)
    normalises = True
    patch_on_images = 2

    @dataclass(frozen=True)
    class Options(MultipoleOptions, Mixer.Options):
        """Options of multipole attention and of the operator around it."""

        def __post_init__(self) -> None:
            MultipoleOptions.__post_init__(self)
            Mixer.Options.__post_init__(self)

        def check_heads(self) -> None:
            """Raise OptionError unless the heads divide the channels or head_dim is set."""
            if self.head_dim is None:
                super().check_heads()

    def mixer(self, tokens: Tokens, options: Options) -> nn.Module:
        """Return multipole attention."""
        from mano.attention import MultipoleAttention

        own = {option.name: getattr(options, option.name) for option in fields(MultipoleOptions)}
        if tokens.grid:
            h, w = tokens.grid
            own["merges"] = len(level_grids((h, w), options.window_size, options.rate, options.levels)) - 1
        return MultipoleAttention(options.dim, periodic=tokens.periodic, **own)

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Say that a grid has one axis, or that a patch, a window or a rate is larger than the grid."""
        grid = self.tokens(problem, options).grid
        return (
            not_two_axes(self.name, problem.grid)
            or super().unsupported(problem, device, options)
            or exceeds_grid("window_size", options.window_size, grid)
            or exceeds_grid("rate", options.rate, grid)
        )

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the number of levels on the problem's grid, the grid of the coarsest, and what computes them.

        ``wraps`` is true if windows or coarse cells go on at the opposite edge of a periodic axis.
        On the CPU ``backend`` is ``"cpp"`` or ``"torch"`` (:mod:`mano.tiled.cpp`); with dropout it is ``"torch"``.
        """
        from attn_bench.nn.patches import Patched
        from mano import periodic
        from mano.attention import MultipoleAttention

        attention = next(part for part in module.modules() if isinstance(part, MultipoleAttention))
        patched = next((part for part in module.modules() if isinstance(part, Patched)), None)
        h, w = patched.grid(problem.grid) if patched else problem.grid
        grids = attention.grids((h, w))
        found: dict[str, Any] = {"levels": len(grids), "coarsest_grid": list(grids[-1])}
        if periodic.wraps(attention, grids):
            found["wraps"] = True
        if attention.to_qkv.weight.device.type == "cpu" and attention.backend != "reference":
            found["backend"] = "cpp" if attention.uses_cpp() and not attention.dropout else "torch"
        return found
