"""What tasks from fields to fields have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from attn_bench.plugin import PrepareContext, PreparedData, Problem, Splits, Task
from attn_bench.tasks.shared.field_checks import grids_in_words
from attn_bench.tasks.shared.field_metrics import FIELD_METRICS, field_errors, relative_errors, relative_l2_loss

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from attn_bench.tasks.shared.cached_streams import CachedStreams
    from attn_bench.tasks.shared.streams import Stream


class FieldTask(Task):
    """From fields to fields on one grid, with relative errors."""

    kind = "field"
    metrics = FIELD_METRICS

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Normalize input and output by the statistics of the training set."""
        from attn_bench.tasks.shared.normalise import normalise

        return normalise(module, train)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean relative L2 error of the batch, on physical fields."""
        return relative_l2_loss(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return both relative errors, over all channels together; infinite for a target that is zero everywhere."""
        return relative_errors(batches)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return every error of each sample."""
        return field_errors(prediction, target, problem.periodic)


class GeneratedFieldTask(FieldTask):
    """Pairs of one field each, which the task makes itself and caches; its options have ``n_train``,
    ``n_test`` and ``resolved``, which returns them with what the solver needs.

    Attributes:
        arrays: names of the input and the target in the cache.
    """

    arrays: ClassVar[tuple[str, str]]

    def resolve(self, resolutions: tuple[int, ...], options: Any) -> Any:
        """Set what the solver needs."""
        for resolution in resolutions:
            self.problem(resolution, options)  # raises what is wrong with it
        return options.resolved()

    @abstractmethod
    def streams(self, resolutions: tuple[int, ...], options: Any) -> CachedStreams:
        """Return the samples; raises OptionError."""

    def in_words(self, resolutions: tuple[int, ...], options: Any) -> str:
        """Return the line on what is read."""
        train, test = options.n_train, options.n_test
        grids = grids_in_words([self.problem(r, options).grid for r in resolutions])
        return f"{train + test} samples of {grids} generated: {train} train, {test} test"

    def prepare(self, resolutions: tuple[int, ...], options: Any, context: PrepareContext) -> PreparedData:
        """Generate samples that are not in the cache; progress counts those of both sets."""
        files = self.streams(resolutions, options).prepare(resolutions, context)
        return PreparedData(read=(self.in_words(resolutions, options),), files=files)

    def splits(self, resolution: int, options: Any) -> Splits:
        """Return data of one resolution, from the cache if they are there."""
        import torch
        from torch.utils.data import TensorDataset

        loaded = self.streams((resolution,), options).load(resolution)

        def dataset(stream: Stream) -> Dataset[tuple[Tensor, Tensor]]:
            tensors = (torch.from_numpy(loaded.arrays[stream][name])[:, None] for name in self.arrays)
            return cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(*tensors))

        identity = {**loaded.identity, "read": self.in_words((resolution,), options)}
        return Splits(dataset("train"), dataset("test"), identity)
