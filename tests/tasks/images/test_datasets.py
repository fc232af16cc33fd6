"""Small sets in the layouts and archives of the real ones, served from here, through the same code."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets as readers

from attn_bench.plugin import DataError, OptionError, PrepareContext
from attn_bench.tasks.images.ade20k import ADE20K
from attn_bench.tasks.images.datasets import CIFAR100, Cars, Flowers102, Food101, ImageNet, Pets, TinyImageNet
from attn_bench.tasks.shared.fetch import fetch, unpack


def jpeg(shade, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def mat(**values):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values)
    return buffer.getvalue()


def annotations(count):
    fields = ["bbox_x1", "class", "fname"]
    rows = [(1, i + 1, f"{i:05d}.jpg") for i in range(count)]
    return np.array([rows], dtype=[(name, object) for name in fields])


def flowers():
    files = {f"jpg/image_{i:05d}.jpg": jpeg(10 * i) for i in range(1, 6)}
    labels = mat(labels=np.array([[1, 2, 102, 2, 3]]))
    sets = mat(trnid=np.array([[1, 3]]), valid=np.array([[2]]), tstid=np.array([[4, 5]]))
    return files, {"imagelabels.mat": labels, "setid.mat": sets}


FOOD = {
    "food-101/images/apple_pie/1.jpg": jpeg(10),
    "food-101/images/waffles/2.jpg": jpeg(20),
    "food-101/images/waffles/3.jpg": jpeg(30),
    "food-101/meta/train.json": json.dumps({"apple_pie": ["apple_pie/1"], "waffles": ["waffles/2"]}).encode(),
    "food-101/meta/test.json": json.dumps({"apple_pie": [], "waffles": ["waffles/3"]}).encode(),
}
PETS_IMAGES = {f"images/{name}.jpg": jpeg(10) for name in ("Abyssinian_1", "beagle_2", "beagle_3", "Abyssinian_4")}
PETS_LISTS = {
    "annotations/trainval.txt": b"Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n",
    "annotations/test.txt": b"beagle_3 2 2 1\nAbyssinian_4 1 1 1\n",
}
CARS = {
    "stanford_cars/devkit/cars_train_annos.mat": mat(annotations=annotations(2)),
    "stanford_cars/devkit/cars_meta.mat": mat(class_names=np.array([["A", "B"]], dtype=object)),
    "stanford_cars/cars_test_annos_withlabels.mat": mat(annotations=annotations(2)),
    **{f"stanford_cars/cars_{part}/{i:05d}.jpg": jpeg(i) for part in ("train", "test") for i in range(2)},
}
FOLDERS = {f"imagenet/{part}/{name}/a.JPEG": jpeg(9) for part in ("train", "val") for name in ("n01", "n02")}
TINY = {
    **{f"tiny-imagenet-200/train/{name}/images/{name}_0.JPEG": jpeg(9, (64, 64)) for name in ("n01", "n02")},
    **{f"tiny-imagenet-200/val/images/val_{i}.JPEG": jpeg(9, (64, 64)) for i in range(2)},
    "tiny-imagenet-200/val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t62\t62\nval_1.JPEG\tn01\t0\t0\t62\t62\n",
}


def cifar(count):
    records = np.arange(count * 3074).astype(np.uint8).reshape(count, 3074)
    records[:, 1] = range(count)
    return records


CIFAR = {f"cifar-100-binary/{n}.bin": cifar(k).tobytes() for n, k in (("train", 3), ("test", 3))}


def scene(name, label):
    buffer = io.BytesIO()
    Image.new("L", (40, 30), label).save(buffer, "PNG")
    return {f"images/{name}.jpg": jpeg(10), f"annotations/{name}.png": buffer.getvalue()}


SCENES = {
    f"ADEChallengeData2016/{name}": content
    for name, content in {
        **scene("training/ADE_train_00000001", 1),
        **scene("training/ADE_train_00000002", 150),
        **scene("validation/ADE_val_00000001", 3),
        "objectInfo150.txt": b"Idx\tRatio\tTrain\tVal\tName\n" + b"".join(b"%d\t0\t0\t0\tx\n" % i for i in range(150)),
        "sceneCategories.txt": b"ADE_train_00000001 airport_terminal\n",
    }.items()
}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def tgz(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def offered(monkeypatch, server, task, files):
    """Let the server have ``files`` in the place of the real archives, and the task and torchvision expect them."""
    server.files = files
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(task, "address", server.address)
    monkeypatch.setattr(task, "archives", tuple(sums.items()))
    if task is Flowers102:
        expected = {"label": "imagelabels.mat", "setid": "setid.mat"}
        table = {key: (name, sums[name]) for key, name in expected.items()}
        monkeypatch.setattr(readers.Flowers102, "_file_dict", table)


def flowers_archives():
    files, mats = flowers()
    return {"102flowers.tgz": tgz(files), **mats}


DOWNLOADS = [
    (Flowers102, flowers_archives, [0, 101], [1, 2]),
    (Food101, lambda: {"food-101.tar.gz": tgz({**FOOD, "._food-101": b"of the author's desktop"})}, [0, 1], [1]),
    (Pets, lambda: {"images.tar.gz": tgz(PETS_IMAGES), "annotations.tar.gz": tgz(PETS_LISTS)}, [0, 1], [1, 0]),
    (CIFAR100, lambda: {"cifar-100-binary.tar.gz": tgz(CIFAR)}, [0, 1, 2], [0, 1, 2]),
    (TinyImageNet, lambda: {"tiny-imagenet-200.zip": zipped(TINY)}, [0, 1], [1, 0]),
    (ADE20K, lambda: {"ADEChallengeData2016.zip": zipped(SCENES)}, [0, 149], [2]),
]


def labels(dataset):
    """Return the class of each image; of a scene the one that all its points have."""
    return [int(torch.as_tensor(dataset[i][1]).unique()) for i in range(len(dataset))]


@pytest.mark.parametrize(("task", "archives", "train", "test"), DOWNLOADS)
def test_downloaded_sets(monkeypatch, tmp_path, server, task, archives, train, test):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    offered(monkeypatch, server, task, archives())
    described = task().prepare((32,), task.options(), PrepareContext())
    assert [file.samples for file in described.files] == [len(train), len(test)]
    requests = len(server.ranges)
    task().prepare((32,), task.options(), PrepareContext())
    assert len(server.ranges) == requests
    splits = task().splits(32, task.options())
    assert labels(splits.train) == train
    assert labels(splits.test) == test
    assert splits.train[0][0].shape == (3, 32, 32)
    assert task().problem(32, task.options()).outputs == task.classes
    assert {path.name for path in (tmp_path / task.name).iterdir()} == {task.folder, *server.files}


@pytest.mark.parametrize(("task", "archives"), [row[:2] for row in DOWNLOADS])
def test_damaged_archives_are_refused(monkeypatch, tmp_path, server, task, archives):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    offered(monkeypatch, server, task, archives())
    server.files = {name: content + b"?" for name, content in server.files.items()}
    with pytest.raises(DataError, match=r"has md5 [0-9a-f]{32}, but [0-9a-f]{32} is expected"):
        task().prepare((32,), task.options(), PrepareContext())
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(("task", "archives"), [row[:2] for row in DOWNLOADS])
def test_interrupted_downloads_of_sets_go_on(monkeypatch, tmp_path, server, task, archives):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    offered(monkeypatch, server, task, archives())
    server.cut = 50
    with pytest.raises(DataError, match=r"stopped after 50 .*rerun the same command to resume"):
        task().prepare((32,), task.options(), PrepareContext())
    assert task().prepare((32,), task.options(), PrepareContext()).files[0].samples > 1
    assert server.ranges == [None, "bytes=50-", *[None] * (len(server.files) - 1)]


ON_DISK = [(Cars, CARS, [0, 1], [0, 1]), (ImageNet, FOLDERS, [0, 1], [0, 1])]
CLASSES = {Flowers102: 4, CIFAR100: 3, ADE20K: 150}


@pytest.mark.parametrize(("task", "files", "train", "test"), [*DOWNLOADS, *ON_DISK])
def test_partial_sets_are_flagged(monkeypatch, tmp_path, server, task, files, train, test):
    root, sizes, classes = str(tmp_path / task.name), (len(train), len(test)), CLASSES.get(task, 2)
    if callable(files):
        monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
        offered(monkeypatch, server, task, files())
        task().prepare((32,), task.options(), PrepareContext())
    else:
        write(tmp_path / task.name, files)
    described = task().prepare((32,), task.options(root=root), PrepareContext())
    found = f"only a part of {task.name}: {sizes[0]} of {task.sizes[0]} training and {sizes[1]} of {task.sizes[1]} test"
    (warning,) = described.warnings
    assert found in warning
    assert "\n" not in warning
    identity = {"source": task.name, "n_train": sizes[0], "n_test": sizes[1]}
    assert task().splits(32, task.options(root=root)).identity == identity | {"complete": False}

    monkeypatch.setattr(task, "sizes", sizes)
    monkeypatch.setattr(task, "classes", classes)
    assert task().splits(32, task.options(root=root)).identity == identity | {"complete": True}
    assert not task().prepare((32,), task.options(root=root), PrepareContext()).warnings

    monkeypatch.setattr(task, "classes", classes + 1)
    with pytest.raises(DataError, match=f"{classes} classes of training images instead of {classes + 1}"):
        task().splits(32, task.options(root=root))
    monkeypatch.setattr(task, "sizes", (sizes[0], sizes[1] + 1))
    with pytest.raises(DataError, match=f"{sizes[1]} test images instead of {sizes[1] + 1}"):
        task().splits(32, task.options(root=root))


@pytest.mark.parametrize(("task", "files", "train", "test"), ON_DISK)
def test_sets_that_are_on_disk(tmp_path, task, files, train, test):
    write(tmp_path, files)
    splits = task().splits(24, task.options(root=str(tmp_path)))
    assert labels(splits.train) == train
    assert labels(splits.test) == test
    assert splits.test[0][0].shape == (3, 24, 24)


@pytest.mark.parametrize("task", [row[0] for row in (*DOWNLOADS, *ON_DISK)])
def test_a_folder_of_the_users_is_read_and_never_written(tmp_path, server, task):
    for root in (tmp_path / "there", tmp_path / "not-there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=rf"{root.name} does not contain {task.name}\. Put {task.folder}/"):
            task().prepare((32,), task.options(root=str(root)), PrepareContext())
    with pytest.raises(OptionError, match=f"{task.name}.root is a read-only folder; --refresh cannot be used with it"):
        task().prepare((32,), task.options(root=str(tmp_path / "there")), PrepareContext(refresh=True))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("task", [Cars, ImageNet])
def test_sets_that_cannot_be_downloaded_say_which_files_are_needed(monkeypatch, tmp_path, task):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=rf"cannot be downloaded automatically\. Put {task.folder}/.* --set {task.name}.root"
    ):
        task().prepare((32,), task.options(), PrepareContext())
    with pytest.raises(DataError, match=f"does not contain {task.name}"):
        task().splits(32, task.options(root=str(tmp_path)))


def test_a_broken_set_is_one_line(tmp_path):
    write(tmp_path, {"cifar-100-binary/train.bin": b"x" * 100, "cifar-100-binary/test.bin": b""})
    with pytest.raises(DataError, match=r"is not cifar100 as published .*not a multiple of 3074") as error:
        CIFAR100().splits(32, CIFAR100.options(root=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_test_images_are_normalized_center_crops(tmp_path):
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[20:40, 30:50] = 255
    for part in ("train", "val"):
        path = tmp_path / "imagenet" / part / "n01" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    splits = ImageNet().splits(32, ImageNet.options(root=str(tmp_path)))
    image, _ = splits.test[0]
    # For a probe training images are cut like those, though training cuts them at random.
    assert torch.equal(splits.plain[0][0], image)
    assert not all(torch.equal(splits.train[0][0], image) for _ in range(5))
    unvaried = ImageNet().splits(32, ImageNet.options(root=str(tmp_path), augment=False))
    assert torch.equal(unvaried.train[0][0], image)
    assert unvaried.augmentation == "none"
    shown = image * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) + torch.tensor([0.485, 0.456, 0.406]).view(
        3, 1, 1
    )
    assert shown[:, 16, 16] == pytest.approx(1, abs=0.01)
    assert shown[:, 0, 0] == pytest.approx(0, abs=0.01)
    # 20 of 60 rows, where 60 rows become 37 and 32 are left.
    assert float(shown.mean() * 32**2) ** 0.5 == pytest.approx(20 * 37 / 60, abs=1)


def test_small_images_are_tested_on_as_they_are(tmp_path):
    write(tmp_path, CIFAR)
    write(tmp_path, TINY)
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in CIFAR100().problem(32, CIFAR100.options()).normalised
    )
    image, _ = CIFAR100().splits(32, CIFAR100.options(root=str(tmp_path))).test[1]
    pixels = torch.from_numpy(cifar(3)[1, 2:]).view(3, 32, 32) / 255
    torch.testing.assert_close(image, (pixels - mean) / deviation)
    assert CIFAR100().splits(64, CIFAR100.options(root=str(tmp_path))).test[0][0].shape == (3, 64, 64)
    assert TinyImageNet().splits(64, TinyImageNet.options(root=str(tmp_path))).test[0][0].shape == (3, 64, 64)


def test_fine_tuning_augments_more_and_draws_only_from_torch(tmp_path):
    write(tmp_path, FOLDERS)
    splits = ImageNet().splits(32, ImageNet.options(root=str(tmp_path)))

    def drawn(dataset):
        torch.manual_seed(0)
        return torch.stack([dataset[i % 2][0] for i in range(40)])

    train, augmented = drawn(splits.train), drawn(splits.augmented)
    # Images of one color stay so when they are cut and mirrored, but not when parts of them are erased.
    assert (train.amax((2, 3)) == train.amin((2, 3))).all()
    erased = (augmented == 0).any(1).flatten(1).float().mean(1) > 0.01
    assert 2 <= erased.sum() <= 20
    assert len({round(float(image[0].max()), 3) for image in augmented}) > 5, "of one brightness"
    assert torch.equal(drawn(splits.augmented), augmented)
    assert "RandAugment" in splits.augmentation
    assert ImageNet().splits(32, ImageNet.options(root=str(tmp_path), augment=False)).augmented is None


def test_a_download_resumes_where_it_stopped(tmp_path, server):
    content = bytes(range(256)) * 20
    server.files = {"a.tgz": content}
    server.cut = 1000
    url, path, md5 = f"{server.address}/a.tgz", tmp_path / "a.tgz", hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match=r"stopped after 1000 (of 5120 )?bytes.*rerun the same command to resume"):
        fetch(url, path, md5, lambda done, total: None, "Without a network: no.")
    assert not path.exists()
    progress = []
    fetch(url, path, md5, lambda done, total: progress.append((done, total)), "")
    assert server.ranges == [None, "bytes=1000-"]
    assert progress[-1] == (5120, 5120)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.tgz"]


def test_a_server_that_sends_the_whole_file_again_does_no_damage(tmp_path, server):
    content = bytes(range(256)) * 20
    server.files, server.cut, server.in_part = {"a.tgz": content}, 1000, False
    url, path, md5 = f"{server.address}/a.tgz", tmp_path / "a.tgz", hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match="rerun the same command to resume"):
        fetch(url, path, md5, lambda done, total: None, "")
    progress = []
    fetch(url, path, md5, lambda done, total: progress.append((done, total)), "")
    assert server.ranges == [None, "bytes=1000-"]
    assert progress[-1] == (5120, 5120)
    assert path.read_bytes() == content


def test_a_wrong_checksum_is_named_and_nothing_stays(tmp_path, server):
    server.files = {"a.tgz": b"other"}
    with pytest.raises(DataError, match=r"has md5 [0-9a-f]{32}, but abc is expected; try again"):
        fetch(f"{server.address}/a.tgz", tmp_path / "a.tgz", "abc", lambda done, total: None, "")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(tmp_path):
    with pytest.raises(DataError, match=r"stopped after 0 bytes .* Put food-101/"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", "abc", lambda done, total: None, Food101()._instead())


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
@pytest.mark.parametrize(("file", "made"), [("a.tgz", tgz), ("a.zip", zipped)])
def test_archives_cannot_leave_their_folder(tmp_path, file, made, name):
    archive = tmp_path / file
    archive.write_bytes(made({"inside": b"", name: b"out"}))
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "deep" / "folder")
    assert not list(tmp_path.rglob("outside"))
    assert not list(tmp_path.rglob("inside"))


def test_an_archive_that_does_not_decompress_is_one_line(tmp_path):
    digits = np.random.default_rng(0).integers(48, 58, size=(2, 40_000), dtype=np.uint8)
    content = bytearray(tgz({"a": digits[0].tobytes(), "b": digits[1].tobytes()}))
    content[10_000:10_500] = bytes([0b10101010] * 500)
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tgz", tmp_path / "folder")


def test_links_out_of_the_folder_are_refused(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "folder")


def test_images_too_small_are_refused():
    with pytest.raises(OptionError, match=">= 16"):
        Food101().problem(8, Food101.options())
