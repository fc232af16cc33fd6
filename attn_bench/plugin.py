"""The contract between the harness and its plugins; the only module of ours that a plugin has to import.

A plugin is a subclass of :class:`Mixer` (one attention module), :class:`Model` (a whole network) or :class:`Task`,
named by an entry point of the group ``attn_bench.models`` or ``attn_bench.tasks``. Nothing here imports torch, and a
plugin's module should not either: listing plugins imports them, so heavy imports belong inside :meth:`Mixer.mixer`,
:meth:`Model.build` and :meth:`Task.splits`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

CONTRACT = 2
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


class Plugin(ABC):
    """What a model and a task have in common.

    Attributes:
        name: what users write after ``--models`` or ``--task``; equal to the name of the entry point.
        summary: one line.
        citation: where it was published, e.g. ``"arXiv:2507.02748"``.
        Options: a frozen dataclass; each field is an option, ``Annotated`` with its help text and range
            (``pydantic.Field``), with a default. The options of a family are inherited.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""

    @dataclass(frozen=True)
    class Options:
        """No options."""

    @classmethod
    def options(cls, **given: Any) -> Any:
        """Return :attr:`Options` with ``given``, each checked against its type and range.

        Raises:
            OptionError: an unknown option, a value out of its range, or values that cannot work together.
        """
        hints = get_type_hints(cls.Options, include_extras=True)
        names = [option.name for option in fields(cls.Options)]
        values = {}
        for name, value in given.items():
            if name not in names:
                raise OptionError(f"{cls.name} has no option {name}; there are: {', '.join(names) or 'none'}")
            try:
                values[name] = checked(hints[name], value)
            except ValueError as error:
                raise OptionError(f"option {cls.name}.{name} {error}") from None
        return cls.Options(**values)


def checked(annotation: Any, value: Any) -> Any:
    """Return ``value`` as the type ``annotation``; raises ValueError, whose message goes after the option's name."""
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        must_be = " or ".join(dict.fromkeys(_in_words(each["msg"]) for each in error.errors()))
    else:
        if not _counts_truth(value, found):
            return found
        must_be = "a number, not true or false"
    raise ValueError(f"must be {must_be} (given: {value!r})")


def _in_words(reason: str) -> str:
    reason = re.sub(r"^Input should be |, (unable|got) .*", "", reason)
    signs = {"greater than or equal to": ">=", "less than or equal to": "<=", "greater than": ">", "less than": "<"}
    for words, sign in signs.items():
        reason = reason.replace(words, sign)
    return reason


def _counts_truth(value: Any, found: Any) -> bool:
    """Tell whether a truth value became a number, which pydantic allows."""
    if isinstance(value, bool):
        return isinstance(found, int | float) and not isinstance(found, bool)
    if isinstance(value, list | tuple) and isinstance(found, list | tuple):
        return any(map(_counts_truth, value, found))
    return False


