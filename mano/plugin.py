"""MANO as a plugin of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attn_bench.nn.checks import check_positive, patch_exceeds_grid, patch_of
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import OptionError, Problem
from mano.levels import LevelWeights

if TYPE_CHECKING:
    from torch import nn


class MANOModel(PooledModel):
    """The Multipole Attention Neural Operator (:class:`mano.operator.MANO`): a token is a point, on images a patch.

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

    def build(
        self,
        problem: Problem,
        *,
        dim: int = 48,
        depth: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        mlp_ratio: float = 2.0,
        window_size: int = 2,
        stride: int | None = None,
        rate: int = 2,
        levels: int | None = None,
        level_weights: LevelWeights = "harmonic",
        double_norm: bool = True,
        dropout: float = 0.0,
        patch_size: int | None = None,
    ) -> nn.Module:
        """Return the operator with random weights; for an image, with a head on the mean of its features.

        Args:
            dim: channels.
            depth: blocks of attention and feed-forward network.
            heads: attention heads.
            head_dim: channels of a head; dim / heads where unset.
            mlp_ratio: hidden channels of the feed-forward networks over dim.
            window_size: side of an attention window, in cells.
            stride: distance between windows; less than window_size lets them overlap; window_size where unset.
            rate: factor between the grids of two levels.
            levels: most levels to use; as many as the grid has where unset.
            level_weights: what a coarser level counts: harmonic (the authors' code), sum (the paper's text) or learned.
            double_norm: normalise tokens twice before attention, as the authors' code does, or once.
            dropout: dropout probability.
            patch_size: side of a patch, in grid points; a patch is one token. Unset: 2 on images, 1 on fields.

        Raises:
            OptionError: a value cannot work.
        """
        from attn_bench.nn.heads import with_head
        from mano.operator import MANO
        from mano.patches import Patched

        patch = _patch(problem, patch_size)
        check_positive(patch_size=patch)

        def field_model(outputs: int) -> nn.Module:
            operator = MANO(
                problem.inputs * patch**2,
                outputs * patch**2,
                dim=dim,
                depth=depth,
                heads=heads,
                head_dim=head_dim,
                mlp_ratio=mlp_ratio,
                window_size=window_size,
                stride=stride,
                rate=rate,
                levels=levels,
                level_weights=level_weights,
                double_norm=double_norm,
                dropout=dropout,
            )
            operator.grid = tuple(-(-n // patch) for n in problem.grid)
            return Patched(operator, patch) if patch > 1 else operator

        try:
            return with_head(problem, dim, field_model)
        except ValueError as error:
            raise OptionError(str(error)) from None

    def unsupported(
        self, problem: Problem, device: str, *, patch_size: int | None = None, **options: Any
    ) -> str | None:
        """Say that a patch is larger than the grid."""
        return patch_exceeds_grid(_patch(problem, patch_size), problem.grid)

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return how many levels are used on the problem's grid, the grid of the coarsest, and what computes them.

        On the CPU ``attention`` is ``"compiled"`` or, with dropout too, ``"torch"`` (:mod:`mano.tiled.cpp`).
        """
        from mano.operator import MANO

        operator = next(part for part in module.modules() if isinstance(part, MANO))
        attention = operator.blocks[0].attention
        grids = attention.grids(operator.grid)
        found: dict[str, Any] = {"levels": len(grids), "coarsest_grid": list(grids[-1])}
        if attention.to_qkv.weight.device.type == "cpu":
            found["attention"] = "compiled" if attention.compiled() and not attention.dropout else "torch"
        return found


def _patch(problem: Problem, patch_size: int | None) -> int:
    return patch_of(problem, patch_size, on_images=2, on_fields=1)
