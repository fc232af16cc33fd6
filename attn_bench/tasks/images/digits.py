"""The task ``digits``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from pydantic import Field

from attn_bench.plugin import OptionError, PrepareContext, PreparedData, Problem, Splits, Task, TrainingDefaults
from attn_bench.tasks.images.augmented import augmented
from attn_bench.tasks.images.image_scores import CLASS_METRICS, class_hits, class_scores, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

SMALLEST, CLASSES, COUNT = 8, 10, 1797


class Digits(Task):
    """scikit-learn's 1,797 handwritten digits, which need no download."""

    name = "digits"
    summary = "Handwritten digits (scikit-learn), resampled to the resolution; needs no download."
    citation = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998"
    kind = "image"
    metrics = CLASS_METRICS
    defaults = TrainingDefaults(resolutions=(16, 32), epochs=10, batch_size=16, learning_rate=2e-3)
    protocol = (
        "No published one: 8 x 8 images, enlarged; a fifth of them, the same share of each digit, is the test set."
    )

    @dataclass(frozen=True)
    class Options:
        """Options of the task."""

        test_fraction: Annotated[
            float, Field(ge=0.01, le=0.9, description="fraction of the images used for testing")
        ] = 0.2
        seed: Annotated[int, Field(ge=0, description="seed of the split, independent of the models' seeds")] = 0

    def problem(self, resolution: int, options: Options) -> Problem:
        """Return the problem from one gray channel to ten classes."""
        if resolution < SMALLEST:
            raise OptionError(f"digits needs a resolution >= {SMALLEST} (given: {resolution})")
        return Problem("image", 1, CLASSES, (resolution, resolution))

    def prepare(self, resolutions: tuple[int, ...], options: Options, context: PrepareContext) -> PreparedData:
        """Describe the images, which are part of scikit-learn."""
        test = math.ceil(options.test_fraction * COUNT)
        counts = f"{COUNT - test} train, {test} test"
        return PreparedData(read=(f"{COUNT} images of {CLASSES} classes from scikit-learn: {counts}",))

    def splits(self, resolution: int, options: Options) -> Splits:
        """Return the images, enlarged by bicubic interpolation."""
        import sklearn
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch.nn import functional as F
        from torch.utils.data import TensorDataset
        from torchvision.transforms import v2

        self.problem(resolution, options)
        found = load_digits()
        images = torch.from_numpy(found.images)[:, None].float() / 8 - 1
        if resolution != SMALLEST:
            images = F.interpolate(images, (resolution, resolution), mode="bicubic", align_corners=False)
        classes = torch.from_numpy(found.target).long()
        train, test = train_test_split(
            range(len(classes)), test_size=options.test_fraction, random_state=options.seed, stratify=found.target
        )
        identity = {
            "source": f"scikit-learn {sklearn.__version__}",
            "n_train": len(train),
            "n_test": len(test),
            "seed": options.seed,
        }

        def part(indices: list[int]) -> Dataset[tuple[Tensor, Tensor]]:
            return cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(images[indices], classes[indices]))

        # Small crops and no mirroring, or a digit would become another one.
        crop = v2.RandomResizedCrop(resolution, scale=(0.7, 1.0), ratio=(0.9, 1.1))
        return Splits(
            part(train),
            part(test),
            identity,
            augmented=augmented(part(train), crop),
            augmentation="random resized crop of 70 % to 100 %",
            classes=classes[train].tolist(),
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return cross_entropy(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in percent."""
        return class_scores(batches)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return whether each image is recognized, in per cent."""
        return class_hits(prediction, target)