class Model(Plugin):
    """A model family.

    Attributes:
        kinds: the kinds of problem it serves.
        complexity: claimed growth of time and memory with the number of tokens, if there is a claim.
        presets: named sets of options, chosen as ``name:preset``.
        imports: modules that ``build`` needs. A cell's process imports them first; torch, torchvision, timm and
            neuralop are there already.
        reference: True for a constant predictor, which is never the best of a table.
    """

    kinds: ClassVar[frozenset[Kind]]
    complexity: ClassVar[Complexity | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    imports: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[bool] = False

    @abstractmethod
    def build(self, problem: Problem, options: Any) -> nn.Module:
        """Return a module with random weights for ``problem``.

        A ``field`` module is also called on other grids than ``problem.grid`` when the user asks for evaluation there;
        it serves them or raises :class:`Unsupported`.

        Args:
            options: an instance of :attr:`Options`. A model without options may leave the parameter out.

        Raises:
            OptionError: values that cannot work together.
        """

    def make(self, problem: Problem, **options: Any) -> nn.Module:
        """Return :meth:`build` with options given by name; raises OptionError."""
        chosen = self.options(**options)
        if len(signature(self.build).parameters) == 1:
            return self.build(problem)  # type: ignore[call-arg]
        return self.build(problem, chosen)

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
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
        is none: a linear probe is not supported then. Modules below :func:`attn_bench.nn.heads.with_head` have one.
        """
        from attn_bench.nn.heads import PooledClassifier

        return module.head if isinstance(module, PooledClassifier) else None

    def warm_up(self, module: nn.Module) -> Sequence[nn.Parameter]:
        """Return what was added to a pretrained network and may first be trained alone, with the head."""
        return ()

    def growth(self, options: Any) -> Complexity | None:
        """Return the claimed growth with these options; overridden where it depends on them."""
        return self.complexity

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Settings in force in a module built for ``problem`` where they differ from those asked for."""
        return {}


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

        dim: Annotated[int, Field(ge=1, description="channels of a token")] = 48
        depth: Annotated[int, Field(ge=1, description="blocks of mixer and feed-forward network")] = 4
        heads: Annotated[int, Field(ge=1, description="attention heads; must divide dim")] = 4
        mlp_ratio: Annotated[
            float, Field(gt=0, description="hidden channels of the feed-forward networks over dim")
        ] = 2.0
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout probability of the feed-forward networks")] = (
            0.0
        )
        patch_size: Annotated[
            int | None, Field(ge=1, description="side of a patch, in points of a grid; a patch is one token")
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
        return Tokens(tuple(-(-n // patch) for n in problem.grid), causal=problem.kind == "causal-text")

    def patch_size(self, problem: Problem, options: Any) -> int:
        """Return the side of a patch: what is given, or the default of the kind; a text has none."""
        if problem.kind.endswith("text"):
            return 1
        if options.patch_size is not None:
            return int(options.patch_size)
        return self.patch_on_images if problem.kind in ("image", "mask") else 1

    def unsupported(self, problem: Problem, device: str, options: Any) -> str | None:
        """Say that a patch is larger than the grid, or that a text has no patches."""
        if problem.kind.endswith("text") and options.patch_size not in (None, 1):
            return f"patch_size is {options.patch_size}; a text has no patches"
        from attn_bench.nn.size_checks import patch_exceeds_grid

        return patch_exceeds_grid(self.patch_size(problem, options), problem.grid)


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


@dataclass(frozen=True)
class PrepareContext:
    """How data are to be prepared.

    Attributes:
        on_progress: called with what is done and the total, in units that the task chooses.
        refresh: make or fetch again what is cached.
    """

    on_progress: Callable[[int, int], object] = lambda done, total: None
    refresh: bool = False


class Task(Plugin):
    """A problem with data.

    Attributes:
        kind: the kind of problem.
        metrics: every metric that :meth:`evaluate` returns, in the order in which they are shown; the first is the one
            plots show.
        defaults: resolutions and training settings used where the user says nothing.
        protocol: how the field trains and evaluates on it, with the source.
    """

    kind: ClassVar[Kind]
    metrics: ClassVar[Mapping[str, Metric]]
    defaults: ClassVar[TrainingDefaults]
    protocol: ClassVar[str] = ""

    def resolve(self, resolutions: tuple[int, ...], options: Any) -> Any:
        """Return ``options`` with those filled in that depend on all resolutions of a sweep together.

        Called once before the sweep is expanded, with every resolution trained or evaluated at; the result goes into
        each cell. Without another meaning it checks that there is a problem at each resolution. Imports no torch and
        touches no network.

        Args:
            options: an instance of :attr:`Options`, as in the other methods.

        Raises:
            OptionError: a resolution or option cannot be served.
            DataError: a file named by an option cannot be used.
        """
        for resolution in resolutions:
            self.problem(resolution, options)
        return options

    def prepare(
        self, resolutions: tuple[int, ...], options: Any, context: PrepareContext
    ) -> Sequence[Mapping[str, Any]]:
        """Make or download the data of ``resolutions`` unless they are cached.

        Called once before cells run, with resolved options. Returns a description of each file or set, if any; ``read``
        in one is a line that says what was read or made ("40 samples of 16 x 64 from rect.pt: 32 train, 8 test"),
        ``warning`` a line on what to know about it. A run shows both before it trains.

        Raises:
            DataError: the data cannot be had.
        """
        return ()

    @abstractmethod
    def problem(self, resolution: int, options: Any) -> Problem:
        """Return the problem at ``resolution``. Imports no torch."""

    @abstractmethod
    def splits(self, resolution: int, options: Any) -> Splits:
        """Return the data at ``resolution``.

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
