"""The parts of a task's data, and how a validation set is held out of the training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from attn_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.utils.data import Dataset

# Of the samples held out, whatever the seed of the task or the model.
SEED = 0


@dataclass(frozen=True)
class Splits:
    """Train, validation and test sets of one resolution.

    Attributes:
        train: map-style dataset of (input, target) tensors, without the batch axis. One that can read many samples at
            once may have a method ``batch(indices: Tensor) -> (inputs, targets)``, as a ``TensorDataset`` needs not.
        test: the same.
        identity: identifies the data, JSON values only (recipe, sizes, checksum); stored in the record. The key
            ``read`` has the line of :meth:`Task.prepare` for this resolution; data sets that differ only in it are the
            same.
        plain: ``train`` without random augmentation, for features that are computed once; None means ``train``.
        augmented: ``train`` with the random augmentation of fine-tuning; None means ``train``.
        augmentation: description of that of fine-tuning, stored in its records.
        validation: a published validation set, for selecting weights and settings. With None, as in most tasks, the
            harness holds out a share of ``train`` (:meth:`Task.hold_out`).
        unrolled: ``train`` with several states in each target, one after the other along its channels, which is then
            trained on with the pushforward trick (arXiv:2202.03376): a module is applied to its own predictions, as in
            :meth:`Task.rollout`, and gradients pass through the last step only. None means single steps.
        classes: of each training sample, where it has one: a share of each class is then held out.
    """

    train: Dataset[tuple[Tensor, Tensor]]
    test: Dataset[tuple[Tensor, Tensor]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    plain: Dataset[tuple[Tensor, Tensor]] | None = None
    augmented: Dataset[tuple[Tensor, Tensor]] | None = None
    augmentation: str = "none"
    validation: Dataset[tuple[Tensor, Tensor]] | None = None
    unrolled: Dataset[tuple[Tensor, Tensor]] | None = None
    classes: Sequence[int] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: 0 if part is None else len(part) for name, part in parts.items()}  # type: ignore[arg-type]


def hold_out(splits: Splits, share: float) -> Splits:
    """Return ``splits`` with ``share`` of the training set, at least one sample, as the validation set.

    It is read without random augmentation. The order of both parts is that of the training set. Where samples have
    classes, every class has its share of the validation set, to within one sample, and keeps a training sample.

    Raises:
        DataError: no training samples would be left.
    """
    import numpy as np

    size = splits.sizes["train"]
    count = held_out_count(size, share)
    # This generator's numbers are the same in every version of NumPy.
    order = np.random.RandomState(SEED).permutation(size)
    held = sorted(order[:count].tolist() if splits.classes is None else _of_each_class(order, splits.classes, count))
    kept = np.setdiff1d(order, held).tolist()
    return replace(
        splits,
        train=part(splits.train, kept),
        plain=None if splits.plain is None else part(splits.plain, kept),
        augmented=None if splits.augmented is None else part(splits.augmented, kept),
        validation=part(splits.train if splits.plain is None else splits.plain, held),
        classes=None if splits.classes is None else [splits.classes[i] for i in kept],
    )


def _of_each_class(order: np.ndarray, classes: Sequence[int], count: int) -> list[int]:
    """Return the first samples of ``order`` of each class, ``count`` in all, in proportion to the classes' sizes.

    Raises:
        DataError: no class has two samples.
    """
    import numpy as np

    labels = np.asarray(classes)
    names, sizes = np.unique(labels, return_counts=True)
    quotas = count * sizes / len(labels)
    counts = np.minimum(quotas.astype(int), sizes - 1)
    # What rounding down left, one each to those it cost most; never a class's last sample.
    for i in np.argsort(counts - quotas, kind="stable"):
        if counts.sum() < count and counts[i] < sizes[i] - 1:
            counts[i] += 1
    if not counts.sum():
        raise DataError(f"each of the {len(names)} classes has one training sample, which it keeps; use validation: 0")
    shuffled = labels[order]
    return [int(i) for name, n in zip(names, counts) for i in order[shuffled == name][:n]]


def held_out_count(size: int, share: float, what: str = "samples") -> int:
    """Return how many of ``size`` samples are held out; raises DataError if none would be left to train on."""
    count = max(1, round(share * size))
    if count >= size:
        raise DataError(
            f"the training set has {size} {what}, too few to hold out {share:g} of them for validation; "
            "use validation: 0, or more data"
        )
    return count


def part(dataset: Dataset[tuple[Tensor, Tensor]], indices: Sequence[int]) -> Dataset[tuple[Tensor, Tensor]]:
    """Return the samples ``indices`` of ``dataset``; of tensors in memory again tensors in memory."""
    from torch.utils.data import Subset, TensorDataset

    if type(dataset) is TensorDataset:
        return TensorDataset(*(tensor[list(indices)] for tensor in dataset.tensors))  # type: ignore[return-value]
    return Subset(dataset, indices)
