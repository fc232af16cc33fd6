"""The mean training target as a plugin: a constant predictor, which ignores its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from attn_bench.plugin import Model, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from baselines.mean.mean_field import MeanField
    from baselines.mean.mean_tokens import MeanTokens


class Mean(Model):
    """Predicts the mean of the training targets for any input; trained models have to beat its error.

    It is fitted in closed form, without trainable parameters. On fields it predicts the mean at each point, only on the
    grid that it was fitted on (:mod:`baselines.mean.mean_field`); on text the frequency of each token, so that its bits
    per byte are the unigram entropy (:mod:`baselines.mean.mean_tokens`).
    """

    name = "mean"
    summary = "Constant predictor: the mean training target at each grid point, or the token frequencies"
    kinds = frozenset({"field", "causal-text", "masked-text"})
    complexity = "n"
    imports = ("torch",)
    reference = True

    def build(self, problem: Problem, options: Model.Options) -> nn.Module:
        """Return a module that predicts zero until it is fitted."""
        from baselines.mean.mean_field import MeanField
        from baselines.mean.mean_tokens import MeanTokens

        if problem.kind == "field":
            return MeanField(problem.outputs, problem.grid)
        return MeanTokens(problem.outputs)

    def fit(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> bool:
        """Set the prediction to the mean target of ``train``."""
        cast("MeanField | MeanTokens", module).fit(train)
        return True
