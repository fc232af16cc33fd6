"""The base class of tasks: a problem with data, a loss and metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attn_bench.contract.base import Plugin
from attn_bench.contract.problem import Kind, Problem
from attn_bench.contract.splits import Splits, hold_out
from attn_bench.contract.taken_names import TAKEN

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

Direction = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """A measure of the quality of predictions.

    Attributes:
        direction: which is better.
        summary: its definition, shown in the table's documentation, on pages and by ``attn-bench list tasks NAME``.
        unit: of its values; empty for a plain number.
        detail: shown only in a separate table of reports; comparisons judge it only if ``--fail-on`` names it.
    """

    direction: Direction
    summary: str
    unit: str = ""
    detail: bool = False


@dataclass(frozen=True)
class TrainingDefaults:
    """Settings of a run that the user does not give."""

    resolutions: tuple[int, ...]
    epochs: float = 10
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float = 1.0


@dataclass(frozen=True)
class PrepareContext:
    """How to prepare data.

    Attributes:
        on_progress: called with the amount done and the total, in units that the task chooses.
        refresh: generate or fetch cached data again.
    """

    on_progress: Callable[[int, int], object] = lambda done, total: None
    refresh: bool = False


@dataclass(frozen=True)
class PreparedFile:
    """A file, or the folder of a data set, that data are read from.

    Attributes:
        split: ``train`` or ``test``.
        state: whether it was generated or downloaded now, was cached, or belongs to the user.
        samples: number of samples used from it, if that does not depend on the resolution.
    """

    path: Path
    split: str
    state: Literal["made", "cached", "given"]
    samples: int | None = None
    resolution: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PreparedData:
    """The result of :meth:`Task.prepare`.

    Attributes:
        read: lines on what is read ("40 samples of 16 x 64 from rect.pt: 32 train, 8 test"). A run shows them, and the
            warnings, before it trains.
        warnings: lines to warn the user about the data.
        files: shown by ``attn-bench data``.
    """

    read: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[PreparedFile, ...] = ()


class Task(Plugin):
    """A problem with data.

    Attributes:
        kind: the kind of problem.
        metrics: every metric that :meth:`evaluate` and :meth:`sample_metrics` return, in the order in which they are
            shown; figures show the first.
        defaults: resolutions and training settings that the user does not give.
        masks: whether targets, and inputs, are NaN at points that do not count. Prediction and target are then set to
            zero there before a loss; metrics have to leave them out, and :meth:`adapt` to give models other inputs.
        protocol: how the field trains and evaluates on it, with the source.
    """

    kind: ClassVar[Kind]
    metrics: ClassVar[Mapping[str, Metric]]
    defaults: ClassVar[TrainingDefaults]
    protocol: ClassVar[str] = ""
    masks: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse metrics whose columns would have the name of another column."""
        super().__init_subclass__(**kwargs)
        metrics = getattr(cls, "metrics", {})
        for name in metrics:
            for column in (name, f"{name}_low", f"{name}_high"):
                if column in TAKEN:
                    of = "" if column == name else f", for the interval of {name},"
                    raise TypeError(f"metric {name}: {column}{of} is a column or a setting of every run; rename it")
            stem, _, end = name.rpartition("_")
            if end in ("low", "high") and stem in metrics:
                raise TypeError(f"metric {name}: this is the column of the interval of {stem}; rename it")

    def default_resolutions(self, options: Any) -> tuple[int, ...]:
        """Return the resolutions used if the user gives none; override it if options such as a file determine them."""
        return self.defaults.resolutions

    def further_resolutions(self, resolutions: tuple[int, ...], options: Any) -> tuple[int, ...]:
        """Return where a model trained at ``resolutions`` is also evaluated if the user does not say; usually nowhere.

        Override it if there are test sets on grids of their own.

        Raises:
            OptionError: a resolution that cannot be trained at.
        """
        return ()

    def resolve(self, resolutions: tuple[int, ...], options: Any) -> Any:
        """Return ``options``, completed with those that depend on all resolutions of a sweep.

        Called once before the sweep is expanded, with every resolution trained or evaluated at; the result becomes part
        of each cell. By default it checks that there is a problem at each resolution. It must not import torch or use
        the network.

        Args:
            options: an instance of :attr:`Options`, as in the other methods.

        Raises:
            OptionError: an unsupported resolution or option.
            DataError: a file named by an option cannot be used.
        """
        for resolution in resolutions:
            self.problem(resolution, options)
        return options

    def prepare(self, resolutions: tuple[int, ...], options: Any, context: PrepareContext) -> PreparedData:
        """Generate or download the data of ``resolutions`` unless they are cached; called once before cells run.

        Raises:
            DataError: the data are not available.
        """
        return PreparedData()

    @abstractmethod
    def problem(self, resolution: int, options: Any) -> Problem:
        """Return the problem at ``resolution``. It must not import torch."""

    @abstractmethod
    def splits(self, resolution: int, options: Any) -> Splits:
        """Return the data at ``resolution``.

        The same options give the same samples at every resolution, in the same order.

        Raises:
            DataError: the data are missing or broken.
        """

    def rollout(self, options: Any) -> int:
        """Return how often a model is applied in a test, to its own predictions; 1 for what is no process in time.

        Tasks of kind ``field`` only. Input channels are then states at equal distances in time, oldest first, of
        ``outputs`` channels each, and a model predicts the next state. In the test set, targets have as many states as
        this returns, one after the other along their channels; everywhere else they have one.
        """
        return 1

    def hold_out(self, splits: Splits, share: float) -> Splits:
        """Return ``splits`` with a share of the training set as the validation set; called where there is none yet.

        The samples are chosen by their number only, so they are the same at every resolution, for every model and
        every seed. Override it if neighboring samples are not independent, as in a text.

        Raises:
            DataError: the training set is too small.
        """
        return hold_out(splits, share)

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Wrap a newly built module for training, e.g. with normalization fitted to ``train``.

        Where kept weights are loaded into it, ``train`` is a stand-in: a few random pairs of inputs and targets.
        """
        return module

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the scalar training loss of one batch."""

    def losses(self) -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
        """Return further losses by name, which users select with ``--loss NAME``; none by default.

        Tasks of kind ``field`` also have ``rel_l2``, ``mse``, ``h1`` and ``derivative`` without naming them here.
        """
        return {}

    @abstractmethod
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return metrics over an iterable of (prediction, target) batches; the first of :attr:`metrics` at least."""

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return metrics of each sample of a test batch, (B,) each; NaN where a sample has no such metric.

        Optional: of a metric returned here, a run also reports the 95 % confidence interval of the mean over test
        samples. That mean is the metric where :meth:`evaluate` does not return it. So what needs the inputs is returned
        here, and what is slow as well, as :meth:`evaluate` is also called along a training.

        Args:
            problem: at the resolution of the batch.
            inputs: of the batch; None where the module got features of them (a linear probe).
        """
        return {}
