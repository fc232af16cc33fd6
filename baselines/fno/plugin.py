"""neuraloperator's Fourier neural operator as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from attn_bench.nn.checks import check_positive
from attn_bench.nn.pooled_model import PooledModel
from attn_bench.plugin import OptionError, Problem

if TYPE_CHECKING:
    from torch import nn

    from baselines.fno.float32_spectral import NeuralopFNO


class FNO(PooledModel):
    """neuraloperator's FNO as it is, with its spectral convolutions kept in float32 under autocast.

    One set of weights runs on any grid. On a grid with fewer frequencies than ``n_modes`` asks for, the others are
    left out; :meth:`effective` says how many are used. neuraloperator 2.0.0 misplaces the row frequencies by one where
    the number of rows is odd (43, 85): trained on such a grid it learns around that, evaluated there after training
    on an even grid it does not; :meth:`effective` says so too.

    The preset ``paper`` is the two-dimensional FNO of the paper: 12 modes, that is 24 row frequencies (both signs) and
    12 column frequencies, width 32, 4 layers, linear lifting, 128 channels in the projection, no channel MLP.
    """

    name = "fno"
    summary = "Fourier neural operator (neuraloperator): global convolutions in the frequency domain"
    citation = "arXiv:2010.08895"
    kinds = frozenset({"field", "mask", "image"})
    complexity = "n log n"
    presets = {
        "paper": {
            "n_modes": (24, 22),
            "hidden_channels": 32,
            "n_layers": 4,
            "lifting_ratio": 0.0,
            "projection_ratio": 4.0,
            "channel_mlp": False,
        }
    }
    imports = ("torch", "neuralop")

    def build(
        self,
        problem: Problem,
        *,
        n_modes: tuple[int, int] = (8, 8),
        hidden_channels: int = 24,
        n_layers: int = 4,
        lifting_ratio: float = 2.0,
        projection_ratio: float = 2.0,
        channel_mlp: bool = True,
        channel_mlp_expansion: float = 0.5,
        norm: Literal["none", "group_norm", "instance_norm"] = "none",
        skip: Literal["linear", "identity", "soft-gating"] = "linear",
        domain_padding: float = 0.0,
    ) -> nn.Module:
        """Return the operator with neuraloperator's random weights.

        Args:
            n_modes: frequencies kept along rows and columns, both signs counted, as neuraloperator counts them.
            hidden_channels: channels inside.
            n_layers: Fourier layers.
            lifting_ratio: hidden channels of the lifting over hidden_channels; 0 for a linear lifting.
            projection_ratio: hidden channels of the projection over hidden_channels.
            channel_mlp: put a channel MLP after each Fourier layer.
            channel_mlp_expansion: hidden channels of the channel MLPs over hidden_channels.
            norm: normalisation in the Fourier layers.
            skip: skip connection of the Fourier layers.
            domain_padding: padding for fields that are not periodic, as a fraction of the grid's sides.

        Raises:
            OptionError: a value cannot work.
        """
        check_positive(
            hidden_channels=hidden_channels,
            n_layers=n_layers,
            projection_ratio=projection_ratio,
            channel_mlp_expansion=channel_mlp_expansion,
        )
        for option, value in (("lifting_ratio", lifting_ratio), ("domain_padding", domain_padding)):
            if value < 0:
                raise OptionError(f"{option} is {value}; it must not be negative")
        if min(n_modes) < 1:
            raise OptionError(f"n_modes is {n_modes}; both must be positive")
        from attn_bench.nn.heads import with_head
        from baselines.fno.float32_spectral import Float32SpectralConv, NeuralopFNO

        def operator(outputs: int) -> nn.Module:
            module = NeuralopFNO(
                n_modes=n_modes,
                in_channels=problem.inputs,
                out_channels=outputs,
                hidden_channels=hidden_channels,
                n_layers=n_layers,
                lifting_channel_ratio=lifting_ratio,
                projection_channel_ratio=projection_ratio,
                use_channel_mlp=channel_mlp,
                channel_mlp_expansion=channel_mlp_expansion,
                norm=None if norm == "none" else norm,
                fno_skip=skip,
                domain_padding=domain_padding or None,
                conv_module=Float32SpectralConv,
            )
            module.grid = problem.grid
            return module

        return with_head(problem, hidden_channels, operator)

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return the frequencies in use on the problem's grid: along rows (both signs), along columns (from 0 up)."""
        from baselines.fno.float32_spectral import frequencies, off_by_one_on_odd_rows

        operator = cast("NeuralopFNO", getattr(module, "features", module))
        found: dict[str, Any] = {"frequencies": frequencies(operator, operator.grid)}
        if operator.grid[0] % 2 and off_by_one_on_odd_rows():
            found["row_frequencies_off_by_one"] = True
        return found
