"""The options of multipole attention. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from attn_bench.nn.size_checks import check_positive
from attn_bench.plugin import OptionError

LevelWeights = Literal["harmonic", "sum", "learned"]
DownSampling = Literal["conv", "conv-per-level", "average"]
UpSampling = Literal["transposed", "nearest"]
Backend = Literal["auto", "cpp", "torch", "triton", "reference"]


@dataclass(frozen=True)
class MultipoleOptions:
    """Options of :class:`mano.attention.MultipoleAttention`, which explains what they do.

    Raises:
        OptionError: an invalid value.
    """

    heads: Annotated[int, Field(description="attention heads; must divide dim unless head_dim is set")] = 4
    head_dim: Annotated[int | None, Field(description="channels per head; dim / heads if unset")] = None
    window_size: Annotated[int, Field(description="side of an attention window, in cells of the grid")] = 2
    stride: Annotated[
        int | None,
        Field(description="distance between windows; window_size if unset, a smaller one makes them overlap"),
    ] = None
    rate: Annotated[int, Field(description="ratio between the grids of successive levels")] = 2
    levels: Annotated[
        int | None, Field(description="maximum number of levels; as many as the grid allows if unset")
    ] = None
    level_weights: Annotated[
        LevelWeights,
        Field(description="weight of a coarser level: harmonic (the authors' code), sum (the paper's text) or learned"),
    ] = "harmonic"
    down_sampling: Annotated[
        DownSampling,
        Field(
            description="how a coarser level is made: conv (one learned convolution for all levels, as in the paper), "
            "conv-per-level (one for each) or average (average pooling, nothing learned)"
        ),
    ] = "conv"
    up_sampling: Annotated[
        UpSampling,
        Field(
            description="how a coarser level is brought back: transposed (a learned transposed convolution, as in the "
            "paper) or nearest (each cell repeated, nothing learned)"
        ),
    ] = "transposed"
    double_norm: Annotated[
        bool, Field(description="normalize tokens twice before attention, as the authors' code does, or once")
    ] = True
    dropout: Annotated[
        float, Field(description="dropout probability in the attention and in the feed-forward networks")
    ] = 0.0
    backend: Annotated[
        Backend, Field(description="implementation of the attention; auto chooses by device and compiler")
    ] = "auto"

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("heads", "head_dim", "window_size", "levels")}
        check_positive(**{name: size for name, size in sizes.items() if size is not None})
        if not 1 <= self.distance <= self.window_size:
            raise OptionError(
                f"stride is {self.stride}; it must be from 1 to window_size ({self.window_size}), or cells are missed"
            )
        if self.rate < 2:
            raise OptionError(f"rate is {self.rate}; it must be >= 2")
        for name, choices in (
            ("level_weights", LevelWeights),
            ("down_sampling", DownSampling),
            ("up_sampling", UpSampling),
            ("backend", Backend),
        ):
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout is {self.dropout}; it must be >= 0 and < 1")

    @property
    def distance(self) -> int:
        """Distance between windows, in cells: ``stride``, or ``window_size`` if it is unset."""
        return self.window_size if self.stride is None else self.stride
