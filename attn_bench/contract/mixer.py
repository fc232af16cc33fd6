"""One attention module that becomes a model of every kind of problem it can serve."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from attn_bench.contract.model import Model
from attn_bench.contract.problem import Kind, Problem
from attn_bench.errors import OptionError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Tokens:
    """What a mixer is built for.

    Attributes:
        grid: ``(H, W)`` or ``(N,)``, after patching. At call time other grids may arrive.
        causal: whether a token may only see itself and those before it.
        periodic: whether the grid's opposite edges are neighbours.
    """

    grid: tuple[int, ...]
    causal: bool = False
    periodic: bool = False


class Mixer(Model):
    """One attention module; everything around it is the same for every mixer (:mod:`attn_bench.nn.transformer`).

    Attributes:
        layout: how tokens arrive: ``"grid"``, (B, *grid, dim), or ``"sequence"``, where a grid arrives row by row as
            (B, N, dim).
        normalises: whether the mixer normalises its input itself; it then gets the residual stream as it is.
        kinds: every kind but causal text. A mixer that honours :attr:`Tokens.causal` adds ``"causal-text"``.
        patch_on_images: side of a patch on images and masks where the user gives none; on fields it is 1.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"field", "mask", "image", "masked-text"})
    layout: ClassVar[Literal["grid", "sequence"]] = "grid"
    normalises: ClassVar[bool] = False
    patch_on_images: ClassVar[int] = 1

    @dataclass(frozen=True)
    class Options:
        """Options of the transformer around the mixer.

        A mixer adds its own in a subclass, and strikes one that it does not have with ``heads: ClassVar[None] = None``.
        """

        dim: Annotated[int, Field(ge=1, description="channels per token")] = 48
        depth: Annotated[int, Field(ge=1, description="blocks, each a mixer and a feed-forward network")] = 4
        heads: Annotated[int, Field(ge=1, description="attention heads; must divide dim")] = 4
        mlp_ratio: Annotated[
            float, Field(gt=0, description="hidden channels of the feed-forward networks, divided by dim")
        ] = 2.0
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout probability of the feed-forward networks")] = (
            0.0
        )
        patch_size: Annotated[
            int | None, Field(ge=1, description="side of a patch in grid points; a patch is one token")
        ] = None

        def __post_init__(self) -> None:
            self.check_heads()
            if int(self.dim * self.mlp_ratio) < 1:
                raise OptionError(f"mlp_ratio is {self.mlp_ratio}; times dim ({self.dim}) it must be >= 1")

        def check_heads(self) -> None:
            """Raise OptionError unless the heads, if there are any, divide the channels."""
            from attn_bench.nn.size_checks import check_heads

            if self.heads is not None:
                check_heads(self.dim, self.heads)

    @abstractmethod
    def mixer(self, tokens: Tokens, options: Any) -> nn.Module:
        """Return a module that maps (B, *grid, dim) to the same shape; called once a block.

        Args:
            tokens: the grid, and what a token may see.
            options: an instance of :attr:`Options`.

        Raises:
            OptionError: values that cannot work together.
        """

    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return the transformer around :meth:`mixer` that serves the kind of ``problem``."""
        from attn_bench.nn.transformer import transformer_around

        return transformer_around(self, problem, options)

    def tokens(self, problem: Problem, options: Any) -> Tokens:
        """Return what the mixer is built for: the grid of ``problem`` in patches."""
        patch = self.patch_size(problem, options)
        return Tokens(tuple(-(-n // patch) for n in problem.grid), causal=problem.spec.causal)

    def patch_size(self, problem: Problem, options: Any) -> int:
        """Return the side of a patch: what is given, or the default of the kind; a text has none."""
        if problem.spec.text:
            return 1
        if options.patch_size is not None:
            return int(options.patch_size)
        return self.patch_on_images if problem.spec.head else 1

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Say that a patch is larger than the grid, or that a text has no patches."""
        if problem.spec.text and options.patch_size not in (None, 1):
            return f"patch_size is {options.patch_size}; a text has no patches"
        from attn_bench.nn.size_checks import patch_exceeds_grid

        return patch_exceeds_grid(self.patch_size(problem, options), problem.grid)
