"""neuraloperator's Fourier neural operator as a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attn_bench.plugin import Model, OptionError, Problem

if TYPE_CHECKING:
    from torch import nn

# Frequencies along an axis, both signs: of grids of several axes, and of those of one, where they cost little.
MODES, MODES_ON_A_LINE = 8, 32


class FNO(Model):
    """neuraloperator's FNO, unchanged except that its spectral convolutions stay in float32 under autocast.

    One set of weights runs on any grid with as many axes. On a grid with fewer frequencies than ``n_modes``, the others
    are left out; :meth:`effective` reports how many are used. neuraloperator 2.0.0 misplaces the row frequencies of a
    grid (H, W) by one if the number of rows is odd (43, 85). A model trained on such a grid adapts to that; one
    evaluated there after training on an even grid does not. :meth:`effective` reports this too.

    The preset ``paper`` is the two-dimensional FNO of the paper: 12 modes, that is 24 row frequencies (both signs) and
    12 column frequencies, width 32, 4 layers, linear lifting, 128 channels in the projection, no channel MLP.
    ``paper-1d`` is its one-dimensional FNO: the same with 16 frequencies and width 64.
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
        },
        "paper-1d": {
            "n_modes": (30,),
            "hidden_channels": 64,
            "n_layers": 4,
            "lifting_ratio": 0.0,
            "projection_ratio": 2.0,
            "channel_mlp": False,
        },
    }
    imports = ("torch", "neuralop")

    @dataclass(frozen=True)
    class Options:
        """Options of the operator."""

        n_modes: Annotated[
            tuple[int, ...] | None,
            Field(
                description="frequencies kept along each axis of the grid, counting both signs as neuraloperator does; "
                f"if unset, {MODES} along each axis, {MODES_ON_A_LINE} on a grid (N,)"
            ),
        ] = None
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
            Field(ge=0, description="padding along axes that are not periodic, as a fraction of the grid's sides"),
        ] = 0.0

        def __post_init__(self) -> None:
            if self.n_modes is not None and min(self.n_modes, default=0) < 1:
                raise OptionError(f"n_modes is {self.n_modes}; it must have a number >= 1 for each axis of the grid")

        def modes(self, axes: int) -> tuple[int, ...]:
            """Return the frequencies kept along each axis of a grid with so many axes."""
            return self.n_modes or ((MODES_ON_A_LINE,) if axes == 1 else (MODES,) * axes)

    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return the operator with neuraloperator's random weights.

        Raises:
            OptionError: an invalid value.
        """
        from attn_bench.nn.heads import with_head

        def operator(outputs: int) -> nn.Module:
            modes = options.modes(len(problem.grid))
            return self.operator(
                options, modes, in_channels=problem.inputs, out_channels=outputs, **self.shared(options, problem)
            )

        return with_head(problem, options.hidden_channels, operator)

    def operator(self, options: Any, modes: tuple[int, ...], **settings: Any) -> nn.Module:
        """Return neuraloperator's module with ``settings`` and the options that only FNO has."""
        from baselines.fno.float32_spectral import Float32SpectralConv, NeuralopFNO

        return NeuralopFNO(
            n_modes=modes,
            n_layers=options.n_layers,
            lifting_channel_ratio=options.lifting_ratio,
            projection_channel_ratio=options.projection_ratio,
            use_channel_mlp=options.channel_mlp,
            conv_module=Float32SpectralConv,
            **settings,
        )

    @staticmethod
    def shared(options: Any, problem: Problem) -> dict[str, Any]:
        """Return the settings that all operators of neuraloperator share."""
        padding = options.domain_padding or None
        if padding and any(problem.periodic):
            each = [0.0 if periodic else padding for periodic in problem.periodic]
            padding = each if any(each) else None
        return {
            "hidden_channels": options.hidden_channels,
            "channel_mlp_expansion": options.channel_mlp_expansion,
            "norm": None if options.norm == "none" else options.norm,
            "fno_skip": options.skip,
            "domain_padding": padding,
        }

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Return a reason if ``n_modes`` is not for a grid with so many axes; else None."""
        axes = len(problem.grid)
        if len(options.modes(axes)) == axes:
            return None
        numbers = "1 number" if axes == 1 else f"{axes} numbers"
        return (
            f"n_modes is {list(options.n_modes)}; it must have {numbers}, one for each axis of the grid {problem.grid}"
        )

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the frequencies in use on the problem's grid: of the last axis from 0 up, of others both signs."""
        from baselines.fno.float32_spectral import frequencies, off_by_one_on_odd_rows, padded

        layers = list(self.convolutions(getattr(module, "features", module), problem.grid))
        used = [frequencies(convolution, grid) for convolution, grid in layers]
        found: dict[str, Any] = {"frequencies": used[0] if len(used) == 1 else used}
        if any(n % 2 for _, grid in layers for n in grid[:-1]) and off_by_one_on_odd_rows():
            found["row_frequencies_off_by_one"] = True
        grid = padded(getattr(module, "features", module), problem.grid)
        if grid != tuple(problem.grid):
            found["padded_grid"] = list(grid)
        return found

    def convolutions(self, operator: Any, grid: tuple[int, ...]) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        """Yield the spectral convolutions that differ in their frequencies or their grid, each with that grid."""
        from baselines.fno.float32_spectral import padded

        yield operator.fno_blocks.convs[0], padded(operator, grid)
