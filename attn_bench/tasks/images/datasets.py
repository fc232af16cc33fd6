"""The public image classification sets, from the files in which their authors publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from attn_bench.plugin import Splits, TrainingDefaults
from attn_bench.tasks.images.published import CROP, DEVIATION, MEAN, PublishedSet
from attn_bench.tasks.images.scores import CLASS_METRICS, class_scores, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


class ImageSet(PublishedSet):
    """A public set of images, each of one class.

    Attributes:
        crop: share of a test image's shorter side that is left of it.
    """

    kind = "image"
    metrics = CLASS_METRICS
    protocol = (
        "Top-1 on the official test split, of the official training split alone; a linear probe or fine-tuning of a "
        "pretrained network. Of flowers102 and pets the mean over classes is published as well (arXiv:1805.08974)."
    )
    defaults = TrainingDefaults(resolutions=(224,), epochs=10, batch_size=32, learning_rate=1e-3, weight_decay=0.05)
    crop: ClassVar[float] = CROP

    def splits(self, resolution: int, *, root: str | None = None, augment: bool = True) -> Splits:
        """Return the official splits; an image is read when it is asked for.

        Test images are resized so that their shorter side is resolution / 0.875 and cut to the centre, or not cut
        in cifar100 and tiny-imagenet; channels are normalised by the mean and deviation of ImageNet.

        Args:
            root: folder that holds the set in its published layout; nothing is written there. Where unset, a folder
                in the cache that the set is downloaded to.
            augment: cut training images at random places and sizes, and mirror half of them; in fine-tuning change
                them by RandAugment (arXiv:1909.13719) and random erasing (arXiv:1708.04896) too.
        """
        from torchvision import transforms

        self.problem(resolution)
        tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        centre = [transforms.Resize(round(resolution / self.crop)), transforms.CenterCrop(resolution), *tensor]
        cut = [transforms.RandomResizedCrop(resolution), transforms.RandomHorizontalFlip()]
        # What DeiT is trained with (arXiv:2012.12877, table 9). torchvision's, which draw from torch's generator alone.
        strongly_varied = [*cut, transforms.RandAugment(2, 9), *tensor, transforms.RandomErasing(0.25)]
        train, test, identity = self.opened(root)

        def images(dataset: Any, steps: list[Any]) -> Dataset[tuple[Tensor, Tensor]]:
            return cast("Dataset[tuple[Tensor, Tensor]]", _Images(dataset, transforms.Compose(steps)))

        plain, test_images = images(train, centre), images(test, centre)
        if not augment:
            return Splits(plain, test_images, identity)
        return Splits(
            images(train, [*cut, *tensor]),
            test_images,
            identity,
            plain=plain,
            augmented=images(train, strongly_varied),
            augmentation="random resized crop, horizontal flip, RandAugment (2 of magnitude 9), random erasing (25 %)",
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy with label smoothing 0.1."""
        return cross_entropy(prediction, target, smoothing=0.1)

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in per cent."""
        return class_scores(batches)


class _Images:
    """A dataset of PIL images as one of tensors, which torchvision's own ``transform`` would do without being typed."""

    def __init__(self, dataset: Any, transform: Callable[[Any], Tensor]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        return self.transform(image.convert("RGB")), label


class Flowers102(ImageSet):
    """Oxford Flowers-102: 1,020 training images, 6,149 to test on."""

    name = "flowers102"
    summary = "Oxford Flowers-102: 102 species, 1,020 training images."
    citation = "Nilsback and Zisserman, ICVGIP 2008"
    classes, sizes = 102, (1020, 6149)
    folder = "flowers-102"
    layout = "flowers-102/jpg/*.jpg, flowers-102/imagelabels.mat and flowers-102/setid.mat"
    address = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
    archives = (
        ("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    )
    archives_in = folder

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import Flowers102 as Reader

        return Reader(root, "train"), Reader(root, "test")

    def _count_classes(self, root: Path, split: Any) -> int:
        # torchvision's ``classes`` are a list of its own, whatever the files say.
        from scipy.io import loadmat

        return len(set(loadmat(root / self.folder / "imagelabels.mat")["labels"].ravel().tolist()))


class Food101(ImageSet):
    """Food-101: 75,750 training images, 25,250 to test on."""

    name = "food101"
    summary = "Food-101: 101 dishes, 750 training images each."
    citation = "Bossard et al., ECCV 2014"
    classes, sizes = 101, (75750, 25250)
    folder = "food-101"
    layout = "food-101/images/CLASS/*.jpg, food-101/meta/train.json and test.json"
    address = "http://data.vision.ee.ethz.ch/cvl"
    archives = (("food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),)

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import Food101 as Reader

        return Reader(root, "train"), Reader(root, "test")


class Pets(ImageSet):
    """Oxford-IIIT Pets: 3,680 training images, 3,669 to test on."""

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

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import OxfordIIITPet as Reader

        return Reader(root, "trainval"), Reader(root, "test")


class Cars(ImageSet):
    """Stanford Cars: 8,144 training images, 8,041 to test on. Its authors' server is gone."""

    name = "cars"
    summary = "Stanford Cars: 196 models."
    citation = "Krause et al., 3DRR 2013"
    classes, sizes = 196, (8144, 8041)
    folder = "stanford_cars"
    layout = (
        "stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit/cars_train_annos.mat, devkit/cars_meta.mat and "
        "cars_test_annos_withlabels.mat"
    )

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import StanfordCars as Reader

        return Reader(root, "train"), Reader(root, "test")


class ImageNet(ImageSet):
    """ImageNet-1k as folders of images; its images may only be had from its authors."""

    name = "imagenet"
    summary = "ImageNet-1k, or any other 1000 classes, as folders of images."
    citation = "arXiv:1409.0575"
    classes, sizes = 1000, (1281167, 50000)
    folder = "imagenet"
    layout = "imagenet/train/CLASS/* and imagenet/val/CLASS/*"

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import ImageFolder

        train, test = (ImageFolder(str(root / self.folder / part)) for part in ("train", "val"))
        if train.classes != test.classes:
            raise ValueError("train and val have other folders of classes")
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

    def _open(self, root: Path) -> tuple[Any, Any]:
        from torchvision.datasets import ImageFolder
        from torchvision.datasets.folder import default_loader

        train = ImageFolder(str(root / self.folder / "train"))
        val = root / self.folder / "val"
        rows = [line.split("\t")[:2] for line in (val / "val_annotations.txt").read_text().splitlines() if line]
        labelled = [(val / "images" / name, train.class_to_idx[wnid]) for name, wnid in rows]
        return train, _Labelled(labelled, default_loader)


class _Labelled:
    """Images from a list of paths and classes."""

    def __init__(self, labelled: Sequence[tuple[Path, int]], load: Callable[[str], Any]) -> None:
        self.labelled, self.load = labelled, load
        self.classes = sorted({label for _, label in labelled})

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.labelled[index]
        return self.load(str(path)), label


class CIFAR100(ImageSet):
    """CIFAR-100 from its binary files (the others are pickles): 50,000 training images, 10,000 to test on."""

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

    def _open(self, root: Path) -> tuple[Any, Any]:
        return _Cifar(root / self.folder / "train.bin"), _Cifar(root / self.folder / "test.bin")


class _Cifar:
    """Records of a coarse and a fine label and 3 x 32 x 32 bytes."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % 3074:
            raise ValueError(f"{path.name} has {len(content)} bytes, no multiple of 3074")
        self.records = content.reshape(-1, 3074)
        self.classes = np.unique(self.records[:, 1])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        record = self.records[index]
        return Image.fromarray(record[2:].reshape(3, 32, 32).transpose(1, 2, 0)), int(record[1])
