"""Files as people have them: clutter is ignored, what cannot be read is refused by name, before anything is trained."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from test_datasets import (
    CARS,
    CIFAR,
    FOLDERS,
    FOOD,
    PETS_IMAGES,
    PETS_LISTS,
    TINY,
    flowers,
    jpeg,
    mat,
    write,
)
from test_datasets import SCENES as SCENE_FILES

from attn_bench.plugin import DataError, PrepareContext
from attn_bench.tasks.images import file_checks
from attn_bench.tasks.images.ade20k import ADE20K
from attn_bench.tasks.images.datasets import CIFAR100, Cars, Flowers102, Food101, ImageNet, Pets, TinyImageNet
from attn_bench.tasks.images.digits import Digits
from attn_bench.tasks.images.pathfinder import Pathfinder
from attn_bench.tasks.images.reading import fault, read_rgb

RAMP = np.linspace(0, 255, 40 * 30).reshape(30, 40)
PETS = {f"oxford-iiit-pet/{name}": content for name, content in {**PETS_IMAGES, **PETS_LISTS}.items()}


def flowers_files(monkeypatch):
    """Return Flowers-102 with other .mat files, and let the task expect those."""
    import hashlib

    images, mats = flowers()
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in mats.items()]
    monkeypatch.setattr(Flowers102, "archives", [("102flowers.tgz", "-"), *sums])
    return {f"flowers-102/{name}": content for name, content in {**images, **mats}.items()}


def refused(task, root, match, **options):
    """See one line that names what is wrong, by the command that prepares data and before training."""
    for ask in (
        lambda: task().prepare((32,), task.options(root=str(root)), PrepareContext()),
        lambda: task().splits(32, task.options(root=str(root))),
    ):
        with pytest.raises(DataError, match=match) as error:
            ask()
        assert "\n" not in str(error.value)
        assert not re.search("download=True|Put", str(error.value)), "what is there is asked for"


def labels(dataset):
    return [int(torch.as_tensor(dataset[i][1])) for i in range(len(dataset))]


# What an image file may hold.


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", np.uint16(RAMP * 257)),
        ("a.tif", np.uint16(RAMP * 257)),
        ("a.tif", (RAMP * 257).astype(">u2")),
        ("a.pgm", np.uint16(RAMP * 257)),
        ("a.tif", np.int32(RAMP * 257)),
        ("a.tif", np.float32(RAMP / 255)),
        ("a.png", np.uint8(RAMP)),
    ],
    ids=["png16", "tiff16", "tiff16-big-endian", "pgm16", "tiff32", "tiff-float", "png8"],
)
def test_shades_of_gray_are_scaled_by_their_range(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    read = np.asarray(read_rgb(tmp_path / name)).astype(float)
    assert read.shape == (30, 40, 3)
    assert np.abs(read - RAMP[..., None]).max() <= 1
    assert fault(tmp_path / name, whole=False) is None


@pytest.mark.parametrize("values", [np.float32([[0, 7.5]]), np.float32([[0, np.nan]]), np.int32([[-4, 9]])])
def test_shades_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif cannot be read \(its shades are between .* 8 or 16 bits"):
        read_rgb(tmp_path / "a.tif")
    assert "shades" in fault(tmp_path / "a.tif", whole=False)


COLOUR = np.array((200, 30, 90))


def made(mode, kind, **options):
    image = Image.new("RGB", (40, 30), tuple(COLOUR))
    if mode == "P":
        image = image.quantize(4)
    elif mode == "RGBA":
        image.putalpha(Image.new("L", image.size, 7))
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        made("CMYK", "JPEG"),
        made("P", "PNG", transparency=bytes([0, 9, 255, 3])),
        made("RGBA", "PNG"),
        made("RGB", "WEBP", lossless=True),
        made("RGB", "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
        made("RGB", "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ],
    ids=["cmyk", "palette", "alpha", "webp", "animated", "exif"],
)
def test_other_modes_are_read_like_torchvision_without_warnings(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_rgb(tmp_path / "a.jpg")
    assert image.size == (40, 30), "EXIF orientation is not applied"
    assert np.abs(np.asarray(image).astype(int) - COLOUR).max() <= 6
    assert fault(tmp_path / "a.jpg", whole=True) is None


def test_pillow_says_nothing_of_odd_files(tmp_path, capfd, caplog):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "TIFF")
    content = buffer.getvalue().replace(b"\x15\1\3\0\1\0\0\0\3\0", b"\x15\1\3\0\1\0\0\0\3\7")
    assert content != buffer.getvalue()
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif cannot be read"):
        read_rgb(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


def test_two_shades_and_gray_with_alpha(tmp_path):
    Image.fromarray(RAMP > 127).save(tmp_path / "a.png")
    assert set(np.unique(read_rgb(tmp_path / "a.png"))) == {0, 255}
    Image.new("LA", (4, 4), (77, 3)).save(tmp_path / "b.png")
    assert set(np.unique(read_rgb(tmp_path / "b.png"))) == {77}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_files_cut_short_are_found_without_decoding_all(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(noise).save(path, kind)
    for whole in (True, False):
        assert fault(path, whole=whole) is None
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for whole in (True, False):
            assert fault(path, whole=whole) is not None
    with pytest.raises(DataError, match=f"a.{kind} cannot be read"):
        read_rgb(path)


def test_reasons(tmp_path):
    (tmp_path / "text.jpg").write_text("<html>Not found</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("L", (5000, 2)).save(tmp_path / "narrow.png")
    for name, reason in {
        "text.jpg": "it is not an image",
        "empty.jpg": "it is empty",
        "folder.jpg": "it is not a file",
        "link.jpg": "it is a link to a missing file",
        "none.jpg": "it does not exist",
        "pipe.jpg": "it is not a file",
        "program.jpg": "it is not an image",
        "narrow.png": "it has 5000 x 2 points, which is too narrow",
    }.items():
        assert fault(tmp_path / name, whole=False) == reason


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    (tmp_path / "a.jpg").write_bytes(jpeg(9))
    assert "exceeds limit" in fault(tmp_path / "a.jpg", whole=False)


# Folders as they are found.


def test_clutter_is_ignored(tmp_path):
    write(tmp_path, FOLDERS)
    write(tmp_path, TINY)
    before = [
        ImageNet().splits(32, ImageNet.options(root=str(tmp_path))),
        TinyImageNet().splits(32, TinyImageNet.options(root=str(tmp_path))),
    ]
    for part in ("imagenet/train", "imagenet/val", "tiny-imagenet-200/train"):
        for name in (".ipynb_checkpoints/a.JPEG", "__MACOSX/a.JPEG", ".DS_Store", "Thumbs.db", "._n01", "@eaDir/b.png"):
            write(tmp_path / part, {name: jpeg(1)})
        for name in ("n01/._a.JPEG", "n01/.ipynb_checkpoints/a.JPEG", "n02/Thumbs.db", "n02/notes.txt"):
            write(tmp_path / part, {name: b"\0\5\x16\7"})
    write(tmp_path / "tiny-imagenet-200/val", {"images/._val_0.JPEG": b"", "._val_annotations.txt": b""})
    after = [
        ImageNet().splits(32, ImageNet.options(root=str(tmp_path))),
        TinyImageNet().splits(32, TinyImageNet.options(root=str(tmp_path))),
    ]
    for old, new in zip(before, after, strict=True):
        assert labels(new.train) == labels(old.train) == [0, 1]
        assert labels(new.test) == labels(old.test)


def test_clutter_beside_scenes_is_ignored(tmp_path):
    write(tmp_path, SCENE_FILES)
    folder = "ADEChallengeData2016"
    write(tmp_path, {f"{folder}/images/training/._ADE_train_00000001.jpg": b"x"})
    write(tmp_path, {f"{folder}/annotations/training/.ipynb_checkpoints/a.png": b"x"})
    assert len(ADE20K().splits(32, ADE20K.options(root=str(tmp_path))).train) == 2


@pytest.mark.parametrize("below", ["CLASS", "CLASS/images"])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_validation_images_may_be_sorted_into_classes(tmp_path, below, listed, left):
    write(tmp_path, TINY)
    val = tmp_path / "tiny-imagenet-200/val"
    for image, wnid in (("val_0.JPEG", "n02"), ("val_1.JPEG", "n01")):
        folder = val / below.replace("CLASS", wnid)
        folder.mkdir(parents=True)
        (val / "images" / image).rename(folder / image)
    if not listed:
        (val / "val_annotations.txt").unlink()
    if not left:
        (val / "images").rmdir()
    splits = TinyImageNet().splits(32, TinyImageNet.options(root=str(tmp_path)))
    assert labels(splits.test) == [0, 1]
    (val / "n01").rename(val / "n77")
    refused(TinyImageNet, tmp_path, r"folders that are not classes of the training images: n77")


def test_unsorted_images_without_their_list_are_refused(tmp_path):
    write(tmp_path, TINY)
    (tmp_path / "tiny-imagenet-200/val/val_annotations.txt").unlink()
    refused(TinyImageNet, tmp_path, r"not sorted into classes, and val_annotations\.txt, which has them, is missing")


@pytest.mark.parametrize("nesting", ["tiny-imagenet-200", "tiny-imagenet-200/tiny-imagenet-200", "."])
def test_the_folder_itself_or_one_in_another_is_found(tmp_path, nesting):
    write(tmp_path / "made", TINY)
    (tmp_path / "root" / nesting).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tmp_path / "made/tiny-imagenet-200", tmp_path / "root" / nesting, dirs_exist_ok=True)
    root = tmp_path / "root"
    assert labels(TinyImageNet().splits(32, TinyImageNet.options(root=str(root))).test) == [1, 0]
    described = TinyImageNet().prepare((32,), TinyImageNet.options(root=str(root)), PrepareContext())
    assert described.files[0].path == root / nesting


def test_links_upper_case_and_other_alphabets(tmp_path):
    write(tmp_path / "elsewhere", {"häuser/ñ.JPG": jpeg(9), "n02/deep/er/b.Jpeg": jpeg(9)})
    for part in ("Train", "VAL"):
        (tmp_path / "imagenet" / part).mkdir(parents=True)
        (tmp_path / "imagenet" / part / "häuser").symlink_to(tmp_path / "elsewhere/häuser")
        (tmp_path / "imagenet" / part / "n02").symlink_to(tmp_path / "elsewhere/n02")
    (tmp_path / "elsewhere/n02/deep/er/round").symlink_to(tmp_path / "elsewhere/n02")
    (tmp_path / "elsewhere/n02/self.jpg").symlink_to("self.jpg")
    refused(ImageNet, tmp_path, r"2 of 6 images of imagenet cannot be read, the first: .*self\.jpg")
    (tmp_path / "elsewhere/n02/self.jpg").unlink()
    splits = ImageNet().splits(32, ImageNet.options(root=str(tmp_path)))
    assert labels(splits.train) == labels(splits.test) == [0, 1]


def test_listed_names_are_found_in_upper_case(tmp_path):
    write(tmp_path, {name.replace(".jpg", ".JPG"): content for name, content in PETS.items()})
    assert len(Pets().splits(32, Pets.options(root=str(tmp_path))).train) == 2


# What is refused, with its name.


def test_unreadable_images_are_counted_and_the_first_is_named(tmp_path):
    write(tmp_path, CARS)
    (tmp_path / "stanford_cars/cars_train/00001.jpg").write_bytes(jpeg(9)[:-60])
    (tmp_path / "stanford_cars/cars_test/00000.jpg").unlink()
    (tmp_path / "stanford_cars/cars_test/00001.jpg").write_text("text")
    refused(Cars, tmp_path, r"3 of 4 images of cars cannot be read, the first: \S*cars_train/00001\.jpg \(.*runcated")


def test_large_sets_are_not_decoded_and_still_found_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(file_checks, "DECODED_BYTES", 0)
    write(tmp_path, TINY)
    images = tmp_path / "tiny-imagenet-200/train/n01/images"
    (images / "n01_0.JPEG").write_bytes(jpeg(9)[:-60])
    refused(TinyImageNet, tmp_path, r"1 of 4 images .*n01_0\.JPEG")


def test_files_are_looked_at_once_until_one_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    write(tmp_path, PETS)
    seen = []
    monkeypatch.setattr(Pets, "_fault", lambda self, *files, whole: seen.append(files) or fault(*files, whole=whole))
    done = []
    Pets().prepare((32,), Pets.options(root=str(tmp_path)), PrepareContext(lambda *progress: done.append(progress)))
    assert len(seen) == 4
    assert done == [(4, 4)]
    Pets().prepare((32,), Pets.options(root=str(tmp_path)), PrepareContext())
    Pets().splits(32, Pets.options(root=str(tmp_path)))
    assert len(seen) == 4
    path = tmp_path / "oxford-iiit-pet/images/beagle_3.jpg"
    times = path.stat()
    path.write_bytes(b"x" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused(Pets, tmp_path, r"1 of 4 images of pets .*beagle_3\.jpg")
    path.write_bytes(jpeg(10))
    for kept in (tmp_path / "cache/checked").iterdir():
        kept.write_text("{")
    Pets().prepare((32,), Pets.options(root=str(tmp_path)), PrepareContext())


def test_without_a_cache_the_files_are_looked_at_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "file"))
    write(tmp_path, PETS)
    assert len(Pets().splits(32, Pets.options(root=str(tmp_path))).train) == 2


def test_empty_folders_of_classes_are_named(tmp_path):
    write(tmp_path, FOLDERS)
    write(tmp_path, {"imagenet/train/n03/.DS_Store": b"", "imagenet/train/n04/notes.txt": b""})
    refused(ImageNet, tmp_path, r"these class folders in .*train have no images: n03, n04\)$")


def test_classes_that_differ_are_named(tmp_path):
    write(tmp_path, FOLDERS)
    write(tmp_path, {"imagenet/train/n03/a.jpg": jpeg(1)})
    refused(ImageNet, tmp_path, "val has no folders of these classes of train: n03")
    write(tmp_path, {"imagenet/val/n03/a.jpg": jpeg(1), "imagenet/val/n04/a.jpg": jpeg(1)})
    refused(ImageNet, tmp_path, "val has folders that are not classes of the training images: n04")


def test_more_classes_than_published_are_refused(tmp_path, monkeypatch):
    write(tmp_path, FOLDERS)
    monkeypatch.setattr(ImageNet, "classes", 1)
    refused(ImageNet, tmp_path, "train has folders of 2 classes; there are 1")


def test_other_mat_files_of_flowers_are_named_with_both_checksums(tmp_path, monkeypatch):
    files = flowers_files(monkeypatch)
    write(tmp_path, files)
    assert len(Flowers102().splits(32, Flowers102.options(root=str(tmp_path))).train) == 2
    (tmp_path / "flowers-102/setid.mat").write_bytes(mat(trnid=np.array([[1]])))
    expected = dict(Flowers102.archives)["setid.mat"]
    refused(Flowers102, tmp_path, f"setid.mat has md5 [0-9a-f]{{32}}, but {expected} is published")


@pytest.mark.parametrize(
    ("task", "files", "name", "content", "message"),
    [
        (
            Pets,
            PETS,
            "annotations/test.txt",
            b"beagle_3 38 2 1\n",
            "test.txt gives beagle_3.jpg class 38; there are 37",
        ),
        (Pets, PETS, "annotations/test.txt", b"beagle_3 0 2 1\n", "test.txt gives beagle_3.jpg class 0; there are 37"),
        (Pets, PETS, "annotations/test.txt", b"beagle_3 2 2 1\n" * 2, "test.txt lists beagle_3.jpg twice"),
        (Pets, PETS, "annotations/test.txt", b"\n", "test.txt lists no images"),
        (Pets, PETS, "annotations/test.txt", b"beagle_3\n", "test.txt has lines that are not a name and numbers"),
        (
            Pets,
            PETS,
            "annotations/test.txt",
            PETS_LISTS["annotations/trainval.txt"],
            r"these images are listed for both training and testing: Abyssinian_1\.jpg, beagle_2\.jpg",
        ),
        (Food101, FOOD, "meta/test.json", b"{}", "train.json and test.json have different classes"),
        (Food101, FOOD, "meta/test.json", b"[", r"test\.json cannot be read \(JSONDecodeError"),
        (Pets, PETS, "annotations/test.txt", b"\xff\xfe", r"test\.txt cannot be read \(UnicodeDecodeError"),
        (Cars, CARS, "devkit/cars_train_annos.mat", b"MATLAB" * 40, r"cars_train_annos\.mat cannot be read"),
        (
            Cars,
            CARS,
            "devkit/cars_train_annos.mat",
            mat(other=1),
            r"cars_train_annos\.mat cannot be read .*annotations",
        ),
        (
            Cars,
            CARS,
            "cars_test_annos_withlabels.mat",
            mat(annotations=np.array([[(1, "0.jpg")]], dtype=[("bbox_x1", object), ("fname", object)])),
            "the annotations in cars_test_annos_withlabels.mat have no class",
        ),
        (TinyImageNet, TINY, "val/val_annotations.txt", b"val_0.JPEG\tn09\t0\n", "lines without a class of train"),
        (TinyImageNet, TINY, "val/val_annotations.txt", b"val_0.JPEG\tn01\nval_9.JPEG\tn01\n", "1 of 4 .*val_9.JPEG"),
        (CIFAR100, CIFAR, "test.bin", bytes([0, 100]) + bytes(3072), "test.bin has an image of class 100"),
    ],
)
def test_wrong_lists_are_named(tmp_path, task, files, name, content, message):
    write(tmp_path, files)
    (tmp_path / task.folder / name).write_bytes(content)
    refused(task, tmp_path, message)


def test_only_missing_files_of_an_incomplete_layout_are_requested(tmp_path):
    write(tmp_path, {name: content for name, content in PETS.items() if "test.txt" not in name})
    refused(Pets, tmp_path, r"annotations/test\.txt is missing \(images, annotations/trainval\.txt exists\); add it")
    write(tmp_path, {"oxford-iiit-pet/annotations/test.txt": PETS_LISTS["annotations/test.txt"]})
    shutil.rmtree(tmp_path / "oxford-iiit-pet/images")
    refused(Pets, tmp_path, r"images is missing")


def test_scenes_and_annotations_that_do_not_fit_are_named_before_training(tmp_path):
    write(tmp_path, SCENE_FILES)
    folder = tmp_path / "ADEChallengeData2016"
    annotation = folder / "annotations/training/ADE_train_00000002.png"
    for shape, largest, match in (((31, 40), 3, r"shape \(1, 31, 40\)"), ((30, 40), 151, "values up to 151")):
        Image.fromarray(np.full(shape, largest, np.uint8)).save(annotation)
        refused(ADE20K, tmp_path, rf"1 of 3 images .*training/ADE_train_00000002\.jpg .*{match}")
    annotation.write_bytes(annotation.read_bytes()[:40])
    refused(ADE20K, tmp_path, r"its annotation \S+ADE_train_00000002\.png")


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    write(tmp_path, FOLDERS)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("n02"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(ImageNet, tmp_path, r"cannot read the folder .*train/n02 \(Permission denied\)")


def test_nothing_is_trained_on_files_that_cannot_be_read(tmp_path):
    write(
        tmp_path,
        {
            f"imagenet/{part}/n0{c}/{i}.png": made("RGB", "PNG")
            for part in ("train", "val")
            for c in (1, 2)
            for i in range(2)
        },
    )
    bad = tmp_path / "imagenet/val/n02/1.png"
    bad.write_bytes(bad.read_bytes()[:50])
    command = [sys.executable, "-m", "attn_bench"]
    for words in (
        ["data", "imagenet", "--resolutions", "16", "--root", str(tmp_path)],
        ["run", "--models", "vit", "--task", "imagenet", "--resolutions", "16", "--root", str(tmp_path), "--out", "x"],
    ):
        ended = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert "1 of 8 images of imagenet cannot be read, the first: " in ended.stderr
        assert str(bad) in ended.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("task", "files", "line"),
    [
        (Pets, PETS, "4 images of 2 classes from {}/oxford-iiit-pet: 2 train, 2 test"),
        (ADE20K, SCENE_FILES, "3 images of 150 classes from {}/ADEChallengeData2016: 2 train, 1 test"),
    ],
)
def test_the_data_that_were_read_are_described(tmp_path, task, files, line):
    write(tmp_path, files)
    said = task().prepare((32, 64), task.options(root=str(tmp_path)), PrepareContext()).read
    assert said == (line.format(tmp_path),)


@pytest.mark.parametrize("share", [0.2, 0.333, 0.01])
def test_digits_are_described(share):
    described = Digits().prepare((16, 32), Digits.options(test_fraction=share), PrepareContext())
    identity = Digits().splits(16, Digits.options(test_fraction=share)).identity
    counts = f"{identity['n_train']} train, {identity['n_test']} test"
    assert described.read == (f"1797 images of 10 classes from scikit-learn: {counts}",)


def test_drawn_scenes_are_described(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    for resolutions, grids in (((32,), "32 x 32"), ((32, 64), "32 x 32, 64 x 64")):
        described = Pathfinder().prepare(resolutions, Pathfinder.options(n_train=4, n_test=2), PrepareContext())
        assert described.read == (f"6 images of 2 classes at {grids}, drawn: 4 train, 2 test",)
