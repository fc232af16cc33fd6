"""What has to be mapped to what; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

Kind = Literal["field", "image", "mask", "causal-text", "masked-text"]


@dataclass(frozen=True)
class KindSpec:
    """What a kind of problem fixes.

    Attributes:
        text: the input is integers, (B, N), and the output's channels come last.
        head: where the classifier is: on the mean of the features or on each of them; None without a classifier.
        causal: an output may depend on its own point and those before it only.
        panels: whether a few predictions are kept, which a report draws.
    """

    text: bool = False
    head: Literal["pooled", "pointwise"] | None = None
    causal: bool = False
    panels: bool = False

    @property
    def classes(self) -> bool:
        """Whether targets are integers, the numbers of classes, rather than real numbers."""
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
    """What has to be mapped to what; ``grid`` is (H, W) or (N,).

    ==========  ====================  ===================  ======================
    kind        input                 output               target
    ==========  ====================  ===================  ======================
    ``field``   (B, inputs, *grid)    (B, outputs, *grid)  (B, outputs, *grid)
    ``image``   (B, inputs, H, W)     (B, outputs)         (B,) integers
    ``mask``    (B, inputs, H, W)     (B, outputs, H, W)   (B, H, W) integers
    ``*-text``  (B, N) integers       (B, N, outputs)      (B, N) integers
    ==========  ====================  ===================  ======================

    Attributes:
        kind: which row of the table.
        inputs: input channels, or the size of the vocabulary.
        outputs: output channels, classes, or the size of the vocabulary.
        grid: ``(H, W)`` or ``(N,)``.
        normalised: how inputs that were in [0, 1] are normalised, if they are.
    """

    kind: Kind
    inputs: int
    outputs: int
    grid: tuple[int, ...]
    normalised: Normalisation | None = None

    @property
    def spec(self) -> KindSpec:
        """What the kind fixes."""
        return KINDS[self.kind]

    @property
    def tokens(self) -> int:
        """Number of points of the grid."""
        return prod(self.grid)

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of what a model is given for ``batch`` samples."""
        return (batch, *self.grid) if self.spec.text else (batch, self.inputs, *self.grid)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of what a model returns for ``batch`` samples."""
        if self.spec.text:
            return (batch, *self.grid, self.outputs)
        return (batch, self.outputs) if self.spec.head == "pooled" else (batch, self.outputs, *self.grid)

    def target_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of what the output is compared with for ``batch`` samples."""
        if not self.spec.classes:
            return self.output_shape(batch)
        return (batch,) if self.spec.head == "pooled" else (batch, *self.grid)
