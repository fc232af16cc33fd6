"""Problems and their kinds; does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

Kind = Literal["field", "image", "mask", "causal-text", "masked-text"]


@dataclass(frozen=True)
class KindSpec:
    """The properties of a kind of problem.

    Attributes:
        text: the input is integers, (B, N), and the output's channels come last.
        head: whether the classifier acts on the mean of the features or on each of them; None without a classifier.
        causal: an output may depend only on its own point and those before it.
        panels: whether a few predictions are stored for the report.
    """

    text: bool = False
    head: Literal["pooled", "pointwise"] | None = None
    causal: bool = False
    panels: bool = False

    @property
    def classes(self) -> bool:
        """Whether targets are class indices rather than real numbers."""
        return self.text or self.head is not None


KINDS: Mapping[Kind, KindSpec] = {
    "field": KindSpec(panels=True),
    "image": KindSpec(head="pooled"),
    "mask": KindSpec(head="pointwise"),
    "causal-text": KindSpec(text=True, causal=True),
    "masked-text": KindSpec(text=True),
}


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Problem:
    """Shapes of the input, output and target; ``grid`` is (H, W) or (N,).

    ==========  ====================  ===================  ======================
    kind        input                 output               target
    ==========  ====================  ===================  ======================
    ``field``   (B, inputs, *grid)    (B, outputs, *grid)  (B, outputs, *grid)
    ``image``   (B, inputs, H, W)     (B, outputs)         (B,) integers
    ``mask``    (B, inputs, H, W)     (B, outputs, H, W)   (B, H, W) integers
    ``*-text``  (B, N) integers       (B, N, outputs)      (B, N) integers
    ==========  ====================  ===================  ======================

    Attributes:
        kind: the row of the table.
        inputs: input channels, or the size of the vocabulary.
        outputs: output channels, classes, or the size of the vocabulary.
        grid: ``(H, W)`` or ``(N,)``.
        periodic: which axes of the grid are periodic: after the last point follows the first; empty if none is.
        normalised: how inputs originally in [0, 1] are normalized; None if they are not.
        fixed: how many input channels, the last ones, do not change in time (a mask, a coefficient): where a model is
            applied to its own predictions, it is given them again at every step.
    """

    kind: Kind
    inputs: int
    outputs: int
    grid: tuple[int, ...]
    normalised: Normalisation | None = None
    periodic: tuple[bool, ...] = ()
    fixed: int = 0

    @property
    def spec(self) -> KindSpec:
        """The properties of the kind."""
        return KINDS[self.kind]

    @property
    def tokens(self) -> int:
        """Number of points of the grid."""
        return prod(self.grid)

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the input for ``batch`` samples."""
        return (batch, *self.grid) if self.spec.text else (batch, self.inputs, *self.grid)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the output for ``batch`` samples."""
        if self.spec.text:
            return (batch, *self.grid, self.outputs)
        return (batch, self.outputs) if self.spec.head == "pooled" else (batch, self.outputs, *self.grid)

    def target_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the target for ``batch`` samples."""
        if not self.spec.classes:
            return self.output_shape(batch)
        return (batch,) if self.spec.head == "pooled" else (batch, *self.grid)
