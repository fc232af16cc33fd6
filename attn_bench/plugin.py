"""The contract between the harness and its plugins; the only module of ours that a plugin imports.

A plugin is a subclass of :class:`Model` or :class:`Task`, named by an entry point of the group ``attn_bench.models``
or ``attn_bench.tasks``. Nothing here imports torch, and a plugin's module should not either: listing plugins imports
them, so heavy imports belong inside :meth:`Model.build` and :meth:`Task.splits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

Kind = Literal["field", "image", "mask", "causal-text", "masked-text"]
Complexity = Literal["n", "n log n", "n^2"]
Direction = Literal["lower", "higher"]


class Unsupported(Exception):
    """Raised where a model cannot serve a problem; its message is the reason shown in the results."""


class DataError(Exception):
    """Raised by a task whose data are missing, broken or of the wrong form; its message is one line for the user."""


class OptionError(ValueError):
    """Raised for an option value that cannot work, in ``build``, ``problem`` or ``splits``; its message is one line."""


@dataclass(frozen=True)
class Problem:
    """What has to be mapped to what.

    ==============  =======================  ===========================
    kind            input                    output
    ==============  =======================  ===========================
    ``field``       (B, inputs, H, W)        (B, outputs, H, W)
    ``image``       (B, inputs, H, W)        (B, outputs)
    ``mask``        (B, inputs, H, W)        (B, outputs, H, W)
    ``*-text``      (B, N) integers          (B, N, outputs)
    ==============  =======================  ===========================

    Attributes:
        kind: which row of the table.
        inputs: input channels, or the size of the vocabulary.
        outputs: output channels, classes, or the size of the vocabulary.
        grid: ``(H, W)`` or ``(N,)``.
        normalised: mean and deviation of each channel by which inputs that were in [0, 1] are normalised, if they are.
    """

    kind: Kind
    inputs: int
    outputs: int
    grid: tuple[int, ...]
    normalised: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def tokens(self) -> int:
        """Number of points of the grid."""
        n = 1
        for size in self.grid:
            n *= size
        return n

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of what a model returns for ``batch`` samples."""
        if self.kind == "image":
            return (batch, self.outputs)
        if self.kind in ("field", "mask"):
            return (batch, self.outputs, *self.grid)
        return (batch, *self.grid, self.outputs)


