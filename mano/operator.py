"""The Multipole Attention Neural Operator for fields on a grid (arXiv:2507.02748)."""

from __future__ import annotations

from typing import Any

from attn_bench.nn.transformer import Transformer
from attn_bench.plugin import Tokens
from mano.plugin import MANOModel


class MANO(Transformer):
    """Map a field (B, in_channels, H, W) to a field (B, out_channels, H, W); any grid, the same parameters.

    :class:`attn_bench.nn.transformer.Transformer` with multipole attention as its mixer, on points (no patches).

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        **options: fields of :class:`mano.plugin.MANOModel.Options`, by name.

    Raises:
        OptionError: an invalid option.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        plugin, chosen = MANOModel(), MANOModel.options(**options)
        super().__init__(
            in_channels, out_channels, chosen, lambda: plugin.mixer(Tokens(()), chosen), normalise=not plugin.normalises
        )
