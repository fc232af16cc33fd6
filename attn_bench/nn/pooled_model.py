"""Plugins that classify images by the mean of a model of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_bench.plugin import Model

if TYPE_CHECKING:
    from torch import nn


class PooledModel(Model):
    """A plugin whose modules for images are a :class:`attn_bench.nn.heads.PooledClassifier`."""

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return the linear map from the mean of the features to scores."""
        return module.get_submodule("head")
