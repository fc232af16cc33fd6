"""The task ``fields``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from attn_bench.plugin import (
    PrepareContext,
    PreparedData,
    Problem,
    Splits,
    TrainingDefaults,
    held_out_count,
)
from attn_bench.tasks.fields.field_source import Part, source_of
from attn_bench.tasks.fields.fields_options import FieldsOptions
from attn_bench.tasks.shared.field_task import FieldTask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.utils.data import Dataset


class Fields(FieldTask):
    """Fields of the user's own: any arrays of a file, of any number of channels, to others on the same grid."""

    name = "fields"
    summary = "Fields of your own (--data FILE): predict arrays of a file from others, or a step from an earlier one."
    defaults = TrainingDefaults(resolutions=(), epochs=10, batch_size=8, learning_rate=2e-3)
    protocol = (
        "No published one: normalization by channel, relative L2 loss on physical fields, over all channels of the "
        "target together; where there are steps, errors are those of one step, or of all states of a rollout."
    )

    masks = True

    Options = FieldsOptions

    def resolve(self, resolutions: tuple[int, ...], options: FieldsOptions) -> FieldsOptions:
        """Make paths absolute, and store the checksum of the files."""
        source = source_of(options)
        for resolution in resolutions:
            source.grid(resolution)
        return replace(options, **source.resolved())

    def default_resolutions(self, options: FieldsOptions) -> tuple[int, ...]:
        """Return that of the training file."""
        return (source_of(options).resolution,)

    def further_resolutions(self, resolutions: tuple[int, ...], options: FieldsOptions) -> tuple[int, ...]:
        """Return those of test files on other grids, which are evaluated at unless the user says where."""
        return source_of(options).further(resolutions)

    def prepare(self, resolutions: tuple[int, ...], options: FieldsOptions, context: PrepareContext) -> PreparedData:
        """Read every sample once, so that errors are found before anything runs."""
        return source_of(options).prepared(resolutions)

    def problem(self, resolution: int, options: FieldsOptions) -> Problem:
        """Return the problem from the channels of the input to those of the target."""
        source = source_of(options)
        inputs, outputs = source.train.channels
        grid, periodic = source.grid(resolution), source.periodic(resolution)
        return Problem("field", inputs, outputs, grid, periodic=periodic, fixed=source.train.fixed)

    def splits(self, resolution: int, options: FieldsOptions) -> Splits:
        """Return data of one resolution, in memory or read in pieces."""
        from attn_bench.tasks.fields.samples import FromFile, in_memory
        from attn_bench.tasks.shared.noise import Noisy
        from attn_bench.tasks.shared.normalise import statistics

        source = source_of(options)
        train, test = source.training(resolution), source.testing(resolution)
        pushed = source.pushed(resolution)
        lazy = source.in_pieces(*filter(None, (train, test, pushed)))

        def dataset(part: Part, lazy: bool) -> Dataset[tuple[Tensor, Tensor]]:
            of = (part.file, part.numbers, part.stride)
            return FromFile(*of) if lazy else cast("Dataset[tuple[Tensor, Tensor]]", in_memory(*of))

        # A test file on another grid comes with no training samples of that grid; nobody reads these.
        plain = dataset(train, lazy) if train is not None else dataset(source.whole, True)
        identity = source.identity(resolution) | {"pairs": source.train.pairs}
        unrolled = None if pushed is None else dataset(pushed, lazy)
        if not options.noise:
            return Splits(plain, dataset(test, lazy), identity, unrolled=unrolled)
        std = options.noise * statistics(plain)[1][0]
        std[len(std) - source.train.fixed :] = 0
        noisy = None if unrolled is None else Noisy(unrolled, std)
        return Splits(Noisy(plain, std), dataset(test, lazy), identity, plain=plain, unrolled=noisy)

    def adapt(self, module: nn.Module, train: Dataset[tuple[Tensor, Tensor]]) -> nn.Module:
        """Normalize input and output by the statistics of the training set, without noise."""
        return super().adapt(module, getattr(train, "plain", train))

    def rollout(self, options: FieldsOptions) -> int:
        """Return how many states are predicted in a test."""
        return options.rollout

    def hold_out(self, splits: Splits, share: float) -> Splits:
        """Return ``splits`` with a share of the training samples, or of their trajectories, as the validation set."""
        pairs = splits.identity.get("pairs", 1)
        if pairs == 1:
            return super().hold_out(splits, share)
        import numpy as np

        count = splits.sizes["train"] // pairs
        held = held_out_count(count, share, "trajectories")
        # The generator, and its seed, by which samples are held out elsewhere.
        order = np.random.RandomState(0).permutation(count)

        def part(dataset: Any, which: np.ndarray) -> Any:
            pairs = len(dataset) // count
            return _part(dataset, (np.sort(which)[:, None] * pairs + np.arange(pairs)).reshape(-1))

        plain, kept = splits.plain or splits.train, order[held:]
        return replace(
            splits,
            train=part(splits.train, kept),
            validation=part(plain, order[:held]),
            plain=None if splits.plain is None else part(plain, kept),
            unrolled=None if splits.unrolled is None else part(splits.unrolled, kept),
        )


def _part(dataset: Any, numbers: np.ndarray) -> Any:
    from torch.utils.data import Subset, TensorDataset

    from attn_bench.tasks.shared.noise import Noisy

    if isinstance(dataset, Noisy):
        return Noisy(_part(dataset.plain, numbers), dataset.std)
    if type(dataset) is TensorDataset:
        return TensorDataset(*(tensor[numbers] for tensor in dataset.tensors))
    return Subset(dataset, numbers.tolist())
