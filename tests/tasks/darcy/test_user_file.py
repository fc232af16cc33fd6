"""Files of the user's own: every format and name that is read, and one clear line for everything else."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.darcy.task import Darcy

N, SIZE = 10, 8


@pytest.fixture(scope="module")
def fields():
    generator = np.random.default_rng(0)
    return generator.random((N, SIZE, SIZE)) > 0.5, generator.random((N, SIZE, SIZE)).astype(np.float32) + 1


def save_pt(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def save_npz(path, arrays):
    np.savez(path, **arrays)


def save_mat5(path, arrays):
    scipy.io.savemat(path, {**arrays, "name": "text", "cells": np.array([1, "a"], dtype=object)})


def save_mat73(path, arrays):
    """As MATLAB does: HDF5 with the axes reversed, logical values as uint8, the class of each array as an attribute."""
    classes = {"bool": "logical", "float32": "single", "float64": "double"}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = (array.astype(np.uint8) if array.dtype == bool else array).T
            file[name].attrs["MATLAB_class"] = np.bytes_(classes[str(array.dtype)])
        file["#refs#/a"] = np.zeros(3)


def save_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"group/{name}"] = array


SAVERS = {".pt": save_pt, ".npz": save_npz, "5.mat": save_mat5, "7.mat": save_mat73, ".h5": save_h5}
NAMES = [("x", "y"), ("coeff", "sol"), ("a", "u")]


def tensors(dataset):
    inputs, targets = zip(*(dataset[i] for i in range(len(dataset))))
    return torch.stack(inputs), torch.stack(targets)


def load(resolution=SIZE, **options):
    task = Darcy()
    resolved = task.resolve((resolution,), task.options(**options))
    return task.splits(resolution, resolved)


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("names", NAMES)
def test_every_format_and_every_usual_name(tmp_path, fields, suffix, names):
    path = tmp_path / f"mine{suffix}"
    SAVERS[suffix](path, dict(zip(names, fields)))
    splits = load(data=str(path))
    assert len(splits.train) == 8
    assert len(splits.test) == 2
    inputs, targets = (torch.cat(parts) for parts in zip(tensors(splits.train), tensors(splits.test)))
    assert inputs.shape == targets.shape == (N, 1, SIZE, SIZE)
    assert inputs.dtype == targets.dtype == torch.float32
    # The split is a permutation that keeps pairs together.
    order = [int((torch.from_numpy(fields[1]) == target[0]).all((1, 2)).nonzero()) for target in targets]
    assert sorted(order) == list(range(N))
    assert (inputs[:, 0].numpy() == fields[0][order]).all()


def test_arrays_with_a_channel_axis_and_custom_names(tmp_path, fields):
    save_npz(tmp_path / "mine.npz", {"K": fields[0][:, None], "p": fields[1][..., None], "x": np.zeros(3)})
    splits = load(data=str(tmp_path / "mine.npz"), input_key="K", target_key="p")
    assert splits.train[0][0].shape == (1, SIZE, SIZE)


def test_a_second_file_is_the_test_set(tmp_path, fields):
    save_pt(tmp_path / "train.pt", {"x": fields[0], "y": fields[1]})
    save_npz(tmp_path / "test.npz", {"a": fields[0][:3], "u": fields[1][:3] * 2})
    splits = load(data=str(tmp_path / "train.pt"), test_data=str(tmp_path / "test.npz"), n_train=6)
    assert (tensors(splits.train)[1][:, 0].numpy() == fields[1][:6]).all()
    assert (tensors(splits.test)[1][:, 0].numpy() == fields[1][:3] * 2).all()


def test_the_split_is_the_seeds(tmp_path, fields):
    save_npz(tmp_path / "mine.npz", {"x": fields[0], "y": fields[1]})
    first, again, other = (tensors(load(data=str(tmp_path / "mine.npz"), seed=seed).test)[1] for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).all()


def test_other_resolutions_are_every_nth_point(tmp_path):
    values = np.arange(2 * 9 * 9.0).reshape(2, 9, 9) + 1
    save_npz(tmp_path / "mine.npz", {"x": values, "y": values})
    splits = load(5, data=str(tmp_path / "mine.npz"))
    found = sorted(float(dataset[0][1].max()) for dataset in (splits.train, splits.test))
    assert splits.train[0][0].shape == (1, 5, 5)
    assert found == [81, 162]
    with pytest.raises(OptionError, match=r"grid of 9 x 9; it cannot give resolution 7\. .* 9, 5"):
        load(7, data=str(tmp_path / "mine.npz"))
    with pytest.raises(OptionError, match=r"it cannot give resolution 7\. "):
        Darcy().resolve((9, 7, 5), Darcy.options(data=str(tmp_path / "mine.npz")))


def test_results_belong_to_the_content_of_the_file(tmp_path, fields):
    path = tmp_path / "mine.npz"
    save_npz(path, {"x": fields[0], "y": fields[1]})
    resolved = Darcy().resolve((SIZE,), Darcy.options(data=str(path)))
    save_npz(path, {"x": fields[0], "y": fields[1] + 1})
    assert Darcy().resolve((SIZE,), Darcy.options(data=str(path))).data_checksum != resolved.data_checksum
    with pytest.raises(DataError, match="has changed since the run started"):
        Darcy().splits(SIZE, resolved)


def with_nan(fields):
    targets = fields[1].copy()
    targets[3, 0, 0] = np.nan
    return targets


WRONG = {
    "missing target": (
        lambda f: {"x": f[0]},
        r"no array has a name of the target \(y, .*it has x \(10, 8, 8\)",
    ),
    "missing input": (lambda f: {"y": f[1]}, "no array has a name of the input"),
    "no arrays": (lambda f: {}, "it has no arrays"),
    "other count": (lambda f: {"x": f[0][:4], "y": f[1]}, r"same samples and grid; they have shapes \(4, 8, 8\)"),
    "other grid": (lambda f: {"x": f[0][:, :4], "y": f[1]}, "same samples and grid"),
    "one axis too few": (lambda f: {"x": f[0][0], "y": f[1][0]}, r"'x' has shape \(8, 8\); expected "),
    "two channels": (lambda f: {"x": np.stack([f[0]] * 2, 1), "y": f[1]}, r"shape \(10, 2, 8, 8\); expected "),
    "empty": (lambda f: {"x": f[0][:0], "y": f[1][:0]}, "is empty"),
    "NaN": (lambda f: {"x": f[0], "y": with_nan(f)}, r"'y' has values that are not finite .* first in sample 3"),
    "too large": (lambda f: {"x": f[0], "y": f[1].astype(float) * 1e300}, "not finite in single precision"),
    "complex": (lambda f: {"x": f[0], "y": f[1] * 1j}, "must contain real numbers"),
    "zero": (lambda f: {"x": f[0], "y": f[1] * 0}, "solution is zero everywhere"),
    "one sample": (lambda f: {"x": f[0][:1], "y": f[1][:1]}, "contains one sample"),
    "two candidates": (lambda f: {"x": f[0], "X": f[0], "y": f[1]}, "x and X may both be the input"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_one_line(tmp_path, fields, case):
    arrays, message = WRONG[case]
    path = tmp_path / "mine.npz"
    save_npz(path, arrays(fields))
    with pytest.raises(DataError, match=message) as error:
        load(data=str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".mat", ".h5"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, pickle.dumps(Bomb())])
def test_broken_files_are_one_line_and_nothing_is_executed(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="the file is empty" if not content else "or a damaged one") as error:
        load(data=str(path))
    assert "\n" not in str(error.value)
    assert "KeyError" not in str(error.value)


@pytest.mark.parametrize("suffix", SAVERS)
def test_truncated_files_are_one_line(tmp_path, fields, suffix):
    path = tmp_path / f"mine{suffix}"
    SAVERS[suffix](path, {"x": fields[0], "y": fields[1]})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as error:
        load(data=str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_in_files_are_not_unpickled(tmp_path, fields):
    torch.save({"x": torch.from_numpy(fields[0]), "y": Bomb()}, tmp_path / "mine.pt")
    np.savez(tmp_path / "mine.npz", x=fields[0], y=np.array([Bomb()] * N, dtype=object).reshape(N, 1, 1))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError):
            load(data=str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.pt", "no such file"),
        ("folder.pt", "is a folder"),
        (".", "is a folder"),
        ("mine.csv", "cannot read .csv"),
        ("mine", "without"),
    ],
)
def test_wrong_paths(tmp_path, name, message):
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(DataError, match=message):
        load(data=str(tmp_path / name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_key": "z"}, r"has no array 'z' \(darcy.input_key\); it contains x"),
        ({"input_key": "y"}, "cannot be both input and target"),
        ({"recipe": "neuralop"}, "darcy.recipe has no effect on darcy.data"),
        ({"n_train": 9}, "n_train=9: there are 8 samples"),
        ({"test_fraction": 1.5}, "test_fraction must be < 1"),
        ({"n_test": 0}, "n_test must be >= 1"),
    ],
)
def test_options_that_cannot_work(tmp_path, fields, options, message):
    save_npz(tmp_path / "mine.npz", {"x": fields[0], "y": fields[1]})
    with pytest.raises((DataError, OptionError), match=message):
        load(data=str(tmp_path / "mine.npz"), **options)


def test_options_of_files_need_a_file():
    with pytest.raises(OptionError, match=r"darcy.test_data needs darcy.data"):
        Darcy().resolve((16,), Darcy.options(test_data="test.pt"))
