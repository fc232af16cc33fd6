"""Any array of any format and order of axes becomes the fields that it holds, or is refused with what to write."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from data_files import save
from field_files import prepared, problem, resolved, splits, tensors, values, whole

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.fields.axis_letters import checked_letters, fitted, inferred
from attn_bench.tasks.fields.selection import Part, parsed
from attn_bench.tasks.fields.stored import open_stored

N, H, W, C = 6, 5, 7, 3


def in_order(found, expected):
    """Check that samples, in whatever order, are ``expected``."""
    order = [int(np.flatnonzero((expected == sample).reshape(len(expected), -1).all(1))[0]) for sample in found]
    assert sorted(order) == list(range(len(expected)))


def test_another_format_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "mine.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=r"is not a \.pt, \.npz, \.mat, \.h5, \.hdf5, \.npy file with plain arrays"):
        open_stored(tmp_path / "mine.csv")


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".mat", ".h5", ".hdf5"])
@pytest.mark.parametrize("order", ["nchw", "nhwc", "hwcn"])
def test_every_format_and_order_of_axes(tmp_path, suffix, order):
    a, u = values(N, C, H, W), values(N, 2, H, W)
    moved = [np.ascontiguousarray(each.transpose(["nchw".index(letter) for letter in order])) for each in (a, u)]
    path = save(tmp_path / f"mine{suffix}", {"a": moved[0], "u": moved[1]})
    assert problem(data=path, axes=order).input_shape(1) == (1, C, H, W)
    for reading in ("memory", "pieces"):
        inputs, targets = whole(data=path, axes=order.upper(), reading=reading)
        in_order(inputs, a)
        in_order(targets, u)


def test_pieces_are_what_memory_is(tmp_path):
    path = save(tmp_path / "mine.h5", {"a": values(N, 4, 4, 8, 2), "f": values(N, 4, 8)})
    given = {"data": path, "input": "a:nthwc+f:nhw", "target": "a:nthwc[1]"}
    one, other = (splits(reading=reading, **given) for reading in ("memory", "pieces"))
    for mine, yours in ((one.train, other.train), (one.test, other.test)):
        for a, b in zip(tensors(mine), tensors(yours)):
            assert (a == b).all()
    # A batch in any order, with the same sample twice.
    order = torch.tensor([3, 0, 11, 4, 3])
    assert (other.train.batch(order)[0].numpy() == tensors(one.train)[0][order]).all()


def test_steps_become_pairs_of_one_trajectory(tmp_path):
    u = values(4, 6, H, W, 2)
    path = save(tmp_path / "flow.npz", {"u": u})
    found = splits(data=path, axes="nthwc", step=2)
    inputs, targets = tensors(found.train)
    assert len(inputs) == 3 * 4
    assert len(found.test) == 4
    for x, y in zip(inputs, targets):
        (trajectory, step), *_ = np.argwhere((u.transpose(0, 1, 4, 2, 3) == x).all((2, 3, 4)))
        assert (u[trajectory, step + 2].transpose(2, 0, 1) == y).all()
    # No trajectory is in both sets.
    at = [{int(np.argwhere(u == x[0, 0, 0])[0, 0]) for x in tensors(part)[0]} for part in (found.train, found.test)]
    assert not at[0] & at[1]


@pytest.mark.parametrize("reading", ["memory", "pieces"])
def test_states_before_and_after(tmp_path, reading):
    u, f = values(5, 9, H, W), values(5, H, W)
    path = save(tmp_path / "flow.npz", {"u": u, "f": f})
    given = {"data": path, "input": "u:nthw", "target": "u:nthw", "step": 2, "history": 2, "rollout": 2}
    found = splits(reading=reading, **given)
    # States at t, t + 2 lead to t + 4 in training, and to t + 4 and t + 6 in a test.
    assert (len(found.train), len(found.test)) == (4 * 5, 3)
    for part, states in ((found.train, 1), (found.test, 2)):
        for x, y in zip(*tensors(part)):
            (trajectory, step), *_ = np.argwhere((u == x[0]).all((2, 3)))
            assert (x == u[trajectory, [step, step + 2]]).all()
            assert (y == u[trajectory, [step + 4, step + 6][:states]]).all()
    told = prepared(reading=reading, **given).read
    assert (
        "23 windows (2 + 1 states, 2 apart) of 5 x 7 from flow.npz: 20 train, 3 test over 2 states, split by seed 0"
        in told[0]
    )
    # What does not change in time comes last, once.
    inputs, _ = tensors(splits(data=path, input="f:nhw+u:nthw", target="u:nthw", history=3).train)
    assert inputs.shape[1] == 4
    in_first = [np.flatnonzero((f == x[3]).all((1, 2)))[0] for x in inputs]
    assert all((u[i] == x[0]).all((1, 2)).any() for i, x in zip(in_first, inputs))


def test_rollouts_that_cannot_be(tmp_path):
    path = save(tmp_path / "flow.npz", {"u": values(5, 4, H, W), "v": values(5, 4, H, W), "f": values(5, H, W)})
    with pytest.raises(OptionError, match=r"rollout=2: a model is applied to its own .* those of .* are f \+ u and v"):
        resolved(data=path, input="f:nhw+u:nthw", target="v:nthw", rollout=2)
    with pytest.raises(DataError, match=r"4 steps, too few for 5 states 1 apart \(fields.step=1, fields.rollout=4\)"):
        resolved(data=path, input="u:nthw", target="u:nthw", rollout=4)
    with pytest.raises(OptionError, match=r"fields.history=2: .* has no time axis"):
        resolved(data=path, input="f:nhw", target="f:nhw", history=2)


def test_validation_takes_whole_trajectories(tmp_path):
    from attn_bench.tasks.fields.task import Fields

    u = values(10, 4, H, W)
    path = save(tmp_path / "flow.npz", {"u": u})
    for reading in ("memory", "pieces"):
        held = Fields().hold_out(splits(data=path, axes="nthw", reading=reading), 0.25)
        parts = [
            {int(np.argwhere(u == x[0, 0, 0])[0, 0]) for x in tensors(part)[0]}
            for part in (held.train, held.validation)
        ]
        assert held.sizes == {"train": 6 * 3, "validation": 2 * 3, "test": 2 * 3}
        assert not parts[0] & parts[1]


def test_parts_of_arrays_are_joined_as_channels(tmp_path):
    q, x = values(N, 4, H, W), values(H)
    path = save(tmp_path / "mine.npz", {"Q": q, "x": x, "rho": values(N, H, W)})
    inputs, targets = whole(data=path, input="Q:nchw[1:3]+x:h+rho:nhw", target="Q:nchw[0]")
    in_order(targets, q[:, :1])
    in_order(inputs[:, :2], q[:, 1:3])
    assert (inputs[:, 2] == x[:, None]).all()
    u = values(N, H, W, 8)
    path = save(tmp_path / "steps.npz", {"u": u})
    inputs, targets = whole(data=path, axes="nhwt", input="u[t=0:3]", target="u[t=7]")
    in_order(inputs, u[..., :3].transpose(0, 3, 1, 2))
    in_order(targets, u[..., 7:].transpose(0, 3, 1, 2))


def test_fields_on_a_line(tmp_path):
    a, u = values(N, H), values(N, 2, H)
    path = save(tmp_path / "line.npz", {"a": a, "u": u})
    given = {"data": path, "input": "a:nh", "target": "u:nch"}
    assert problem(**given).grid == (H,)
    inputs, targets = whole(**given)
    in_order(inputs, a[:, None])
    in_order(targets, u)


def test_arrays_of_a_folder(tmp_path):
    a, u = values(N, H, W), values(N, H, W)
    np.save(tmp_path / "coeff.npy", a)
    np.save(tmp_path / "sol.npy", np.asfortranarray(u))
    (tmp_path / "README.md").write_text("beside")
    inputs, targets = whole(data=str(tmp_path), axes="nhw")
    in_order(inputs, a[:, None])
    in_order(targets, u[:, None])
    (tmp_path / "more.zip").write_text("")
    with pytest.raises(DataError, match=r"a folder must hold .npy files, or HDF5 files of one form; it has .npy, .zip"):
        open_stored(tmp_path)


def test_hdf5_files_of_a_folder_are_one_after_the_other(tmp_path):
    parts = [{"nu": values(k, H, H), "tensor": values(k, 1, H, H)} for k in (4, 3)]
    for i, each in enumerate(parts):
        save(tmp_path / f"part{i}.hdf5", each)
    inputs, targets = whole(data=str(tmp_path))
    in_order(inputs[:, 0], np.concatenate([each["nu"] for each in parts]))
    in_order(targets, np.concatenate([each["tensor"] for each in parts]))
    save(tmp_path / "part2.hdf5", {"nu": values(2, H, W), "tensor": values(2, 1, H, H)})
    with pytest.raises(DataError, match=r"'nu' must have one shape in all samples; it has \(4, 5, 5\) and \(2, 5, 7\)"):
        open_stored(tmp_path)


@pytest.mark.parametrize(
    ("shape", "letters"),
    [
        ((40, 16, 16), "nhw"), ((40, 1, 16, 16), "nchw"), ((40, 16, 16, 1), "nhwc"), ((40, 3, 16, 16), "nchw"),
        ((40, 16, 16, 3), "nhwc"), ((40, 20, 16, 16, 2), "nthwc"), ((40, 16, 32), None), ((16, 16, 16), None),
        ((40, 20, 16, 16), None), ((40, 16, 16, 20), None), ((16, 16, 40), None), ((40, 16), None),
        ((40, 16, 16, 16), None), ((40, 3, 16, 16, 20), None), ((40, 4, 4, 4), None),
    ],
)  # fmt: skip
def test_only_a_square_grid_says_its_axes(shape, letters):
    assert inferred(shape) == letters


def test_letters_given_for_all_arrays_fit_those_without_channels():
    assert fitted("nhwc", (4, 5, 6, 2)) == "nhwc"
    assert fitted("nhwc", (4, 5, 6)) == "nhw"
    assert fitted("nhw", (4, 5, 6, 1)) == "nhwc"
    assert fitted("nhw", (4, 1, 5, 6)) == "nchw"
    assert fitted("nthwc", (4, 5, 6)) is None
    # Without steps or without channels: a square grid tells.
    assert fitted("nthwc", (4, 5, 6, 6)) == "nthw"
    assert fitted("nthwc", (4, 6, 6, 5)) == "nhwc"
    assert fitted("nthwc", (4, 5, 6, 7)) is None
    for wrong in ("nhx", "nnhw", "nc", ""):
        with pytest.raises(OptionError, match="name every axis by a letter"):
            checked_letters(wrong, "fields.axes")


def test_names_of_a_file_go_before_any_notation():
    names = ("u+v", "u", "x[0]", "group/a:n")
    assert parsed("u+v", names, "input") == (Part("u+v"),)
    assert parsed("x[0]", names, "input") == (Part("x[0]"),)
    assert parsed("u + q[2]", names, "input") == (Part("u"), Part("q", channels=(2, 3)))
    assert parsed("q:NTHW[t=1:4][0]", names, "input") == (Part("q", "nthw", (0, 1), (1, 4)),)
    for wrong in ("u[a]", "u[3:3]", "u[0][1]", "u++v"):
        with pytest.raises(OptionError, match=r"^fields.input="):
            parsed(wrong, ("u",), "input")


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (
            {"foo": (6, 5, 5), "bar": (6, 5, 5)},
            {},
            r"it is not clear which array is the input and which the target; it has foo \(6, 5, 5\) from [\d.]+ to "
            r"[\d.]+, bar .*; write --set fields.input=NAME --set fields.target=NAME",
        ),
        ({"foo": (6, 5, 5), "u": (6, 5, 5)}, {}, r"clear which array is the input; .*--set fields.input=NAME$"),
        ({"x": (6, 5, 5), "a": (6, 5, 5), "u": (6, 5, 5)}, {}, r"x and a may be the input; .*--set fields.input=NAME$"),
        ({"a": (6, 4, 7), "u": (6, 4, 7)}, {}, r"'a' has the shape \(6, 4, 7\), whose axes are not clear; write --set "
         r"fields.axes=ORDER, where ORDER is nhw \(6 samples, grid 4 x 7\) or hwn"),
        ({"a": (6, 5, 5), "u": (6, 9, 5, 5)}, {}, r"nchw \(6 samples, 9 channels, grid 5 x 5\) or nthw \(6 samples, 9"),
        ({"a": (6, 5, 5), "u": (6, 9, 5, 5)}, {"target": "u:nthw"}, r"u has 9 steps and the input has no time axis; .*"
         r"--set 'fields.target=u\[t=0:9\]'"),
        ({"a": (6, 5, 5), "u": (5, 5, 5)}, {"axes": "nhw"}, r"a \(nhw\) has 6, u \(nhw\) has 5 samples"),
        ({"a": (6, 5, 5), "u": (6, 4, 4)}, {}, r"a \(nhw\) has 5, u \(nhw\) has 4 points along h"),
        ({"a": (6, 5, 5), "u": (6, 5, 5)}, {"input": "b"}, r"has no array 'b'; it has a \(6, 5, 5\)"),
        ({"a": (6, 5, 5), "u": (6, 2, 5, 5)}, {"target": "u[2]"}, r"u\[2\] asks for channels up to 2, but 'u' has the "
         r"shape \(6, 2, 5, 5\) with the axes nchw: 2 channels, from 0"),
        ({"a": (6, 5, 5), "u": (6, 5, 5)}, {"target": "u[t=1]"}, r"asks for steps up to 1, but .*: no steps"),
        ({"a": (6, 4, 7), "u": (6, 4, 7)}, {"axes": "nthwc"}, "fields.axes=nthwc does not describe; give its own"),
        ({"u": (6, 3, 5, 5)}, {"axes": "nthw", "step": 3}, r"has 3 steps, too few for 2 states 3 apart"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_asked_for(tmp_path, arrays, options, message):
    path = save(tmp_path / "mine.npz", {name: values(*shape) for name, shape in arrays.items()})
    with pytest.raises((DataError, OptionError), match=message):
        resolved(data=path, **options)


def test_options_without_a_file():
    with pytest.raises(OptionError, match="fields has no data of its own; give your file with --data FILE"):
        resolved()
    with pytest.raises(OptionError, match=r"fields\.axes needs fields\.data, your own file"):
        resolved(axes="nhw")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"'a' must contain real numbers \(it contains Python objects"):
        open_stored(tmp_path / "a.npy")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match="it is a Python pickle, which is not read"):
        open_stored(tmp_path / "b.pt")
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:40])
    with pytest.raises(DataError, match=r"c.npy: not an array file, or a damaged one"):
        open_stored(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", values(4, 5, 5))
    (tmp_path / "d.npy").write_bytes((tmp_path / "d.npy").read_bytes()[:-40])
    with pytest.raises(DataError, match="claims the shape"):
        open_stored(tmp_path / "d.npy")


def test_a_file_can_be_written_again(tmp_path):
    path = save(tmp_path / "mine.h5", {"a": values(N, H, H), "u": values(N, H, H)})
    first = prepared(data=path).read
    with h5py.File(path, "w") as file:
        file["a"], file["u"] = values(8, H, H), values(8, H, H)
    assert prepared(data=path).read != first
