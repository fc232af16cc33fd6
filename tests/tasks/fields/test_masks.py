"""Masked points: zero input and a mask channel, left out of normalization, loss and metrics, drawn blank."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from command import attn_bench
from data_files import save
from field_files import prepared, problem, splits, tensors

import attn_bench as api
from attn_bench.report.panels import Sample
from attn_bench.results.store import Store
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.train.losses import loss_of
from attn_bench.sweep.settings import Sweep
from attn_bench.tasks.fields.task import Fields
from attn_bench.tasks.shared.field_metrics import field_errors, relative_errors
from attn_bench.tasks.shared.normalise import MaskedNormalised, Normalised, normalise

SIZE = 16
Y, X = np.mgrid[:SIZE, :SIZE]
DISC = ((X - 7.5) ** 2 + (Y - 7.5) ** 2 < 49).astype(np.uint8)


def made(tmp_path, name="disc.npz", mask=DISC, samples=12):
    """Write fields that are NaN, huge and zero outside a disc, by sample."""
    waves = np.random.default_rng(0).normal(size=(samples, 3))
    a = sum(w[:, None, None] * np.sin((k + 1) * X / 5 + Y / 4) for k, w in enumerate(waves.T))
    fields = {"a": a.astype(np.float32), "u": (a * a + 0.1 * a + 3).astype(np.float32)}
    for values in fields.values():
        outside = np.array([np.nan, 1e30, 0.0], np.float32)[np.arange(samples) % 3]
        np.copyto(values, outside[:, None, None], where=np.broadcast_to(mask == 0, values.shape))
    return {
        "data": str(save(tmp_path / name, {**fields, "inside": mask})),
        "input": "a",
        "target": "u",
        "mask": "inside",
    }


@pytest.mark.parametrize("each", [False, True])
def test_samples_are_nan_at_masked_points_and_have_the_mask(tmp_path, each):
    mask = np.stack([np.roll(DISC, i % 4, 0) for i in range(12)]) if each else DISC
    of = made(tmp_path, mask=mask)
    assert problem(**of).input_shape(1) == (1, 2, SIZE, SIZE)
    found = splits(**of)
    inputs, targets = tensors(found.train)
    assert set(np.unique(inputs[:, 1])) == {0, 1}
    assert np.array_equal(np.isnan(inputs[:, 0]), inputs[:, 1] == 0)
    assert np.array_equal(np.isnan(targets[:, 0]), inputs[:, 1] == 0)
    assert len(np.unique(inputs[:, 1], axis=0)) == (4 if each else 1)
    lines = prepared(**of).read
    assert f"; mask inside ({'nhw' if each else 'hw'})" in lines[0]
    assert re.match(r"values in the training samples: input a \S+ to \S+, inside 0 to 1; target u ", lines[-2])
    assert f"inside leaves out {1 - DISC.mean():.0%} of the points" in lines[-1]
    # Every second point has the same mask at a smaller resolution.
    coarse, _ = tensors(splits(8, **made(tmp_path, "again.npz")).train)
    assert np.array_equal(coarse[0, 1], DISC[::2, ::2])


def test_normalization_leaves_masked_points_out_and_models_see_zeros(tmp_path):
    train = splits(**made(tmp_path)).train
    inputs, targets = (torch.from_numpy(each) for each in tensors(train))
    seen = []

    class Keeps(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :1]

    module = normalise(Keeps(), train)
    assert type(module) is MaskedNormalised
    inside = torch.from_numpy(DISC).bool()
    std, mean = torch.std_mean(inputs[:, 0, inside].double(), correction=0)
    assert (module.input_mean[0].item(), module.input_std[0].item()) == pytest.approx((mean.item(), std.item()))
    std, mean = torch.std_mean(targets[:, 0, inside].double(), correction=0)
    assert (module.target_mean.item(), module.target_std.item()) == pytest.approx((mean.item(), std.item()))
    assert module(inputs).isfinite().all()
    assert (seen[0][:, 0, ~inside] == 0).all()
    whole = torch.utils.data.TensorDataset(inputs.nan_to_num(), targets.nan_to_num())
    assert type(normalise(Keeps(), whole)) is Normalised


@pytest.mark.parametrize("name", ["task", "rel_l2", "mse", "h1", "derivative"])
def test_losses_and_their_gradients_do_not_see_masked_points(tmp_path, name):
    of = made(tmp_path)
    loss = loss_of(Fields(), problem(**of), name)
    targets = torch.from_numpy(tensors(splits(**of).train)[1])
    outside = torch.from_numpy(DISC == 0)
    prediction = torch.randn_like(targets).requires_grad_()
    value = loss(prediction, targets)
    value.backward()
    assert value.isfinite()
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[..., outside] == 0).all()
    other = prediction.detach().masked_fill(outside, 1e3)
    assert loss(other, targets) == value
    if name in ("task", "rel_l2"):
        a, b = (t[:, 0, ~outside] for t in (prediction.detach(), targets))
        assert value.item() == pytest.approx(((a - b).norm(dim=1) / b.norm(dim=1)).mean().item())


def test_metrics_leave_masked_points_out():
    torch.manual_seed(0)
    target, prediction = torch.randn(3, 2, SIZE, SIZE), torch.randn(3, 2, SIZE, SIZE)
    inside = torch.from_numpy(DISC).bool()
    masked = target.masked_fill(~inside, torch.nan)
    found, other = (field_errors(p, masked) for p in (prediction, prediction.masked_fill(~inside, 1e6)))
    for name, values in found.items():
        torch.testing.assert_close(other[name], values, equal_nan=True)
    a, b = (t[..., inside].double().flatten(1) for t in (prediction, target))
    torch.testing.assert_close(found["rel_l2"], (a - b).norm(dim=1) / b.norm(dim=1))
    torch.testing.assert_close(found["rel_max"], (a - b).abs().amax(1) / b.abs().amax(1))
    assert relative_errors([(prediction, masked)])["rel_l2"] == pytest.approx(found["rel_l2"].mean().item())
    bands = sum(found[f"rel_mse_{band}_freq"].nan_to_num() for band in ("low", "mid", "high"))
    torch.testing.assert_close(bands, found["rel_mse"])
    # A disc that touches no edge has no outermost points; half a grid has those of its own edges.
    assert found["rel_mse_boundary"].isnan().all()
    half = target.clone()
    half[..., SIZE // 2 :] = torch.nan
    alone = [t[..., : SIZE // 2] for t in (prediction, target)]
    torch.testing.assert_close(field_errors(prediction, half)["rel_l2"], field_errors(*alone)["rel_l2"])
    # Of derivatives, those next to the mask are missing, not those across it wrong.
    constant = field_errors(
        half.new_ones(half.shape), half.new_full(half.shape, 2).masked_fill(half.isnan(), torch.nan)
    )
    torch.testing.assert_close(constant["rel_h1"], torch.full((3,), 0.5).double())


def test_predictions_are_drawn_blank_and_their_error_counts_the_rest():
    target = np.where(DISC == 1, 2.0, np.nan)
    assert Sample(target, target, np.ones((SIZE, SIZE))).rel_l2 == pytest.approx(0.5)


@pytest.mark.parametrize("models", ["mean,linear,fno", pytest.param("mano,swinv2,full,uno", marks=pytest.mark.slow)])
def test_models_train_on_a_disc(tmp_path, models):
    of, out = made(tmp_path), tmp_path / "out"
    settings = [part for name in ("input", "target", "mask") for part in ("--set", f"fields.{name}={of[name]}")]
    done = attn_bench(
        "run", "--models", models, "--task", "fields", "--data", of["data"], *settings, "--steps", "2", "--device",
        "cpu", "--no-measure", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = api.load(out)
    assert (table["status"] == "ok").all()
    assert np.isfinite(table["rel_l2"]).all()
    assert (table["rel_l2"] < 2).all()


@pytest.mark.parametrize(
    ("mask", "options", "said"),
    [
        (DISC[:8], {}, r"the mask 'inside' has the shape \(8, 16\); it must have \(16, 16\) \(hw\) or \(12, 16, 16\)"),
        (2 * DISC, {}, "the mask 'inside' must be 0 or 1 everywhere; it has other values in sample 0"),
        (0 * DISC, {}, "the mask 'inside' leaves nothing of sample 0"),
        (DISC | (X == 0), {}, "keeps points with values that are not finite in single precision in sample 0"),
        (DISC, {"mask": "outside"}, "has no array 'outside'; it has a"),
        (DISC, {"mask": "inside[0]"}, "give one whole array"),
        (DISC, {"mask": "inside:hc"}, "it needs the axes n, h and w"),
        (DISC, {"rollout": 2}, "rollout=2"),
    ],
)
def test_wrong_masks_are_refused_in_a_line(tmp_path, mask, options, said):
    of = made(tmp_path)
    with np.load(of["data"]) as arrays:
        path = save(tmp_path / "wrong.npz", {**arrays, "inside": mask})
    given = {**of, **options, "data": path}
    settings = [part for name in given.keys() - {"data"} for part in ("--set", f"fields.{name}={given[name]}")]
    done = attn_bench("data", "fields", "--data", given["data"], *settings)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert re.search(said.replace("'inside'", "'?inside'?"), line), line


def test_rollouts_and_pushing_forward_keep_the_mask_and_inputs_that_do_not_change(tmp_path):
    """States decay at a rate of their own sample, which is a second input; what is masked does not matter."""
    generator = np.random.default_rng(0)
    rate, first = generator.uniform(0.5, 0.9, (6, SIZE, SIZE)), generator.normal(size=(6, SIZE, SIZE)) + 3
    states = np.stack([first * rate**t for t in range(5)], 1)
    found = {}
    for name, outside in (("zeros", 0.0), ("nan", np.nan)):
        states[:, :, DISC == 0] = outside
        of = {"u": states.astype(np.float32), "rate": rate.astype(np.float32), "inside": DISC}
        path = save(tmp_path / f"{name}.npz", of)
        options = {
            "data": path, "input": "u:nthw+rate:nhw", "target": "u:nthw", "mask": "inside", "rollout": 3, "history": 2,
            "pushforward": 1,
        }  # fmt: skip
        (cell,) = Sweep.from_settings(
            {"models": ["linear"], "task": "fields", "steps": 8, "batch_size": 4, "measure": False, "device": "cpu",
             "options": {"fields": options}}
        ).cells()  # fmt: skip
        store = Store(tmp_path / name)
        record, _ = run_cell(cell, files := Files.of(cell, store))
        assert record.status == "ok", record.error
        with np.load(files.artifact) as arrays:
            assert arrays["input"].shape[1:] == (4, SIZE, SIZE)  # two states, the rate and the mask
            assert arrays["step_errors"].shape == (3,)
            assert np.isfinite(arrays["step_errors"]).all()
        found[name] = record.evaluations[0].metrics
    assert found["zeros"] == found["nan"]
