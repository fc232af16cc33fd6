"""Scenes and their annotations: cut alike, unlabeled points left out, and a run from the command line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from attn_bench import load
from attn_bench.plugin import DataError, Problem
from attn_bench.running.runner import SILENT, prepare_data
from attn_bench.sweep.settings import Sweep
from attn_bench.tasks.images.ade20k import ADE20K
from attn_bench.tasks.images.image_scores import UNLABELLED

MEAN, DEVIATION = (torch.tensor(values)[:, None, None] for values in ADE20K().problem(32, ADE20K.options()).normalised)


def put(root, part, name, labels, shades=None):
    """Write a scene whose shade of gray tells the label, unless ``shades`` are given."""
    folder = root / "ADEChallengeData2016"
    for kind in ("images", "annotations"):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    shades = labels.astype(np.uint8) if shades is None else shades
    Image.fromarray(shades).convert("RGB").save(folder / "images" / part / f"{name}.jpg", quality=100)
    Image.fromarray(labels.astype(np.uint8)).save(folder / "annotations" / part / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    labels = np.zeros((60, 90))
    labels[10:, :30], labels[10:, 30:] = 50, 150
    for i in range(4):
        put(tmp_path, "training", f"ADE_train_{i:08d}", labels)
    put(tmp_path, "validation", "ADE_val_00000001", labels)
    return tmp_path


def shown(image):
    """Return the labels that the shades of a normalized image tell."""
    return ((image * DEVIATION + MEAN) * 255).mean(0)


def test_image_and_annotation_are_cut_alike(root):
    train = ADE20K().splits(32, ADE20K.options(root=str(root))).train
    torch.manual_seed(0)
    found, mirrored = [], set()
    for _ in range(30):
        image, classes = train[0]
        assert image.shape == (3, 32, 32)
        assert classes.shape == (32, 32)
        assert classes.dtype == torch.int64
        assert set(classes.unique().tolist()) <= {UNLABELLED, 49, 149}, "resampled between classes"
        told = torch.where(classes == UNLABELLED, 0, classes + 1)
        found.append(((shown(image) - told).abs() < 25).float().mean())
        if {49, 149} <= set(classes.unique().tolist()):
            columns = [torch.nonzero(classes == label)[:, 1].float().mean() for label in (49, 149)]
            mirrored.add(bool(columns[0] > columns[1]))
    assert min(found) > 0.9
    assert mirrored == {True, False}
    assert not all(torch.equal(train[0][1], classes) for _ in range(5)), "cut at one place"


def test_test_scenes_are_center_crops(root):
    splits = ADE20K().splits(28, ADE20K.options(root=str(root), augment=False))
    image, classes = splits.test[0]
    # 60 x 90 becomes 32 x 48, of which rows 2 to 29 and columns 10 to 37 are left.
    expected = torch.full((28, 28), 149)
    expected[:, :6] = 49
    expected[:3] = UNLABELLED
    # An edge may be a point off.
    assert (classes == expected).float().mean() > 0.9
    assert (classes[5:, 8:] == 149).all()
    assert (classes[5:, :4] == 49).all()
    assert shown(image)[5:, 8:].mean() == pytest.approx(150, abs=2)
    assert torch.equal(splits.train[0][1], classes)


def test_points_without_a_label_change_nothing():
    task = ADE20K()
    torch.manual_seed(0)
    scores, classes = torch.randn(2, 150, 4, 4), torch.randint(150, (2, 4, 4))
    classes[0, :2] = UNLABELLED
    labelled = classes != UNLABELLED
    logs = scores.log_softmax(1).gather(1, classes.clamp(min=0)[:, None])[:, 0]
    torch.testing.assert_close(task.loss(scores, classes), -logs[labelled].mean())
    other = torch.where(labelled[:, None], scores, torch.randn(scores.shape))
    torch.testing.assert_close(task.loss(other, classes), task.loss(scores, classes))
    assert task.evaluate([(other, classes)]) == task.evaluate([(scores, classes)])
    right = torch.nn.functional.one_hot(classes.clamp(min=0), 150).permute(0, 3, 1, 2).float()
    assert task.evaluate([(right, classes)]) == {"mean_iou": 100.0, "pixel_accuracy": 100.0}

    nothing = torch.full_like(classes, UNLABELLED)
    scores.requires_grad_()
    task.loss(scores, nothing).backward()
    assert not scores.grad.any()
    with pytest.raises(ValueError, match="no labeled points"):
        task.evaluate([(scores, nothing)])


def test_unpublished_layouts_give_one_line_error(root):
    with pytest.raises(DataError, match=r"does not contain ade20k\. Put ADEChallengeData2016/images/training"):
        ADE20K().splits(32, ADE20K.options(root=str(root / "ADEChallengeData2016")))
    labels = np.full((60, 90), 151)
    put(root, "training", "ADE_train_00000000", labels)
    with pytest.raises(DataError, match=r"values up to 150; it has shape .* values up to 151"):
        ADE20K().splits(32, ADE20K.options(root=str(root))).train[0]
    put(root, "training", "ADE_train_00000000", labels[:50] - 1, np.zeros((60, 90), np.uint8))
    with pytest.raises(DataError, match=r"it has shape \(1, 50, 90\)"):
        ADE20K().splits(32, ADE20K.options(root=str(root))).train[0]
    folder = root / "ADEChallengeData2016"
    (folder / "annotations/training/ADE_train_00000001.png").unlink()
    with pytest.raises(DataError, match=r"1 images have no annotation, e\.g\. annotations/training/ADE_train_00000001"):
        ADE20K().splits(32, ADE20K.options(root=str(root)))
    for path in (folder / "images/training").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no files match images/training"):
        ADE20K().splits(32, ADE20K.options(root=str(root)))


def test_from_python_a_part_of_a_set_is_a_warning(root):
    options = {"ade20k": {"root": str(root)}}
    cells = Sweep.from_settings({"models": ["vit"], "task": "ade20k", "device": "cpu", "options": options}).cells()
    with pytest.warns(
        UserWarning, match="contains only a part of ade20k: 4 of 20210 training and 1 of 2000 test images"
    ):
        prepare_data(cells, SILENT)


@pytest.mark.slow
def test_a_run_from_the_command_line(root, tmp_path):
    options = ("vit.patch_size=8", "vit.dim=16", "vit.depth=1", f"ade20k.root={root}")
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "vit", "--task", "ade20k", "--resolutions", "32"]
    command += ["--steps", "2", "--batch-size", "2", "--device", "cpu", "--no-measure", "--no-plots", "--out", "r"]
    command += [word for option in options for word in ("--set", option)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    warnings = [line for line in ended.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "contains only a part of ade20k: 4 of 20210 training and 1 of 2000 test images" in warnings[0]
    (row,) = load(tmp_path / "r").to_dict("records")
    assert row["status"] == "ok"
    assert 0 <= row["mean_iou"] <= row["pixel_accuracy"] <= 100
    assert ADE20K().problem(32, ADE20K.options()) == Problem(
        "mask", 3, 150, (32, 32), ADE20K().problem(32, ADE20K.options()).normalised
    )
