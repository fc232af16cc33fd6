"""The task ``ade20k``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from attn_bench.plugin import DataError, Splits, TrainingDefaults
from attn_bench.tasks.images.folders import images_below, part_of
from attn_bench.tasks.images.image_scores import MASK_METRICS, UNLABELLED, cross_entropy, mask_scores
from attn_bench.tasks.images.published_set import CROP, NORMALISED, PublishedSet
from attn_bench.tasks.images.reading import FORMATS, fault, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.utils.data import Dataset

Pairs = Sequence[tuple[Path, Path]]


class ADE20K(PublishedSet):
    """Scene parsing on ADE20K: 20,210 training and 2,000 test (validation) scenes; 150 classes, some points unlabeled.

    The release of the SceneParse150 challenge of 2016. In its annotations 0 is unlabeled and 1 to 150 are the classes.
    """

    name = "ade20k"
    summary = "ADE20K (SceneParse150): segmentation of scenes into 150 classes."
    citation = "arXiv:1608.05442"
    kind = "mask"
    metrics = MASK_METRICS
    defaults = TrainingDefaults(resolutions=(256,), epochs=10, batch_size=16, learning_rate=1e-3, weight_decay=0.05)
    protocol = (
        "Published scores (arXiv:1608.05442 and later) are for whole validation scenes at their own sizes, usually "
        "with pretrained networks. Here only the center of each is scored, at the given resolution; not comparable."
    )
    classes, sizes = 150, (20210, 2000)
    folder = "ADEChallengeData2016"
    layout = (
        "ADEChallengeData2016/images/training/*.jpg and validation/*.jpg, annotations/training/*.png and "
        "validation/*.png, and objectInfo150.txt"
    )
    parts = ("images/training", "images/validation", "annotations/training", "annotations/validation")
    marks = ("objectInfo150.txt",)
    address = "http://data.csail.mit.edu/places/ADEchallenge"
    archives = (("ADEChallengeData2016.zip", "7328b3957e407ddae1d3cbf487f149ef"),)

    @dataclass(frozen=True)
    class Options(PublishedSet.Options):
        """Options of the task."""

        augment: Annotated[
            bool, Field(description="crop training scenes at random positions and sizes, and mirror half of them")
        ] = True

    def splits(self, resolution: int, options: Options) -> Splits:
        """Return the official splits; an image and its annotation are read on access, and cropped equally.

        Test scenes are resized so that their shorter side is resolution / 0.875 and cropped to the center; channels are
        normalized by the mean and deviation of ImageNet. Annotations are resampled to the nearest point.
        """
        import torch
        from torchvision.transforms import v2

        self.problem(resolution, options)
        train, test, identity = self.opened(options.root)
        tensor = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*NORMALISED)]
        centre = [v2.Resize(round(resolution / CROP)), v2.CenterCrop(resolution), *tensor]
        # At least a quarter of a scene: smaller crops do not show enough context.
        varied = [v2.RandomResizedCrop(resolution, scale=(0.25, 1.0)), v2.RandomHorizontalFlip(), *tensor]

        def scenes(pairs: Pairs, steps: list[Any]) -> Dataset[tuple[Tensor, Tensor]]:
            return cast("Dataset[tuple[Tensor, Tensor]]", _Scenes(pairs, v2.Compose(steps)))

        return Splits(scenes(train, varied if options.augment else centre), scenes(test, centre), identity)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy over labeled points."""
        return cross_entropy(prediction, target)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return mean intersection over union and accuracy over labeled points in percent."""
        return mask_scores(batches)

    def _open(self, folder: Path) -> tuple[Pairs, Pairs]:
        """Return the paths of image and annotation of training and test scenes."""
        return _pairs(folder, "training"), _pairs(folder, "validation")

    def _files(self, split: Any) -> Pairs:
        return cast(Pairs, split)

    def _fault(self, *files: Path, whole: bool) -> str | None:
        from PIL import Image

        for path in files:
            if (found := fault(path, whole=whole)) is not None:
                return found if path == files[0] else f"its annotation {path}: {found}"
        with Image.open(files[0]) as image, Image.open(files[1]) as mask:
            found = _mask_fault(mask, image.size, whole=whole)
        return None if found is None else f"{files[1]} is not an annotation of it: {found}"

    def _count_classes(self, folder: Path, split: Any) -> int:
        # Reading every annotation would take minutes; this file has one row per class, below its header.
        rows = (folder / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()
        return sum(bool(row.strip()) for row in rows[1:])


def _pairs(folder: Path, part: str) -> Pairs:
    images, annotations = part_of(folder, f"images/{part}"), part_of(folder, f"annotations/{part}")
    found = [path for path in images_below(images) if path.suffix.lower() in (".jpg", ".jpeg")]
    if not found:
        raise ValueError(f"no files match images/{part}/*.jpg")
    masks = {path.stem: path for path in images_below(annotations) if path.suffix.lower() == ".png"}
    if missing := [path.stem for path in found if path.stem not in masks]:
        raise ValueError(f"{len(missing)} images have no annotation, e.g. annotations/{part}/{missing[0]}.png")
    return [(path, masks[path.stem]) for path in found]


def _mask_fault(mask: Image, size: tuple[int, int], *, whole: bool) -> str | None:
    """Return why ``mask`` is not an annotation of an image of ``size``, or None; ``whole`` checks its values too."""
    channels = len(mask.getbands())
    largest = cast(int, mask.getextrema()[1]) if whole and channels == 1 else 0
    if channels == 1 and mask.size == size and largest <= ADE20K.classes:
        return None
    return (
        f"expected one channel of its size with values up to {ADE20K.classes}; it has shape "
        f"{(channels, *mask.size[::-1])} and values up to {largest}"
    )


class _Scenes:
    """Images and annotations as tensors (3, R, R) and (R, R), transformed together."""

    def __init__(self, pairs: Pairs, transform: Callable[[Any, Any], tuple[Tensor, Tensor]]) -> None:
        self.pairs, self.transform = pairs, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image
        from torch import Tensor
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        path, annotation = self.pairs[index]
        shown = read_rgb(path)
        with Image.open(annotation, formats=FORMATS) as opened:
            if (found := _mask_fault(opened, shown.size, whole=True)) is not None:
                raise DataError(f"{annotation} is not an annotation of {path.name}: {found}")
            mask = tv_tensors.Mask(F.pil_to_tensor(opened))
        image = F.to_image(shown)
        image, mask = self.transform(image, mask)
        classes = mask[0].as_subclass(Tensor).long() - 1
        return image.as_subclass(Tensor), classes.where(classes >= 0, UNLABELLED)
