"""Images: scenes whose answer is known, metrics by hand, and every model on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.plugins.registry import MODELS
from attn_bench.tasks.images.digits import Digits
from attn_bench.tasks.images.image_scores import class_hits, class_scores, mask_scores
from attn_bench.tasks.images.pathfinder import LEVELS, Pathfinder, PathfinderMask
from attn_bench.tasks.images.scenes import Difficulty, draw, draw_path, scene

SMALL = {"n_train": 6, "n_test": 4}


@pytest.mark.parametrize("level", LEVELS)
def test_dots_are_on_one_path_just_where_the_label_says(level):
    """Followed pixel by pixel along the paths with their gaps closed, not by how the scene was made."""
    difficulty = Difficulty(**LEVELS[level])
    answers = []
    for index in range(20):
        shown = scene(0, "train", index, difficulty)
        ground = np.zeros((256, 256), bool)
        for which in range(len(shown.paths)):
            ground |= draw_path(shown, which, 256, difficulty) > 0
        labels, count = ndimage.label(ground)
        assert count == len(shown.paths), "paths touch"
        # Lines end flat, so the very end of one may be just beside it.
        around = ndimage.maximum_filter(labels, 5)
        at = [around[tuple(np.clip(np.rint(dot[::-1] * 256 - 0.5), 0, 255).astype(int))] for dot in shown.dots]
        assert all(at)
        assert (at[0] == at[1]) == shown.positive
        answers.append(shown.positive)
    assert sum(answers) == 10


def test_positive_and_negative_scenes_have_the_same_parts():
    for index in range(6):
        shown = scene(1, "test", index, Difficulty())
        assert [len(path) for path in shown.paths] == [9, 9, 4, 4, 4]
        ends = {tuple(path[k]) for path in shown.paths[:2] for k in (0, -1)}
        assert all(tuple(dot) in ends for dot in shown.dots)


def test_a_scene_is_one_drawing_at_every_resolution():
    difficulty = Difficulty()
    shown = scene(0, "train", 3, difficulty)
    fine, coarse = (draw(shown, r, difficulty).astype(float) for r in (128, 64))
    assert np.corrcoef(fine.reshape(64, 2, 64, 2).mean((1, 3)).ravel(), coarse.ravel())[0, 1] > 0.97


def test_scenes_depend_only_on_seed_stream_and_index():
    first, again = (scene(2, "train", 5, Difficulty()) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.paths, again.paths, strict=True))
    for other in (scene(3, "train", 5, Difficulty()), scene(2, "test", 5, Difficulty())):
        assert not np.array_equal(other.dots, first.dots)


@pytest.mark.parametrize("level", ["easy", pytest.param("medium", marks=pytest.mark.slow)])
def test_the_distance_of_the_dots_is_hardly_a_clue(level):
    scenes = [scene(0, "train", i, Difficulty(**LEVELS[level])) for i in range(600)]
    distance = np.array([np.hypot(*(s.dots[0] - s.dots[1])) for s in scenes])
    positive = np.array([s.positive for s in scenes])
    bounds = [-np.inf, *np.quantile(distance, np.linspace(0.05, 0.95, 19)), np.inf]
    right = [
        (((low < distance) & (distance <= high)) == positive).mean() for low, high in itertools.combinations(bounds, 2)
    ]
    assert max(*right, 1 - min(right)) < 0.64


@pytest.mark.parametrize("task", [Pathfinder(), PathfinderMask()])
def test_pathfinder_is_drawn_once(monkeypatch, tmp_path, task):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    progress = []
    made = task.prepare(
        (32, 64), task.options(**SMALL), PrepareContext(lambda done, total: progress.append((done, total)))
    )
    assert [file.state for file in made.files] == ["made"] * 4
    assert progress[-1] == (20, 20)
    assert [file.state for file in task.prepare((32, 64), task.options(**SMALL), PrepareContext()).files] == [
        "cached"
    ] * 4
    splits = task.splits(64, task.options(**SMALL))
    image, target = splits.train[0]
    assert image.shape == (1, 64, 64)
    assert image.min() == -1
    assert image.max() == 1
    assert target.shape == ((64, 64) if task.kind == "mask" else ())
    images, targets = splits.train.batch(torch.tensor([3, 0]))
    assert torch.equal(images, torch.stack([splits.train[3][0], image]))
    assert torch.equal(targets, torch.stack([splits.train[3][1], target]))
    path = next((tmp_path / task.name).glob("train-64*.npz"))
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"attn-bench data {task.name} --refresh"):
        task.splits(64, task.options(**SMALL))


def test_fine_tuning_mirrors_scenes_and_no_more(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    splits = Pathfinder().splits(32, Pathfinder.options(**SMALL))
    image, target = splits.train[0]
    mirrors = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
    drawn = [splits.augmented[0][0] for _ in range(60)]
    found = {next(i for i, other in enumerate(mirrors) if torch.equal(one, other)) for one in drawn}
    assert found == {0, 1, 2, 3}
    assert splits.augmented[0][1] == target
    assert len(splits.augmented) == len(splits.train)


def test_the_marked_path_begins_at_the_only_dot(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    train = PathfinderMask().splits(128, PathfinderMask.options(**SMALL)).train
    for i in range(len(train)):
        image, mask = train[i]
        bright = ndimage.binary_opening(image[0].numpy() > 0.5, iterations=3)
        labels, dots = ndimage.label(bright)
        assert dots == 1
        assert mask.numpy()[labels == 1].mean() > 0.4
        assert ndimage.label(mask.numpy())[1] == 1


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        ({}, 16, "between 32 and 512"),
        ({"n_train": 1}, 32, "n_train must be >= 2"),
        ({"seed": -1}, 32, "seed must be >= 0"),
    ],
)
def test_pathfinder_rejects_invalid_options(options, resolution, message):
    with pytest.raises(OptionError, match=message):
        Pathfinder().resolve((resolution,), Pathfinder.options(**options))


def test_digits_are_split_once_and_for_all():
    splits = Digits().splits(16, Digits.options())
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    images, classes = splits.test.tensors
    assert images.shape == (360, 1, 16, 16)
    counts = classes.bincount()
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 2
    assert (Digits().splits(16, Digits.options()).test.tensors[0] == images).all()
    assert Digits().splits(8, Digits.options()).train[0][0].min() == -1
    with pytest.raises(OptionError, match=">= 8"):
        Digits().splits(7, Digits.options())
    with pytest.raises(OptionError, match="test_fraction"):
        Digits().splits(8, Digits.options(test_fraction=1.0))
    with pytest.raises(OptionError, match=r"test_fraction must be <= 0\.9 \(given: 1\.5\)"):
        Digits().resolve((8,), Digits.options(test_fraction=1.5))


def test_enlarging_a_digit_keeps_it():
    small, large = (Digits().splits(r, Digits.options()).train[0][0] for r in (8, 32))
    back = torch.nn.functional.interpolate(large[None], (8, 8), mode="area")[0]
    assert torch.corrcoef(torch.stack([small.flatten(), back.flatten()]))[0, 1] > 0.98


def test_accuracies_by_hand():
    scores = torch.eye(7)[[0, 1, 2, 3]] + torch.arange(7) * 0.01
    classes = torch.tensor([0, 1, 6, 0])
    # Right, right, among the five best, not among them.
    found = class_scores([(scores[:1], classes[:1]), (scores[1:], classes[1:])])
    assert found == {"top1": 50.0, "top5": 75.0}
    assert {name: float(hits.mean()) for name, hits in class_hits(scores, classes).items()} == pytest.approx(found)
    assert class_scores([(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))]) == {"top1": 100.0, "top5": 100.0}
    with pytest.raises(ValueError, match="no image"):
        class_scores([])


def test_intersection_over_union_by_hand():
    classes = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    predicted = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    scores = torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    found = mask_scores([(scores[:1], classes[:1]), (scores[1:], classes[1:])])
    # Class 0: 4 of 6; class 1: 2 of 4; class 2 does not occur.
    assert found["mean_iou"] == pytest.approx(100 * (4 / 6 + 2 / 4) / 2)
    assert found["pixel_accuracy"] == pytest.approx(75.0)


@pytest.mark.parametrize("name", ["mano", "mano-swinv2:small", "vit", "swinv2", "fno", "fma", "timm"])
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_models_serve_images(name, kind):
    plugin, _, preset = name.partition(":")
    model = MODELS.load(plugin)
    problem = Problem(kind, 1, 3, (32, 32))
    torch.manual_seed(0)
    module = model.make(problem, **model.presets.get(preset, {}))
    x = torch.randn(2, 1, 32, 32)
    y = module(x)
    assert y.shape == ((2, 3) if kind == "image" else (2, 3, 32, 32))
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert isinstance(dict(model.effective(module, problem)), dict)
    # One decoder for all of them: LayerNorm and a linear map of the features of each point.
    if kind == "mask":
        with torch.no_grad():
            features = module.features(x).permute(0, 2, 3, 1)
            n = features.shape[-1]
            normalised = torch.nn.functional.layer_norm(features, (n,))
        own = [value for key, value in module.named_parameters() if not key.startswith("features.")]
        assert [tuple(p.shape) for p in own] == [(n,), (n,), (3, n), (3,)]
        torch.testing.assert_close(y, (normalised @ own[2].T + own[3]).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_pixels_that_no_patch_holds_are_named():
    model, problem = MODELS.load("timm"), Problem("image", 1, 3, (35, 33))
    module = model.make(problem).eval()
    assert model.effective(module, problem) == {"pixels_left_out": [3, 1]}
    x = torch.randn(1, 1, 35, 33)
    other = x.clone()
    other[:, :, 32:], other[:, :, :, 32:] = 0, 0
    assert torch.equal(module(x), module(other))
    assert model.effective(model.make(problem, model="resnet10t"), problem) == {}
    mano, mask = MODELS.load("mano-swinv2"), Problem("mask", 1, 3, (35, 33))
    assert mano.effective(mano.make(mask, **mano.presets["small"]), mask)["pixels_left_out"] == [1, 1]
    with pytest.raises(OptionError, match=r"multiples of the patch size, 16 \(given: 35 x 33"):
        model.make(problem, model="test_vit")
    with pytest.raises(OptionError, match="patch_size 16 is larger than the grid, 35 x 9"):
        model.make(Problem("image", 1, 3, (35, 9)))


def test_a_mask_is_made_of_the_features_of_every_stage():
    from attn_bench.nn.pyramid import Pyramid

    torch.manual_seed(0)
    pyramid = Pyramid(MODELS.load("mano-swinv2").make(Problem("image", 3, 5, (64, 64))), 8).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole, stages = pyramid(x), []
        for linear in pyramid.maps:
            kept = [parameter.clone() for parameter in linear.parameters()]
            for parameter in linear.parameters():
                parameter.zero_()
            stages.append(whole - pyramid(x))
            for parameter, value in zip(linear.parameters(), kept):
                parameter.copy_(value)
    assert len(stages) == 4
    assert all(stage.abs().max() > 0.01 for stage in stages)
    torch.testing.assert_close(sum(stages), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": (5,)}, r"heads is \(5,\); it must have one number >= 1 for each of the 4 stages"),
        ({"levels": (1, 2)}, "levels is"),
        ({"depths": (2, 0, 2, 2)}, "depths is"),
        ({"window_size": 0}, "window_size must be >= 1"),
        ({"patch_size": 0}, "patch_size must be >= 1"),
        ({"embed_dim": 50}, "embed_dim is 50 and heads None"),
        ({"embed_dim": 50, "heads": (5, 5, 3, 5)}, "embed_dim is 50"),
    ],
)
def test_sizes_that_mano_on_swinv2_cannot_have(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        MODELS.load("mano-swinv2").make(Problem("image", 1, 3, (32, 32)), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "model"), [("timm", {"model": "test_vit"}), ("mano-swinv2", {})])
def test_files_that_do_not_hold_the_weights_of_a_model(tmp_path, name, model):
    problem = Problem("image", 3, 3, (32, 32))
    own = MODELS.load(name).make(problem, **model).state_dict()
    halved = dict(list(own.items())[: len(own) // 2])
    contents = {
        "junk.pth": "cannot be loaded as weights of",
        "junk.safetensors": "cannot be loaded as weights of",
        "other.pth": "lacks .* of the weights of",
        "half.pth": "lacks .* of the weights of",
    }
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save(halved, tmp_path / "half.pth")
    for file, message in contents.items():
        if file.startswith("junk"):
            (tmp_path / file).write_text("junk")
        with pytest.raises(OptionError, match=f"{file} {message}") as caught:
            MODELS.load(name).make(problem, weights=str(tmp_path / file), **model)
        assert "\n" not in str(caught.value)


def test_unknown_timm_model_gives_one_line_error():
    problem = Problem("image", 1, 3, (32, 32))
    with pytest.raises(OptionError, match="did you mean 'vit_tiny_patch16_224'"):
        MODELS.load("timm").make(problem, model="vit_tiny_patch16_225")
    with pytest.raises(OptionError, match="no such file"):
        MODELS.load("timm").make(problem, weights="nowhere.pth")
    with pytest.raises(OptionError, match="not a SwinV2"):
        MODELS.load("mano-swinv2").make(problem, variant="resnet18")


def test_masks_are_made_by_pretrained_networks_too(tmp_path):
    import timm

    theirs = timm.create_model("test_vit", img_size=32)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = MODELS.load("timm")
    problem = Problem("mask", 3, 5, (32, 32), ((0.4,) * 3, (0.2,) * 3))
    module = model.make(problem, model="test_vit", weights=str(tmp_path / "w.pth")).eval()
    assert model.effective(module, problem) == {"normalised_by": {"mean": (0.5,) * 3, "std": (0.5,) * 3}}
    own = module.model.features.backbone.state_dict()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in own.items())
    assert len(own) > 30
    assert module(torch.randn(1, 3, 32, 32)).shape == (1, 5, 32, 32)


@pytest.mark.parametrize(("name", "model"), [("timm", "test_vit"), ("mano-swinv2", "swinv2_tiny_window8_256")])
def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch, name, model):
    import timm

    def unreachable(*_, **options):
        raise FileNotFoundError("the hub\nis not there")

    monkeypatch.setattr(timm, "create_model", unreachable)
    message = f"weights of {model} are not available .*the hub is not there.*weights=FILE"
    with pytest.raises(OptionError, match=message) as caught:
        option = {"timm": "model", "mano-swinv2": "variant"}[name]
        MODELS.load(name).make(Problem("image", 3, 3, (32, 32)), pretrained=True, **{option: model})
    assert "\n" not in str(caught.value)


def test_timm_models_are_timms():
    import timm

    torch.manual_seed(0)
    ours = MODELS.load("timm").make(Problem("image", 1, 3, (32, 32)), model="vit_tiny_patch16_224").eval()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, in_chans=1, num_classes=3).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))