class Model(ABC):
    """A model family. Its options are the keyword-only parameters of :meth:`build`.

    Attributes:
        name: what users write after ``--models``; equal to the name of the entry point.
        summary: one line.
        citation: where the method was published, e.g. ``"arXiv:2507.02748"``.
        kinds: the kinds of problem it serves.
        complexity: claimed growth of time and memory with the number of tokens, if there is a claim.
        presets: named sets of options, chosen as ``name:preset``.
        imports: modules that ``build`` needs. A cell's process imports them first; torch, torchvision, timm and
            neuralop are there already.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    kinds: ClassVar[frozenset[Kind]]
    complexity: ClassVar[Complexity | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    imports: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def build(self, problem: Problem) -> nn.Module:
        """Return a module with random weights for ``problem``; subclasses add keyword-only options with defaults.

        A ``field`` module is also called on other grids than ``problem.grid`` when the user asks for evaluation there;
        it serves them or raises :class:`Unsupported`.
        """

    def unsupported(self, problem: Problem, device: str, **options: Any) -> str | None:
        """Say why ``problem`` cannot be served on ``device`` (``cpu``, ``cuda``), or return None; imports no torch."""
        return None

    def fit(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> bool:
        """Fit ``module`` to the training set in closed form and return True, or return False to be trained by gradient.

        Called once after ``build``. A module fitted here is used as it is: not wrapped by :meth:`Task.adapt`.
        """
        return False

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return the classifier's head in a built ``image`` module: the linear map from features to scores.

        Called once in a forward pass, with the features; what it returns is what the module returns. None where there
        is none: a linear probe is not supported then.
        """
        return None

    def warm_up(self, module: nn.Module) -> Sequence[nn.Parameter]:
        """Return what was added to a pretrained network and may first be trained alone, with the head."""
        return ()

    def growth(self, **options: Any) -> Complexity | None:
        """Return the claimed growth with these options of ``build``; overridden where it depends on them."""
        return self.complexity

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Settings in force in a built module where they differ from those asked for (kept in the record)."""
        return {}


@dataclass(frozen=True)
class Metric:
    """A number that says how good a prediction is: which direction is better, its unit, and its definition."""

    direction: Direction
    summary: str
    unit: str = ""


@dataclass(frozen=True)
class Splits:
    """Train and test sets of one resolution.

    Attributes:
        train: map-style dataset of (input, target) tensors, without the batch axis.
        test: the same.
        identity: what the data are, JSON values only (recipe, sizes, checksum); kept in the record. What is called
            ``read`` is the line of :meth:`Task.prepare` for this resolution alone; two data sets that differ in it only
            are the same.
        plain: ``train`` without random augmentation, for features that are computed once; ``train`` where None.
        augmented: ``train`` with the random augmentation of fine-tuning; ``train`` where None.
        augmentation: in words, that of fine-tuning; kept in its records.
    """

    train: Dataset[tuple[Tensor, Tensor]]
    test: Dataset[tuple[Tensor, Tensor]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    plain: Dataset[tuple[Tensor, Tensor]] | None = None
    augmented: Dataset[tuple[Tensor, Tensor]] | None = None
    augmentation: str = "none"


@dataclass(frozen=True)
class TrainingDefaults:
    """What a run of a task uses where the user says nothing."""

    resolutions: tuple[int, ...]
    epochs: float = 10
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float = 1.0


class Task(ABC):
    """A problem with data. Its options are the keyword-only parameters of :meth:`splits`.

    Attributes:
        name: what users write after ``--task``; equal to the name of the entry point.
        summary: one line.
        citation: where the task was published.
        kind: the kind of problem.
        metrics: every metric that :meth:`evaluate` returns; the first is the one plots show.
        defaults: resolutions and training settings used where the user says nothing.
        protocol: how the field trains and evaluates on it, with the source.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    kind: ClassVar[Kind]
    metrics: ClassVar[Mapping[str, Metric]]
    defaults: ClassVar[TrainingDefaults]
    protocol: ClassVar[str] = ""

    def resolve(self, resolutions: tuple[int, ...], **options: Any) -> dict[str, Any]:
        """Return ``options`` with those filled in that depend on all resolutions of a sweep together.

        Called once before the sweep is expanded, with every resolution trained or evaluated at; the result goes into
        each cell. Imports no torch and touches no network.

        Raises:
            OptionError: a resolution or option cannot be served.
            DataError: a file named by an option cannot be used.
        """
        return options

    def prepare(
        self,
        resolutions: tuple[int, ...],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        refresh: bool = False,
        **options: Any,
    ) -> Sequence[Mapping[str, Any]]:
        """Make or download the data of ``resolutions`` unless they are cached; ``refresh`` makes them anew.

        Called once before cells run, with resolved options. Returns a description of each file or set, if any; ``read``
        in one is a line that says what was read or made ("40 samples of 16 x 64 from rect.pt: 32 train, 8 test"),
        ``warning`` a line on what to know about it. A run shows both before it trains.

        Raises:
            DataError: the data cannot be had.
        """
        return ()

    @abstractmethod
    def problem(self, resolution: int, **options: Any) -> Problem:
        """Return the problem at ``resolution``. Imports no torch."""

    @abstractmethod
    def splits(self, resolution: int) -> Splits:
        """Return the data at ``resolution``; subclasses add keyword-only options with defaults.

        The same options give the same samples at every resolution, in the same order.

        Raises:
            DataError: the data are missing or broken.
        """

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Wrap a freshly built module with what training needs around it, such as normalisation fitted to ``train``."""
        return module

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the scalar training loss of one batch."""

    @abstractmethod
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return every metric over an iterable of (prediction, target) batches."""
