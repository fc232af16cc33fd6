"""What a run says about samples before it trains, which are refused, and test files on grids of their own."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from data_files import save
from field_files import prepared, resolved, splits, tensors, values

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.fields.task import Fields
from attn_bench.tasks.shared.normalise import normalise

SIZE = 8


def pair(n, size=SIZE):
    return {"x": values(n, size, size), "y": values(n, size, size)}


def test_each_test_file_is_an_evaluation_at_its_grid(tmp_path):
    train, same, fine = (
        save(tmp_path / f"{name}.npz", pair(n, size)) for name, n, size in (("train", 9, 8), ("a", 4, 8), ("b", 5, 16))
    )
    every, given = resolved(data=train, test_data=(same, fine))
    assert every == (8, 16)
    assert Fields().problem(16, given).grid == (16, 16)
    assert [len(Fields().splits(size, given).test) for size in every] == [4, 5]
    assert Fields().splits(16, given).test[0][0].shape == (1, 16, 16)
    # All samples of the first file are trained on, as the test set has a file of its own.
    assert len(Fields().splits(8, given).train) == 9
    told = prepared(data=train, test_data=(same, fine)).read
    assert told[0].startswith("9 samples of 8 x 8 from train.npz: train; 4 from a.npz: test; input x (nhw, from its")
    assert told[1] == "5 samples of 16 x 16 from b.npz: test"
    with pytest.raises(OptionError, match=r"nothing to train at resolution 16: .*has a grid of 8 x 8; .*gives 4; test"):
        resolved(16, data=train, test_data=(same, fine))


def test_without_a_test_file_of_its_grid_a_part_is_split_off(tmp_path):
    train, fine = save(tmp_path / "train.npz", pair(10)), save(tmp_path / "b.npz", pair(5, 16))
    _, given = resolved(data=train, test_data=(fine,))
    own = Fields().splits(8, given)
    assert own.sizes == {"train": 8, "validation": 0, "test": 2}
    x = np.load(train)["x"]
    numbers = [
        int(np.argwhere(x == sample[0, 0, 0])[0, 0]) for part in (own.train, own.test) for sample in tensors(part)[0]
    ]
    assert sorted(numbers) == list(range(10))


def test_coarser_resolutions_are_every_nth_point(tmp_path):
    arrays = {"x": values(6, 8, 12), "y": values(6, 8, 12)}
    path = save(tmp_path / "mine.npz", arrays)
    found = tensors(splits(4, data=path, axes="nhw").train)[1]
    assert found.shape == (5, 1, 4, 6)
    assert {*found[:, 0].reshape(-1)} <= {*arrays["y"][:, ::2, ::2].reshape(-1)}
    assert "every n-th point of 8 x 12 with n = 2" in prepared(4, data=path, axes="nhw").read[0]
    with pytest.raises(OptionError, match="nothing to train at resolution 5"):
        resolved(5, data=path, axes="nhw")


@pytest.mark.parametrize(
    ("other", "axes", "message"),
    [
        ((2, 8, 8), None, r"1 input and 1 target channels on a grid of 8 x 8; they must be the same fields"),
        ((8, 16), "nhw", r"has a grid of 8 x 16 and .* of 8 x 8; evaluations are named by the points along h"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, other, axes, message):
    train = save(tmp_path / "train.npz", pair(9))
    test = save(tmp_path / "test.npz", {"x": values(4, *other), "y": values(4, *other)})
    with pytest.raises(DataError, match=message):
        resolved(data=train, test_data=(test,), axes=axes)


def test_the_same_file_is_no_test_set(tmp_path):
    train = save(tmp_path / "train.npz", pair(9))
    with pytest.raises(DataError, match="has the same content as another file"):
        resolved(data=train, test_data=(train,))
    copy = save(tmp_path / "a.npz", pair(4))
    with pytest.raises(DataError, match="both have 8 points along h"):
        resolved(data=train, test_data=(copy, save(tmp_path / "b.npz", pair(5))))


def test_what_is_odd_gets_a_line(tmp_path):
    train, test = pair(9), pair(4)
    train["x"][:] = 2
    test["x"][:] = 2
    test["y"] *= 100
    arrays = [save(tmp_path / f"{name}.npz", each) for name, each in (("train", train), ("test", test))]
    told = prepared(data=arrays[0], test_data=(arrays[1],)).warnings
    assert told[0] == "input x is 2 everywhere in the training samples"
    assert told[1] == "4 of 4 samples of test.npz have an input that is also in the training set"
    assert told[2].startswith("target y differs in size: its root mean square is 3")
    assert "in test.npz; check the units" in told[2]
    assert len(told) == 3
    y = np.concatenate([values(9, 1, SIZE, SIZE), 1e4 * values(9, 1, SIZE, SIZE)], 1)
    path = save(tmp_path / "sizes.npz", {"x": values(9, SIZE, SIZE), "y": y})
    (line,) = prepared(data=path).warnings
    assert line.startswith("target channels differ in size: y[1] has a root mean square of")
    ranges = r"values in the training samples: input x \d+ to \d+; target y\[0\] \d+ to \d+, y\[1\] \S+ to 5\.\d+e\+06"
    assert re.fullmatch(ranges, prepared(data=path).read[1])


@pytest.mark.parametrize("reading", ["memory", "pieces"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.nan, "y has values that are not finite in single precision, first in sample 3; take it out"),
        (np.inf, "not finite"),
        (1e300, "not finite"),
        (0, r"the target is zero everywhere in 1 samples, first in sample 3, so there is no relative error"),
        (1e30, r"the target is too small or too large for errors in single precision in 1 samples, first in sample 3"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path, reading, change, message):
    arrays = {name: each.astype(np.float64) for name, each in pair(9).items()}
    arrays["y"][3] = change
    with pytest.raises(DataError, match=message):
        prepared(data=save(tmp_path / "mine.npz", arrays), reading=reading)


def test_a_step_that_is_not_finite_is_named(tmp_path):
    u = values(4, 6, SIZE, SIZE)
    u[2, 4, 0, 0] = np.nan
    path = save(tmp_path / "flow.npz", {"u": u})
    with pytest.raises(DataError, match="first in step 4 of trajectory 2"):
        prepared(data=path, axes="nthw", seed=1)


def test_statistics_are_those_of_the_whole(tmp_path):
    y = np.concatenate([values(70, 1, SIZE, SIZE) + 1e4, np.full((70, 1, SIZE, SIZE), 3.0, np.float32)], 1)
    path = save(tmp_path / "mine.h5", {"x": values(70, SIZE, SIZE), "y": y})
    modules = []
    for reading in ("memory", "pieces"):
        found = splits(data=path, reading=reading)
        modules.append(normalise(torch.nn.Identity(), Fields().hold_out(found, 0.1).train))
        _, targets = tensors(Fields().hold_out(found, 0.1).train)
        assert torch.allclose(
            modules[-1].target_mean.flatten(), torch.tensor(targets.mean((0, 2, 3), dtype=np.float64)).float()
        )
        assert float(modules[-1].target_std[0]) == pytest.approx(targets[:, 0].std(dtype=np.float64), rel=1e-6)
        assert float(modules[-1].target_std[1]) == 1
    for name, value in modules[0].state_dict().items():
        assert torch.equal(value, modules[1].state_dict()[name])


def test_changes_of_a_file_are_noticed(tmp_path):
    path = save(tmp_path / "mine.npz", pair(9))
    every, given = resolved(data=path)
    save(tmp_path / "mine.npz", pair(9))
    with pytest.raises(DataError, match="has changed since the run started"):
        Fields().splits(every[0], given)


def test_numbers_of_samples(tmp_path):
    path = save(tmp_path / "mine.npz", pair(10))
    assert splits(data=path, n_train=3, n_test=1).sizes == {"train": 3, "validation": 0, "test": 1}
    _, given = resolved(data=path, n_train=9)
    with pytest.raises(OptionError, match=r"fields\.n_train=9: there are 8 samples for this split"):
        Fields().splits(SIZE, given)
    with pytest.raises(DataError, match="contains one sample; use a larger file"):
        splits(data=save(tmp_path / "one.npz", pair(1)), axes="nhw")
