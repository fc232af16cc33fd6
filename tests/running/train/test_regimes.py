"""Linear probe and fine-tuning: what is trained, on what, and that nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import pandas as pd
import pytest
import torch
from places import ROOT
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from attn_bench.errors import USER_ERRORS
from attn_bench.plugin import Metric, Model, Problem, Splits, Unsupported
from attn_bench.plugins.registry import MODELS
from attn_bench.report.reproduce import sweeps
from attn_bench.results.labels import labels
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.table import column_values
from attn_bench.running.measure.latency import Sampling, measure_latency
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.train.batches import predict
from attn_bench.running.train.course import Diverged
from attn_bench.running.train.loop import Every, train
from attn_bench.running.train.regimes import training_setup
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import read_sweep_file
from attn_bench.tasks.images.digits import Digits

PROBLEM = Problem("image", 1, 10, (8, 8))
# Models of fields that classify by the mean of their features, small.
OURS = {name: {"dim": 8, "depth": 1} for name in ("full", "linear", "fma", "mano", "vit", "swinv2")} | {
    "fno": {"hidden_channels": 8, "n_layers": 1}
}
ONE = {"models": ["timm"], "task": "digits", "resolutions": [8], "device": "cpu", "batch_size": 8, "epochs": 3}


class Small(Model):
    """A network of which dropout and batch statistics change if it is used in the mode of training."""

    name, summary, kinds = "small", "", frozenset({"image"})

    def build(self, problem):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(216, 10)
        )

    def head(self, module):
        return module[-1]

    def warm_up(self, module):
        return [module[0].weight]


def cell(regime, **settings) -> Cell:
    return Sweep.from_settings(ONE | {"regime": regime} | settings).cells()[0]


def digits(n=32) -> Splits:
    splits = Digits().splits(8, Digits.options())
    first = [torch.stack(part) for part in zip(*(splits.train[i] for i in range(n)))]
    second = [torch.stack(part) for part in zip(*(splits.test[i] for i in range(n)))]
    changed = copy.copy(splits.augmented)
    changed.dataset = TensorDataset(*first)
    return dataclasses.replace(
        splits, train=changed, test=TensorDataset(*second), plain=TensorDataset(*first), augmented=changed
    )


def made(one, model=None):
    model = model or Small()
    module, data = model.make(PROBLEM), digits()
    return module, data, training_setup(one, Digits(), model, PROBLEM, module, module, data)


def trained(one, chosen, **options):
    torch.manual_seed(1)
    return train(chosen, one.training, one.execution, seed=0, **options)


def test_a_probe_trains_only_the_head_and_reads_each_image_once():
    one = cell("linear-probe", learning_rate=0.1)
    model = Small()
    module, data = model.make(PROBLEM), digits()
    before, seen = copy.deepcopy(module.state_dict()), []
    module[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    chosen = training_setup(one, Digits(), model, PROBLEM, module, module, data)
    trained(one, chosen)
    found = list(predict(chosen.module, chosen.test, batch_size=5, precision="float32", device="cpu"))
    images = [data.plain.tensors[0], data.test.tensors[0]]
    assert torch.equal(torch.cat(seen), torch.cat(images)), "augmented, or seen again"
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"5.weight", "5.bias"}
    assert chosen.notes == {"trained_parameters": 2170}
    whole = list(predict(module, data.test, batch_size=8, precision="float32", device="cpu"))
    for mine, wanted in zip(zip(*found), zip(*whole)):
        torch.testing.assert_close(torch.cat(mine), torch.cat(wanted))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm", {"model": "test_vit"}),
        ("timm", {"model": "resnet10t"}),
        ("timm:swinv2-tiny", {}),
        ("mano-swinv2:small", {}),
        *OURS.items(),
    ],
)
def test_heads_of_image_models_are_where_the_scores_come_from(name, options):
    plugin, _, preset = name.partition(":")
    model = MODELS.load(plugin)
    problem = Problem("image", 1, 10, (32, 32))
    module = model.make(problem, **model.presets.get(preset, {}), **options).eval()
    head, x = model.head(module), torch.randn(2, 1, 32, 32)
    seen = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        scores = module(x)
        (features,) = seen
        torch.testing.assert_close(F.linear(features, head.weight, head.bias), scores)
    added = {id(p) for p in model.warm_up(module)}
    multipole = {id(p) for n, p in module.named_parameters() if ".down." in n or ".up." in n}
    # Only what is grown from a pretrained network has parts that are added to it.
    assert added == (multipole if plugin == "mano-swinv2" else set())
    assert bool(added) == (plugin == "mano-swinv2")


@pytest.mark.parametrize(("name", "options"), OURS.items())
def test_a_probe_of_our_models_trains_a_linear_map(name, options):
    model, one = MODELS.load(name), cell("linear-probe", learning_rate=0.1, epochs=1)
    module, data = model.make(PROBLEM, **options), digits(16)
    before = copy.deepcopy(dict(module.named_parameters()))
    chosen = training_setup(one, Digits(), model, PROBLEM, module, module, data)
    trained(one, chosen)
    changed = {key for key, value in module.named_parameters() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}
    assert chosen.notes == {"trained_parameters": 10 * (8 + 1)}
    (probed, _), (whole, _) = (
        next(predict(part, test, batch_size=16, precision="float32", device="cpu"))
        for part, test in ((chosen.module, chosen.test), (module, data.test))
    )
    torch.testing.assert_close(probed, whole)


def test_pretrained_weights_see_images_as_they_were_trained_to(tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = MODELS.load("timm")
    options = {"model": "test_vit", "weights": str(tmp_path / "w.pth")}
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    problem = Problem("image", 3, 10, (32, 32), (mean, deviation))
    module = model.make(problem, **options).eval()
    theirs.head = module.model.head  # timm leaves out the classifier of other classes
    pixels = torch.rand(2, 3, 32, 32)
    ours, wanted = (
        (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
        for mean, deviation in (problem.normalised, ((0.5,) * 3, (0.5,) * 3))
    )
    torch.testing.assert_close(module(ours), theirs(wanted))
    assert model.head(module) is module.model.head
    assert model.effective(module, problem) == {"normalised_by": {"mean": (0.5,) * 3, "std": (0.5,) * 3}}
    assert model.effective(model.make(problem, model="test_vit"), problem) == {}


def test_what_cannot_be_probed():
    class Headless(Small):
        def head(self, module):
            return None

    class Wrong(Small):
        def head(self, module):
            return module[0]

    with pytest.raises(Unsupported, match=r"timm does not define head\(\)"):
        made(cell("linear-probe"), Headless())
    with pytest.raises(ValueError, match="does not compute the predictions"):
        made(cell("linear-probe"), Wrong())


def test_features_that_are_no_numbers_are_a_divergence():
    class Overflown(Small):
        def build(self, problem):
            module = super().build(problem)
            nn.init.constant_(module[0].bias, torch.nan)
            return module

    with pytest.raises(Diverged):
        trained(one := cell("linear-probe"), made(one, Overflown())[2])


def test_mixup_mixes_images_and_targets_alike():
    images = torch.eye(4)[:, None, :, None].expand(4, 1, 4, 4).contiguous()
    _, _, chosen = made(cell("finetune", mixup=0.4))
    mixed, targets = chosen.extras.mix(images, torch.arange(4))
    torch.testing.assert_close(mixed[:, 0, :, 0], targets[:, :4])
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert targets.shape == (4, 10)
    _, _, chosen = made(cell("finetune", mixup=0))
    assert chosen.extras.mix(images, torch.arange(4))[0] is images


def test_cutmix_puts_a_part_of_one_image_into_another():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8).contiguous()
    _, _, chosen = made(cell("finetune", mixup=0, cutmix=1))
    torch.manual_seed(0)
    shares = set()
    for _ in range(10):
        mixed, targets = chosen.extras.mix(images, torch.arange(4))
        for value in range(4):
            torch.testing.assert_close((mixed == value).float().mean((1, 2, 3)), targets[:, value])
        assert all(len(image.unique()) <= 2 for image in mixed)
        shares.add(float(targets[0, 0]))
    assert len(shares) > 5


def test_with_mixup_and_cutmix_a_batch_goes_through_one_of_them():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8).contiguous()
    _, _, chosen = made(cell("finetune", mixup=1, cutmix=1))
    torch.manual_seed(0)
    whole = []
    for _ in range(100):
        mixed, targets = chosen.extras.mix(images, torch.arange(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets[:, :4] @ torch.arange(4.0))
        whole.append(torch.equal(mixed, mixed.round()))
    assert 30 < sum(whole) < 70


def test_smoothing_is_that_of_its_paper():
    scores, classes, share = torch.randn(5, 10), torch.arange(5), 0.3
    _, _, chosen = made(cell("finetune", label_smoothing=share))
    target = (1 - share) * F.one_hot(classes, 10) + share / 10
    torch.testing.assert_close(chosen.loss(scores, classes), -(target * scores.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(chosen.loss(scores, F.one_hot(classes, 10).float()), chosen.loss(scores, classes))


def test_the_mean_of_the_weights_is_what_is_left():
    path = []
    one = cell("finetune")
    module, _, chosen = made(one)
    trained(one, chosen, every=Every(0), report=lambda _: path.append(module[5].weight.detach().clone()))
    mean = path[0].clone()
    for step, weight in enumerate(path[1:], 1):
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3))
        mean = decay * mean + (1 - decay) * weight
    module, _, chosen = made(one := cell("finetune", ema=0.6))
    trained(one, chosen)
    torch.testing.assert_close(module[5].weight.detach(), mean)


def test_the_warm_up_trains_only_added_parameters_and_the_head():
    one = cell("finetune", warm_up=2)
    module, _, chosen = made(one)
    before = {name: value.clone() for name, value in module.named_parameters()}
    moved = []

    def look(progress):
        now = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
        moved.append((progress.epoch, now))

    trained(one, chosen, report=look, every=Every(0))
    alone = {"0.weight", "5.weight", "5.bias"}
    assert all(now == alone for epoch, now in moved if epoch <= 2)
    assert all(now > alone for epoch, now in moved if epoch > 2.3)
    assert all(p.requires_grad for p in module.parameters())
    assert chosen.notes["warm_up_parameters"] == 54 + 2170


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_fine_tuning_that_was_stopped_ends_where_it_would_have_ended(tmp_path, stop_at):
    one = cell("finetune", ema=0.9, warm_up=1, cutmix=1)
    whole, _, chosen = made(one)
    trained(one, chosen)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.epoch * 4 > stop_at:
            raise Stop

    checkpoint = tmp_path / "c.pt"
    with pytest.raises(Stop):
        trained(one, made(one)[2], checkpoint=checkpoint, every=Every(0, 0), report=stop)
    resumed, _, chosen = made(one)
    trained(one, chosen, checkpoint=checkpoint, every=Every(checkpoint=1e9))
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_cells_of_regimes_are_different_ones_and_come_back_from_json():
    plain = cell("scratch")
    assert plain.to_json()["finetuning"] is None
    others = [
        cell("linear-probe"), cell("finetune"), cell("finetune", mixup=0), cell("finetune", ema=0.9),
        cell("finetune", label_smoothing=0), cell("finetune", warm_up=1), cell("finetune", cutmix=1),
    ]  # fmt: skip
    assert len({one.id for one in (plain, *others)}) == 8
    written = [json.dumps(Record(one, "ok").to_json()) for one in (plain, *others)]
    records = [Record.from_json(json.loads(text)) for text in written]
    assert [record.cell for record in records] == [plain, *others]
    again = [one for settings in sweeps([record.cell.to_json() for record in records]) for one in _cells(settings)]
    assert {one.id for one in again} == {one.id for one in (plain, *others)}
    assert len(set(labels(records))) == 8
    assert labels(records[:3]) == [
        "timm [scratch]",
        "timm [linear-probe]",
        "timm [finetune]",
    ]


def _cells(settings):
    return Sweep.from_settings(settings).cells()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regime": "probe"}, "setting regime"),
        ({"regime": "finetune", "task": "pathfinder-mask", "resolutions": [32]}, "pathfinder-mask is mask"),
        ({"regime": "linear-probe", "mixup": 0.2}, "setting mixup: only for fine-tuning"),
        ({"cutmix": 1}, "setting cutmix: only for fine-tuning"),
        ({"regime": "finetune", "cutmix": -0.5}, "setting cutmix: must be >= 0"),
        ({"ema": 1}, "setting ema: must be < 1"),
        ({"regime": "finetune", "warm_up": -1}, "setting warm_up: must be >= 0"),
        ({"regime": "finetune", "train": False, "epochs": None}, "no effect without training"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(USER_ERRORS) as caught:
        _cells(ONE | settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["cifar100", "flowers102", "food101", "pets", "cars", "tiny-imagenet"])
def test_the_sweep_of_six_sets(task):
    file = ROOT / "sweeps" / "vision-paper.yaml"
    cells = _cells(read_sweep_file(file) | {"task": task, "device": "cpu"})
    assert {one.model for one in cells} == {"vit-t", "vit-s", "swinv2-t", "mano-swinv2"}
    assert {one.regime for one in cells} == {"linear-probe"}


def test_digits_are_cut_a_little_and_never_mirrored():
    splits = Digits().splits(16, Digits.options())
    torch.manual_seed(0)
    alike = []
    for i in range(60):
        image, varied = splits.train[i][0], splits.augmented[i][0]
        assert varied.shape == image.shape
        alike.append([_correlation(varied, other) for other in (image, image.flip(2))])
    own, mirrored = torch.tensor(alike).mean(0)
    # If half of them were mirrored, the two would be equal.
    assert mirrored + 0.2 < own < 0.99


def _correlation(one, other):
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]


def test_a_cell_of_each_regime(tmp_path, monkeypatch):
    brief = functools.partial(measure_latency, sampling=Sampling(max_seconds=0.2, warmup_seconds=0.1))
    monkeypatch.setattr("attn_bench.running.measure.steps.measure_latency", brief)
    store = Store(tmp_path)
    settings = {
        "resolutions": [32], "epochs": None, "steps": 4, "batch_size": 64,
        "options": {"timm": {"model": "test_vit"}, "digits": {"test_fraction": 0.5}},
    }  # fmt: skip
    for one in (
        cell("linear-probe", **settings),
        cell("finetune", measure=False, warm_up=1, ema=0.9, **settings),
    ):
        record, _ = run_cell(one, Files.of(one, store))
        store.write(record)
        assert record.status == "ok", record.error
    columns = column_values(store.shorts(), {}, {"top1": Metric("higher", "top1")})
    table = pd.DataFrame(columns).set_index("regime")
    probe = table.loc["linear-probe"]
    assert probe["throughput_forward_per_s"] == pytest.approx(64000 / probe["latency_forward_ms"])
    assert probe["latency_forward_batch1_ms"] > 0
    assert probe.isna()["latency_train_step_ms"]
    training = {record.cell.regime: record.training.notes for record in store.records() if record.training}
    assert training["linear-probe"]["trained_parameters"] == 650
    # timm adds nothing to its models: all is trained from the start.
    assert training["finetune"]["warm_up_parameters"] == 0
    assert "crop" in training["finetune"]["augmentation"]


@pytest.mark.parametrize("task", ["digits", "pathfinder-mask"])
def test_a_batch_of_one_is_timed_too(tmp_path, monkeypatch, task):
    brief = functools.partial(measure_latency, sampling=Sampling(max_seconds=0.1, warmup_seconds=0))
    monkeypatch.setattr("attn_bench.running.measure.steps.measure_latency", brief)
    options = {"vit": {"dim": 8, "depth": 1, "heads": 1, "patch_size": 8}}
    settings = {"models": ["vit"], "task": task, "resolutions": [32], "device": "cpu", "train": False}
    (one,) = _cells(settings | {"batch_size": 2, "options": options})
    record, _ = run_cell(one, Files.of(one, Store(tmp_path)))
    assert record.status == "ok", record.error
    assert record.latency["forward_batch1"].median_ms > 0
