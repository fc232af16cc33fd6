"""The task as the harness uses it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.tasks.darcy import generate
from attn_bench.tasks.darcy.task import Darcy

SMALL = {"n_train": 6, "n_test": 3, "fine": 32}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    return tmp_path / "darcy"


def tensors(dataset):
    inputs, targets = zip(*(dataset[i] for i in range(len(dataset))))
    return torch.stack(inputs), torch.stack(targets)


def test_resolutions_of_one_sweep_show_the_same_samples(cache):
    options = Darcy().resolve((8, 16), Darcy.options(**SMALL))
    coarse, fine = (Darcy().splits(r, options) for r in (8, 16))
    for name in ("train", "test"):
        for a, b in zip(tensors(getattr(coarse, name)), tensors(getattr(fine, name))):
            assert (a == b[..., ::2, ::2]).all()
    train, test = tensors(fine.train)[0], tensors(fine.test)[0]
    assert not any((a == b).all() for a in train for b in test)
    assert Darcy().problem(16, options) == Problem("field", 1, 1, (16, 16))
    assert set(train.unique().tolist()) == {3.0, 12.0}


def test_recipes_show_what_their_authors_show(cache):
    splits = Darcy().splits(16, Darcy.options(**SMALL, recipe="neuralop"))
    assert set(tensors(splits.train)[0].unique().tolist()) == {0.0, 1.0}


def test_a_coefficient_seen_is_the_coefficient_solved_for(cache):
    """Twice the coefficient, half the solution; twice the forcing, twice the solution."""
    y = tensors(Darcy().splits(16, Darcy.options(**SMALL)).train)[1]
    halved = tensors(Darcy().splits(16, Darcy.options(**SMALL, a_high=24, a_low=6)).train)[1]
    doubled = tensors(Darcy().splits(16, Darcy.options(**SMALL, forcing=2)).train)[1]
    torch.testing.assert_close(halved, y / 2)
    torch.testing.assert_close(doubled, y * 2)


def test_data_are_made_once(cache, monkeypatch):
    options = Darcy().resolve((8, 16), Darcy.options(**SMALL))
    progress = []
    made = Darcy().prepare((8, 16), options, PrepareContext(lambda done, total: progress.append((done, total))))
    assert {file.state for file in made.files} == {"made"}
    assert progress[0] == (0, 9)
    assert progress[-1] == (9, 9)
    assert len(list(cache.glob("*.json"))) == len(list(cache.glob("*.npz"))) == 4
    first = tensors(Darcy().splits(16, options).train)[1]
    monkeypatch.setattr(generate, "generate", lambda *args, **kwargs: pytest.fail("made again"))
    assert {file.state for file in Darcy().prepare((8, 16), options, PrepareContext()).files} == {"cached"}
    assert (tensors(Darcy().splits(16, options).train)[1] == first).all()


def test_damaged_entries_are_named_and_refresh_repairs_them(cache):
    options = Darcy().resolve((16,), Darcy.options(**SMALL))
    Darcy().prepare((16,), options, PrepareContext())
    path = next(cache.glob("train-*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    for action in (lambda: Darcy().splits(16, options), lambda: Darcy().prepare((16,), options, PrepareContext())):
        with pytest.raises(
            DataError, match=rf"{path.name} does not have the checksum .*attn-bench data darcy --refresh"
        ):
            action()
    Darcy().prepare((16,), options, PrepareContext(refresh=True))
    Darcy().splits(16, options)


def test_an_interruption_leaves_nothing_half_made(cache, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Darcy().prepare((16,), Darcy().resolve((16,), Darcy.options(**SMALL)), PrepareContext())
    assert not cache.exists() or list(cache.iterdir()) == []


def test_identity_says_what_the_data_are(cache):
    identity = Darcy().splits(16, Darcy.options(**SMALL)).identity
    assert identity["recipe"] == "fno"
    assert identity["n_train"] == 6
    assert set(identity["sha256"]) == {"train", "test"}
    other = Darcy().splits(16, Darcy.options(**SMALL, seed=1)).identity
    assert other["sha256"] != identity["sha256"]


def test_threads_are_as_they_were(cache):
    before = torch.get_num_threads()
    Darcy().splits(16, Darcy.options(**SMALL, seed=2))
    assert torch.get_num_threads() == before


def test_doing_nothing_costs_what_is_known(cache):
    """Predicting the training mean on the published recipe errs by about a quarter."""
    splits = Darcy().splits(16, Darcy.options(n_train=200, n_test=100, fine=64))
    mean = tensors(splits.train)[1].mean(0)
    targets = tensors(splits.test)[1]
    errors = Darcy().evaluate([(mean.expand_as(targets), targets)])
    assert errors["rel_l2"] == pytest.approx(0.25, abs=0.03)
    assert errors["rel_mse"] > errors["rel_l2"] ** 2


def test_a_coefficient_too_extreme_is_one_line(cache, monkeypatch):
    solve = generate.solve
    monkeypatch.setattr(generate, "solve", lambda a, forcing: solve(a, forcing, max_iterations=20))
    with pytest.raises(DataError, match=r"generating Darcy data failed: .*contrast is 1e\+06; .* closer together"):
        Darcy().splits(16, Darcy.options(**SMALL, a_high=1e6, a_low=1))
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(cache):
    with pytest.raises(OptionError, match=r"darcy.device=cuda: no CUDA device found"):
        Darcy().splits(16, Darcy.options(**SMALL, device="cuda"))


def test_planning_imports_no_torch():
    code = (
        "import sys; from attn_bench.tasks.darcy.task import Darcy; task = Darcy();"
        "task.problem(16, task.resolve((16, 32), task.options())); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_normalization_is_fitted_to_the_training_set(cache):
    splits = Darcy().splits(16, Darcy.options(**SMALL))
    wrapped = Darcy().adapt(torch.nn.Identity(), splits.train)
    inputs, targets = tensors(splits.train)
    assert wrapped.input_mean.item() == pytest.approx(float(inputs.mean()), rel=1e-5)
    assert wrapped.target_std.item() == pytest.approx(float(np.std(targets.numpy().astype(np.float64))), rel=1e-5)
