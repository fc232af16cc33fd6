"""Public image classification data sets, read from the files published by their authors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import Field

from attn_bench.plugin import Problem, Splits, TrainingDefaults
from attn_bench.tasks.images.file_checks import Item
from attn_bench.tasks.images.folders import (
    Labelled,
    apart,
    classified,
    find,
    images_below,
    listed,
    named,
    part_of,
    some,
)
from attn_bench.tasks.images.image_scores import CLASS_METRICS, class_hits, class_scores, cross_entropy
from attn_bench.tasks.images.published_set import CROP, NORMALISED, PublishedSet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

# Flowers-102.
SPECIES = 102


class ImageSet(PublishedSet):
    """A public set of images with one class each.

    Attributes:
        crop: share of a test image's shorter side that is kept.
    """

    kind = "image"
    metrics = CLASS_METRICS
    protocol = (
        "Top-1 on the official test split, trained on the official training split only; a linear probe or fine-tuning "
        "of a pretrained network. For flowers102 and pets the mean over classes is published too (arXiv:1805.08974)."
    )
    defaults = TrainingDefaults(resolutions=(224,), epochs=10, batch_size=32, learning_rate=1e-3, weight_decay=0.05)
    crop: ClassVar[float] = CROP

    @dataclass(frozen=True)
    class Options(PublishedSet.Options):
        """Options of every public set of images with one class each."""

        augment: Annotated[
            bool,
            Field(
                description="crop training images at random positions and sizes, mirror half; in fine-tuning "
                "also apply RandAugment (arXiv:1909.13719) and random erasing (arXiv:1708.04896)"
            ),
        ] = True

    def splits(self, resolution: int, options: Options) -> Splits:
        """Return the official splits; an image is read on access.

        Test images are resized so that their shorter side is resolution / 0.875 and cropped to the center, or not
        cropped in cifar100 and tiny-imagenet; channels are normalized by the mean and deviation of ImageNet.
        """
        from torchvision import transforms

        self.problem(resolution, options)
        tensor = [transforms.ToTensor(), transforms.Normalize(*NORMALISED)]
        centre = [transforms.Resize(round(resolution / self.crop)), transforms.CenterCrop(resolution), *tensor]
        cut = [transforms.RandomResizedCrop(resolution), transforms.RandomHorizontalFlip()]
        # As in DeiT (arXiv:2012.12877, table 9), with torchvision's transforms, which draw only from torch's generator.
        strongly_varied = [*cut, transforms.RandAugment(2, 9), *tensor, transforms.RandomErasing(0.25)]
        train, test, identity = self.opened(options.root)

        def images(dataset: Any, steps: list[Any]) -> Dataset[tuple[Tensor, Tensor]]:
            return cast("Dataset[tuple[Tensor, Tensor]]", _Images(dataset, transforms.Compose(steps)))

        plain, test_images = images(train, centre), images(test, centre)
        if not options.augment:
            return Splits(plain, test_images, identity, classes=train.labels)
        return Splits(
            images(train, [*cut, *tensor]),
            test_images,
            identity,
            plain=plain,
            augmented=images(train, strongly_varied),
            augmentation="random resized crop, horizontal flip, RandAugment (2 of magnitude 9), random erasing (25 %)",
            classes=train.labels,
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy with label smoothing 0.1."""
        return cross_entropy(prediction, target, smoothing=0.1)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in percent."""
        return class_scores(batches)

    def sample_metrics(
        self, problem: Problem, inputs: Tensor | None, prediction: Tensor, target: Tensor
    ) -> Mapping[str, Tensor]:
        """Return whether each image is recognized, in per cent."""
        return class_hits(prediction, target)


class _Images:
    """A dataset of PIL images as one of tensors; typed, unlike torchvision's own ``transform``."""

    def __init__(self, dataset: Any, transform: Callable[[Any], Tensor]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        return self.transform(image), label


class Flowers102(ImageSet):
    """Oxford Flowers-102: 1,020 training and 6,149 test images."""

    name = "flowers102"
    summary = "Oxford Flowers-102: 102 species, 1,020 training images."
    citation = "Nilsback and Zisserman, ICVGIP 2008"
    classes, sizes = SPECIES, (1020, 6149)
    folder = "flowers-102"
    layout = "flowers-102/jpg/*.jpg, flowers-102/imagelabels.mat and flowers-102/setid.mat"
    address = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
    archives = (
        ("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    )
    archives_in = folder
    parts = ("jpg", "imagelabels.mat", "setid.mat")

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        labels = _from_mat(part_of(folder, "imagelabels.mat"), "labels").astype(int).tolist()

        def split(name: str) -> Labelled:
            chosen = _from_mat(part_of(folder, "setid.mat"), name).astype(int).tolist()
            if out := [number for number in chosen if not 1 <= number <= len(labels)]:
                raise ValueError(f"setid.mat lists image {out[0]}; imagelabels.mat has the labels of {len(labels)}")
            rows = [(f"image_{number:05d}.jpg", labels[number - 1] - 1) for number in chosen]
            source = f"imagelabels.mat with {name} of setid.mat"
            return listed(part_of(folder, "jpg"), rows, source, SPECIES, len(set(labels)))

        return split("trnid"), split("tstid")


class Food101(ImageSet):
    """Food-101: 75,750 training and 25,250 test images."""

    name = "food101"
    summary = "Food-101: 101 dishes, 750 training images each."
    citation = "Bossard et al., ECCV 2014"
    classes, sizes = 101, (75750, 25250)
    folder = "food-101"
    layout = "food-101/images/CLASS/*.jpg, food-101/meta/train.json and test.json"
    address = "http://data.vision.ee.ethz.ch/cvl"
    archives = (("food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),)
    parts = ("images", "meta/train.json", "meta/test.json")

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        listings = {}
        for name in ("train", "test"):
            with named(part_of(folder, f"meta/{name}.json")) as path:
                listings[name] = json.loads(path.read_text("utf-8"))
        classes = sorted(listings["train"])
        if classes != sorted(listings["test"]):
            raise ValueError("train.json and test.json have different classes")

        def split(name: str) -> Labelled:
            dishes = enumerate(classes)
            rows = [(f"{image}.jpg", label) for label, dish in dishes for image in listings[name][dish]]
            return listed(part_of(folder, "images"), rows, f"{name}.json", self.classes, len(classes))

        return apart(split("train"), split("test"))


class Pets(ImageSet):
    """Oxford-IIIT Pets: 3,680 training and 3,669 test images."""

    name = "pets"
    summary = "Oxford-IIIT Pets: 37 breeds of cats and dogs."
    citation = "Parkhi et al., CVPR 2012"
    classes, sizes = 37, (3680, 3669)
    folder = "oxford-iiit-pet"
    layout = "oxford-iiit-pet/images/*.jpg and oxford-iiit-pet/annotations/trainval.txt and test.txt"
    address = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
    archives = (
        ("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        ("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
    )
    archives_in = folder
    parts = ("images", "annotations/trainval.txt", "annotations/test.txt")

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        def split(name: str) -> Labelled:
            lines = _lines(part_of(folder, f"annotations/{name}"))
            rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
            if short := [" ".join(row) for row in rows if len(row) < 2 or not row[1].isdecimal()]:
                raise ValueError(f"{name} has lines that are not a name and numbers: {short[0][:60]!r}")
            return listed(part_of(folder, "images"), [(f"{r[0]}.jpg", int(r[1]) - 1) for r in rows], name, self.classes)

        return apart(split("trainval.txt"), split("test.txt"))


class Cars(ImageSet):
    """Stanford Cars: 8,144 training and 8,041 test images. The authors' server no longer exists."""

    name = "cars"
    summary = "Stanford Cars: 196 models."
    citation = "Krause et al., 3DRR 2013"
    classes, sizes = 196, (8144, 8041)
    folder = "stanford_cars"
    layout = (
        "stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit/cars_train_annos.mat and "
        "cars_test_annos_withlabels.mat"
    )
    parts = (
        "cars_train",
        "cars_test",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
    )

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        def split(images: str, annotations: str) -> Labelled:
            found = _from_mat(part_of(folder, annotations), "annotations")
            if absent := {"fname", "class"}.difference(found.dtype.names or ()):
                raise ValueError(f"the annotations in {annotations} have no {' and '.join(sorted(absent))}")
            rows = [(str(row["fname"]), int(row["class"]) - 1) for row in found]
            return listed(part_of(folder, images), rows, annotations, self.classes)

        test = split("cars_test", "cars_test_annos_withlabels.mat")
        return split("cars_train", "devkit/cars_train_annos.mat"), test


class ImageNet(ImageSet):
    """ImageNet-1k as folders of images; its images are available only from its authors."""

    name = "imagenet"
    summary = "ImageNet-1k, or 1000 other classes, as folders of images."
    citation = "arXiv:1409.0575"
    classes, sizes = 1000, (1281167, 50000)
    folder = "imagenet"
    layout = "imagenet/train/CLASS/* and imagenet/val/CLASS/*"
    parts = ("train", "val")

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        train, names = classified(part_of(folder, "train"), self.classes)
        test, tested = classified(part_of(folder, "val"), self.classes, names)
        if missing := sorted(set(names).difference(tested)):
            raise ValueError(f"val has no folders of these classes of train: {some(missing)}")
        return train, test


class TinyImageNet(ImageSet):
    """Tiny-ImageNet: 100,000 training images; tested on the validation set, as the test set has no labels."""

    name = "tiny-imagenet"
    summary = "Tiny-ImageNet: 200 classes at 64 x 64."
    citation = "Le and Yang, CS231N 2015"
    defaults = TrainingDefaults(resolutions=(64,), epochs=10, batch_size=64, learning_rate=1e-3, weight_decay=0.05)
    classes, sizes = 200, (100000, 10000)
    crop = 1.0
    folder = "tiny-imagenet-200"
    layout = "tiny-imagenet-200/train/CLASS/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt"
    address = "http://cs231n.stanford.edu"
    archives = (("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),)
    parts = ("train", "val")

    def _open(self, folder: Path) -> tuple[Labelled, Labelled]:
        train, names = classified(part_of(folder, "train"), self.classes)
        val = part_of(folder, "val")
        images, annotations = find(val, "images"), find(val, "val_annotations.txt")
        if images is None or not images_below(images):
            # Many users sort these images into folders of classes, with or without keeping the list.
            return train, classified(val, self.classes, names, besides=images.name if images else None)[0]
        if annotations is None:
            raise ValueError(
                f"{images} is not sorted into classes, and val_annotations.txt, which has them, is missing"
            )
        rows = [line.split("\t")[:2] for line in _lines(annotations) if line.strip()]
        if unknown := [row for row in rows if row[-1] not in names]:
            raise ValueError(f"{annotations.name} has lines without a class of train: {unknown[0]}")
        labelled = [(name, names.index(wnid)) for name, wnid in rows]
        return train, listed(images, labelled, annotations.name, self.classes)


class CIFAR100(ImageSet):
    """CIFAR-100 from its binary files (the others are pickles): 50,000 training and 10,000 test images."""

    name = "cifar100"
    summary = "CIFAR-100: 100 classes at 32 x 32."
    citation = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    defaults = TrainingDefaults(resolutions=(32,), epochs=10, batch_size=64, learning_rate=1e-3, weight_decay=0.05)
    classes, sizes = 100, (50000, 10000)
    crop = 1.0
    folder = "cifar-100-binary"
    layout = "cifar-100-binary/train.bin and test.bin"
    address = "https://www.cs.toronto.edu/~kriz"
    archives = (("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),)
    parts = ("train.bin", "test.bin")

    def _open(self, folder: Path) -> tuple[_Cifar, _Cifar]:
        return _Cifar(part_of(folder, "train.bin")), _Cifar(part_of(folder, "test.bin"))

    def _files(self, split: Any) -> Sequence[Item]:
        return ()


class _Cifar:
    """Records of a coarse and a fine label and 3 x 32 x 32 bytes."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % 3074:
            raise ValueError(f"{path.name} has {len(content)} bytes, which is not a multiple of 3074")
        self.records = content.reshape(-1, 3074)
        if (largest := int(self.records[:, 1].max())) >= CIFAR100.classes:
            raise ValueError(f"{path.name} has an image of class {largest}; there are {CIFAR100.classes}, from 0")
        self.labels = self.records[:, 1].tolist()
        self.classes = len(np.unique(self.records[:, 1]))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        record = self.records[index]
        return Image.fromarray(record[2:].reshape(3, 32, 32).transpose(1, 2, 0)), int(record[1])


def _from_mat(path: Path, name: str) -> Any:
    """Return an array of one axis from a .mat file."""
    from scipy.io import loadmat

    with named(path):
        return loadmat(path, squeeze_me=True)[name].reshape(-1)


def _lines(path: Path) -> list[str]:
    with named(path):
        return path.read_text("utf-8-sig").splitlines()
