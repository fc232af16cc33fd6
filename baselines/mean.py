"""The mean training target as a plugin: what a model that ignores its input achieves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from attn_bench.plugin import Model, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from baselines.mean_field import MeanField


class Mean(Model):
    """Predicts the mean of the training targets at each point, whatever the input (:mod:`baselines.mean_field`).

    Fitted in closed form, without trainable parameters: the error that learning has to beat. It knows the grid it was
    fitted on alone.
    """

    name = "mean"
    summary = "The mean training target at each grid point, whatever the input"
    kinds = frozenset({"field"})
    complexity = "n"
    imports = ("torch",)

    def build(self, problem: Problem) -> nn.Module:
        """Return a module that predicts zero until it is fitted."""
        from baselines.mean_field import MeanField

        return MeanField(problem.outputs, problem.grid)

    def fit(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> bool:
        """Set the prediction to the mean target of ``train``."""
        from baselines.mean_field import mean_target

        mean = cast("MeanField", module).mean
        mean.copy_(mean_target(train))
        return True
