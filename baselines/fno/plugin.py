"""neuraloperator's Fourier neural operator as a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attn_bench.nn.size_checks import not_two_axes
from attn_bench.plugin import Model, OptionError, Problem

if TYPE_CHECKING:
    from torch import nn


class FNO(Model):
    """neuraloperator's FNO, unchanged except that its spectral convolutions stay in float32 under autocast.

    One set of weights runs on any grid. On a grid with fewer frequencies than ``n_modes``, the others are left out;
    :meth:`effective` reports how many are used. neuraloperator 2.0.0 misplaces the row frequencies by one if the number
    of rows is odd (43, 85). A model trained on such a grid adapts to that; one evaluated there after training on an
    even grid does not. :meth:`effective` reports this too.

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

    @dataclass(frozen=True)
    class Options:
        """Options of the operator."""

        n_modes: Annotated[
            tuple[int, int],
            Field(description="frequencies kept along rows and columns, counting both signs as neuraloperator does"),
        ] = (8, 8)
        hidden_channels: Annotated[int, Field(ge=1, description="hidden channels")] = 24
        n_layers: Annotated[int, Field(ge=1, description="Fourier layers")] = 4
        lifting_ratio: Annotated[
            float,
            Field(
                ge=0, description="hidden channels of the lifting, divided by hidden_channels; 0 for a linear lifting"
            ),
        ] = 2.0
        projection_ratio: Annotated[
            float, Field(gt=0, description="hidden channels of the projection, divided by hidden_channels")
        ] = 2.0
        channel_mlp: Annotated[bool, Field(description="put a channel MLP after each Fourier layer")] = True
        channel_mlp_expansion: Annotated[
            float, Field(gt=0, description="hidden channels of the channel MLPs, divided by hidden_channels")
        ] = 0.5
        norm: Annotated[
            Literal["none", "group_norm", "instance_norm"], Field(description="normalization in the Fourier layers")
        ] = "none"
        skip: Annotated[
            Literal["linear", "identity", "soft-gating"], Field(description="skip connection of the Fourier layers")
        ] = "linear"
        domain_padding: Annotated[
            float,
            Field(ge=0, description="padding for fields that are not periodic, as a fraction of the grid's sides"),
        ] = 0.0

        def __post_init__(self) -> None:
            if min(self.n_modes) < 1:
                raise OptionError(f"n_modes is {self.n_modes}; both must be >= 1")

    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return the operator with neuraloperator's random weights.

        Raises:
            OptionError: an invalid value.
        """
        from attn_bench.nn.heads import with_head

        def operator(outputs: int) -> nn.Module:
            return self.operator(options, in_channels=problem.inputs, out_channels=outputs, **self.shared(options))

        return with_head(problem, options.hidden_channels, operator)

    def operator(self, options: Any, **settings: Any) -> nn.Module:
        """Return neuraloperator's module with ``settings`` and the options that only FNO has."""
        from baselines.fno.float32_spectral import Float32SpectralConv, NeuralopFNO

        return NeuralopFNO(
            n_modes=options.n_modes,
            n_layers=options.n_layers,
            lifting_channel_ratio=options.lifting_ratio,
            projection_channel_ratio=options.projection_ratio,
            use_channel_mlp=options.channel_mlp,
            conv_module=Float32SpectralConv,
            **settings,
        )

    @staticmethod
    def shared(options: Any) -> dict[str, Any]:
        """Return the settings that all operators of neuraloperator share."""
        return {
            "hidden_channels": options.hidden_channels,
            "channel_mlp_expansion": options.channel_mlp_expansion,
            "norm": None if options.norm == "none" else options.norm,
            "fno_skip": options.skip,
            "domain_padding": options.domain_padding or None,
        }

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Return a reason if a grid has one axis; else None."""
        return not_two_axes(self.name, problem.grid)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the frequencies in use on the problem's grid: along rows (both signs), along columns (from 0 up)."""
        from baselines.fno.float32_spectral import frequencies, off_by_one_on_odd_rows

        layers = list(self.convolutions(getattr(module, "features", module), problem.grid))
        used = [frequencies(convolution, grid) for convolution, grid in layers]
        found: dict[str, Any] = {"frequencies": used[0] if len(used) == 1 else used}
        if any(grid[0] % 2 for _, grid in layers) and off_by_one_on_odd_rows():
            found["row_frequencies_off_by_one"] = True
        return found

    def convolutions(self, operator: Any, grid: tuple[int, ...]) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        """Yield the spectral convolutions that differ in their frequencies or their grid, each with that grid."""
        from baselines.fno.float32_spectral import padded

        yield operator.fno_blocks.convs[0], padded(operator, grid)
