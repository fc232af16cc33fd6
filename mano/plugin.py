"""MANO as a plugin of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from attn_bench.plugin import OptionError, Problem
from baselines.pooled_model import PooledModel
from mano.levels import LevelWeights

if TYPE_CHECKING:
    from torch import nn

    from mano.operator import MANO


class MANOModel(PooledModel):
    """The Multipole Attention Neural Operator on fields (:class:`mano.operator.MANO`).

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

        Raises:
            OptionError: a value cannot work.
        """
        from baselines.pooled import PooledClassifier
        from mano.operator import MANO

        pooled = problem.kind == "image"
        try:
            module = MANO(
                problem.inputs,
                dim if pooled else problem.outputs,
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
        except ValueError as error:
            raise OptionError(str(error)) from None
        module.grid = problem.grid
        return PooledClassifier(module, dim, problem.outputs) if pooled else module

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return how many levels are used on the problem's grid, and the grid of the coarsest."""
        operator = cast("MANO", getattr(module, "features", module))
        grids = operator.blocks[0].attention.grids(operator.grid)
        return {"levels": len(grids), "coarsest_grid": list(grids[-1])}
