"""The task ``digits``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from attn_bench.plugin import OptionError, Problem, Splits, Task, TrainingDefaults
from attn_bench.tasks.images.augmented import augmented
from attn_bench.tasks.images.scores import CLASS_METRICS, class_scores, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

SMALLEST, CLASSES, COUNT = 8, 10, 1797


class Digits(Task):
    """scikit-learn's 1,797 handwritten digits: images that are on every machine."""

    name = "digits"
    summary = "Handwritten digits (scikit-learn), resampled to the resolution: classification without a download."
    citation = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998"
    kind = "image"
    metrics = CLASS_METRICS
    defaults = TrainingDefaults(resolutions=(16, 32), epochs=10, batch_size=16, learning_rate=2e-3)
    protocol = "No published one: 8 x 8 images, enlarged; a fifth, the same share of each digit, is the test set."

    def resolve(self, resolutions: tuple[int, ...], **options: Any) -> dict[str, Any]:
        """Check the resolutions and the options; nothing depends on all resolutions together."""
        for resolution in resolutions:
            self.problem(resolution)
        if not 0.01 <= options.get("test_fraction", 0.2) <= 0.9:
            raise OptionError(f"digits.test_fraction is between 0.01 and 0.9 (given: {options['test_fraction']})")
        if options.get("seed", 0) < 0:
            raise OptionError(f"digits.seed must not be negative (given: {options['seed']})")
        return options

    def problem(self, resolution: int, **options: Any) -> Problem:
        """Return one grey channel to ten classes."""
        if resolution < SMALLEST:
            raise OptionError(f"digits needs a resolution of at least {SMALLEST} (given: {resolution})")
        return Problem("image", 1, CLASSES, (resolution, resolution))

    def prepare(
        self,
        resolutions: tuple[int, ...],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        refresh: bool = False,
        **options: Any,
    ) -> Sequence[Mapping[str, Any]]:
        """Say how many images there are; they come with scikit-learn."""
        test = math.ceil(options.get("test_fraction", 0.2) * COUNT)
        counts = f"{COUNT - test} train, {test} test"
        return [{"read": f"{COUNT} images of {CLASSES} classes from scikit-learn: {counts}"}]

    def splits(self, resolution: int, *, test_fraction: float = 0.2, seed: int = 0) -> Splits:
        """Return the images, enlarged by bicubic interpolation.

        Args:
            test_fraction: share of the images to test on.
            seed: of the split.
        """
        import sklearn
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch.nn import functional as F
        from torch.utils.data import TensorDataset
        from torchvision.transforms import v2

        self.resolve((resolution,), test_fraction=test_fraction, seed=seed)
        found = load_digits()
        images = torch.from_numpy(found.images)[:, None].float() / 8 - 1
        if resolution != SMALLEST:
            images = F.interpolate(images, (resolution, resolution), mode="bicubic", align_corners=False)
        classes = torch.from_numpy(found.target).long()
        train, test = train_test_split(
            range(len(classes)), test_size=test_fraction, random_state=seed, stratify=found.target
        )
        identity = {
            "source": f"scikit-learn {sklearn.__version__}",
            "n_train": len(train),
            "n_test": len(test),
            "seed": seed,
        }

        def part(indices: list[int]) -> Dataset[tuple[Tensor, Tensor]]:
            return cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(images[indices], classes[indices]))

        # Little is cut away, and nothing is mirrored, or a digit would become another or none.
        crop = v2.RandomResizedCrop(resolution, scale=(0.7, 1.0), ratio=(0.9, 1.1))
        return Splits(
            part(train),
            part(test),
            identity,
            augmented=augmented(part(train), crop),
            augmentation="random resized crop of 70 % to 100 %",
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return cross_entropy(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in per cent."""
        return class_scores(batches)
