"""The base class of attention modules, which become models of every kind of problem that they can serve."""

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
    """The tokens that a mixer is built for.

    Attributes:
        grid: ``(H, W)`` or ``(N,)``, after patching. The mixer may be called on other grids.
        causal: whether a token may see only itself and those before it.
        periodic: along which axes of the grid opposite edges are neighbors; empty if along none.
    """

    grid: tuple[int, ...]
    causal: bool = False
    periodic: tuple[bool, ...] = ()


class Mixer(Model):
    """One attention module; the network around it is the same for every mixer (:mod:`attn_bench.nn.transformer`).

    Attributes:
        layout: shape of the input: ``"grid"``, (B, *grid, dim), or ``"sequence"``, (B, N, dim), a grid row by row.
            A grid has one axis on text and on fields of one dimension, where both are (B, N, dim).
        normalises: whether the mixer normalizes its input itself; if so, it gets the residual stream directly.
        kinds: every kind but causal text. A mixer that honors :attr:`Tokens.causal` adds ``"causal-text"``.
        patch_on_images: default side of a patch on images and masks; on fields the default is 1.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"field", "mask", "image", "masked-text"})
    layout: ClassVar[Literal["grid", "sequence"]] = "grid"
    normalises: ClassVar[bool] = False
    patch_on_images: ClassVar[int] = 1

    @dataclass(frozen=True)
    class Options:
        """Options of the transformer around the mixer.

        A mixer adds options in a subclass, and removes an inherited one with e.g. ``heads: ClassVar[None] = None``.
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
        """Return a module that maps (B, *grid, dim) to the same shape; called once per block.

        If a module of causal text has the methods ``prefill`` and ``step`` of
        :class:`attn_bench.nn.generation.Recurrent`, a run also measures what a generated token costs, and how large the
        state is.

        Args:
            tokens: the grid, and what a token may see.
            options: an instance of :attr:`Options`.

        Raises:
            OptionError: an invalid combination of values.
        """

    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return the transformer around :meth:`mixer` that serves the kind of ``problem``."""
        from attn_bench.nn.transformer import transformer_around

        return transformer_around(self, problem, options)

    def tokens(self, problem: Problem, options: Any) -> Tokens:
        """Return the tokens that the mixer is built for: the grid of ``problem`` in patches."""
        patch = self.patch_size(problem, options)
        # Where the last patch is not whole, the next one does not begin at the first point.
        periodic = tuple(each and n % patch == 0 for each, n in zip(problem.periodic, problem.grid))
        grid = tuple(-(-n // patch) for n in problem.grid)
        return Tokens(grid, causal=problem.spec.causal, periodic=periodic)

    def patch_size(self, problem: Problem, options: Any) -> int:
        """Return the side of a patch, as given or the default of the kind; 1 for text."""
        if problem.spec.text:
            return 1
        if options.patch_size is not None:
            return int(options.patch_size)
        return self.patch_on_images if problem.spec.head else 1

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Return a reason if a patch is larger than the grid, or if patches are requested for text; else None."""
        if problem.spec.text and options.patch_size not in (None, 1):
            return f"patch_size is {options.patch_size}; text has no patches"
        from attn_bench.nn.size_checks import patch_exceeds_grid

        return patch_exceeds_grid(self.patch_size(problem, options), problem.grid)
