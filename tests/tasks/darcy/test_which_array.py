"""Axes and arrays in a data file: recognized where they are unambiguous, otherwise the user has to name them."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch
from data_files import save

from attn_bench.plugin import DataError, OptionError, PrepareContext
from attn_bench.tasks.darcy.array_axes import Axes
from attn_bench.tasks.darcy.grids import choose_for_file
from attn_bench.tasks.darcy.task import Darcy

GENERATOR = np.random.default_rng(0)


def pair(*shape):
    return {"x": GENERATOR.random(shape) + 1, "y": GENERATOR.random(shape) + 1}


def said(resolution, **options):
    """Return what a run says, which must be what the record says."""
    resolved = Darcy().resolve((resolution,), Darcy.options(**options))
    (line,) = Darcy().prepare((resolution,), resolved, PrepareContext()).read
    splits = Darcy().splits(resolution, resolved)
    assert line == splits.identity["read"]
    return line


@pytest.mark.parametrize(
    ("name", "shape", "samples"),
    [
        ("a.npz", (40, 16, 16), "40 samples of 16 x 16 from a.npz: 32 train, 8 test"),
        ("a.pt", (40, 16, 64), "40 samples of 16 x 64 from a.pt: 32 train, 8 test"),
        ("a.h5", (5, 16, 16), "5 samples of 16 x 16 from a.h5: 4 train, 1 test"),
        ("a.mat", (40, 16, 16), "40 samples of 16 x 16 from a.mat: 32 train, 8 test"),
        ("a.npz", (40, 1, 16, 16), "40 samples of 16 x 16"),
        ("a.npz", (40, 16, 16, 1), "40 samples of 16 x 16"),
    ],
)
def test_without_doubt(tmp_path, name, shape, samples):
    assert said(16, data=save(tmp_path / name, pair(*shape))).startswith(samples)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.mat", (16, 16, 40)),  # as MATLAB's users save
        ("a.npz", (16, 16, 40)),
        ("a.npz", (16, 16, 16)),
        ("a.pt", (16, 40, 16)),
        ("a.h5", (10, 16, 64)),  # fewer samples than points on either axis
        ("a.mat", (40, 16, 64)),  # not square, from MATLAB
        ("a.npz", (16, 1, 16, 40)),
    ],
)
def test_in_doubt_both_readings_are_named_and_either_can_be_chosen(tmp_path, name, shape):
    arrays = pair(*shape)
    path = save(tmp_path / name, arrays)
    n, h, w = (size for size in shape if size > 1)
    with pytest.raises(DataError) as error:
        Darcy().resolve((min(h, w),), Darcy.options(data=path))
    for wanted in (f"nhw ({n} samples of {h} x {w})", f"hwn ({w} samples of {n} x {h})"):
        assert f"--set darcy.axes={wanted}" in str(error.value)
    assert "\n" not in str(error.value)
    assert said(h, data=path, axes="nhw").startswith(f"{n} samples of {h} x {w} from {name}")
    assert said(n, data=path, axes="hwn").startswith(f"{w} samples of {n} x {h} from {name}")


@pytest.mark.parametrize(
    "letters", ["".join(order) for size in ("nhw", "nchw") for order in itertools.permutations(size)]
)
def test_every_order_of_axes_gives_the_same_fields(letters):
    sizes = {"n": 5, "h": 3, "w": 4, "c": 1}
    fields = np.arange(60.0).reshape(5, 3, 4)
    stored = np.empty([sizes[letter] for letter in letters])
    for n, h, w in np.ndindex(5, 3, 4):
        at = {"n": n, "h": h, "w": w, "c": 0}
        stored[tuple(at[letter] for letter in letters)] = fields[n, h, w]
    found = Axes(stored.shape, letters)
    assert found.shape == fields.shape
    assert (found.ordered(stored) == fields).all()


def test_a_channel_axis_of_only_one_array(tmp_path):
    arrays = {"x": GENERATOR.random((16, 16, 40)), "y": GENERATOR.random((16, 16, 1, 40)) + 1}
    path = save(tmp_path / "a.npz", arrays)
    for axes in ("HWCN", "hwn"):
        assert said(16, data=path, axes=axes).startswith("40 samples of 16 x 16")
    with pytest.raises(DataError, match=r"'x' has 4 axes .* darcy.axes=hwn names 3"):
        said(16, data=save(tmp_path / "b.npz", pair(16, 16, 2, 40)), axes="hwn")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16,), "; expected "),
        ((16, 16), "; expected "),
        ((40, 1, 1, 16, 16), "; expected "),
        ((40, 3, 16, 16), "store the channel to use"),
        ((16, 16, 1, 40), "give the order with --set darcy.axes="),
    ],
)
def test_other_shapes_are_refused_with_what_was_found(tmp_path, shape, message):
    with pytest.raises(DataError, match=message) as error:
        said(16, data=save(tmp_path / "a.npz", pair(*shape)))
    assert f"has shape {shape}" in str(error.value)


@pytest.mark.parametrize("axes", ["", "nh", "nhwx", "nnhw", "nhwcc", "batch"])
def test_invalid_axes_are_refused(axes):
    with pytest.raises(OptionError, match="name every axis by a letter"):
        Darcy().resolve((16,), Darcy.options(data="mine.npz", axes=axes))


def test_two_pairs_are_asked_about(tmp_path):
    path = save(tmp_path / "a.npz", {**pair(6, 8, 8), "a": pair(6, 8, 8)["x"], "u": pair(6, 8, 8)["y"]})
    with pytest.raises(DataError, match=r"x and a may both be the input; select one with --set darcy.input_key=x"):
        said(8, data=path)
    with pytest.raises(DataError, match=r"y and u may both be the target; select one with --set darcy.target_key=y"):
        said(8, data=path, input_key="x")
    assert said(8, data=path, input_key="a", target_key="u").endswith("input 'a', target 'u'")


def test_coordinates_by_the_usual_names_are_not_in_the_way(tmp_path):
    fields = pair(6, 8, 8)
    arrays = {"x": np.linspace(0, 1, 8), "y": np.linspace(0, 1, 8), "a": fields["x"], "u": fields["y"]}
    assert said(8, data=save(tmp_path / "a.npz", arrays)).endswith("input 'a', target 'u'")


def test_equal_names_in_groups_are_asked_about_and_a_pair_stays_together(tmp_path):
    torch.save({part: {k: torch.from_numpy(v) for k, v in pair(6, 8, 8).items()} for part in "pq"}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="p/x and q/x may both be the input"):
        said(8, data=str(tmp_path / "a.pt"))
    assert said(8, data=str(tmp_path / "a.pt"), input_key="q/x").endswith("input 'q/x', target 'q/y'")


def test_an_array_of_the_right_name_that_cannot_be_used_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = pair(6, 8, 8)["x"], "text"
    for options in ({}, {"target_key": "y"}):
        with pytest.raises(DataError, match="'y' is text; it must contain real numbers"):
            said(8, data=str(tmp_path / "a.h5"), **options)


def test_names_that_look_like_numbers(tmp_path):
    path = save(tmp_path / "a.h5", {"0001": pair(6, 8, 8)["x"], "0002": pair(6, 8, 8)["y"]})
    assert said(8, data=path, input_key="0001", target_key="0002").endswith("input '0001', target '0002'")


def test_two_files_and_several_resolutions_are_described(tmp_path):
    first = save(tmp_path / "train.npz", pair(6, 9, 17))
    options = {"data": first, "test_data": save(tmp_path / "test.h5", pair(17, 9, 17)), "n_train": 5, "axes": "nhw"}
    resolved = Darcy().resolve((9, 5), Darcy.options(**options))
    line = Darcy().prepare((9, 5), resolved, PrepareContext()).read[0]
    assert line.startswith(
        "6 samples of 9 x 17 from train.npz: 5 train; 17 samples of 9 x 17 from test.h5: 17 test; restricted to 5 x 9"
    )
    with pytest.raises(DataError, match="has the same content as"):
        said(9, data=first, test_data=first, axes="nhw")


def test_generated_data_are_described(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    options = Darcy().resolve((8, 16), Darcy.options(n_train=5, n_test=2, fine=32))
    line = "7 samples of 8 x 8, 16 x 16 generated: 5 train, 2 test"
    assert [Darcy().prepare((8, 16), options, PrepareContext()).read[0] for _ in range(2)] == [line, line]
    assert Darcy().splits(16, options).identity["read"] == "7 samples of 16 x 16 generated: 5 train, 2 test"


def test_more_than_memory_holds_is_refused_before(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"making \d+ Darcy samples at 16 needs .* are free; ask for fewer with darcy.n_train"
    ):
        Darcy().splits(16, Darcy.options(n_train=10**11))
    path = save(tmp_path / "a.npz", pair(6, 8, 8))
    monkeypatch.setattr("attn_bench.tasks.shared.array_formats.contents.free_memory", lambda: 9000)
    with pytest.raises(DataError, match=r"reading both arrays needs 12 KiB of memory, but 8.79 KiB are free"):
        said(8, data=path)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_solutions_whose_errors_single_precision_cannot_tell(tmp_path, scale):
    arrays = pair(6, 8, 8)
    arrays["y"][4] *= scale
    with pytest.raises(DataError, match=r"too small or too large .* in 1 of 6 samples, first in sample 4"):
        said(8, data=save(tmp_path / "a.npz", arrays))


def test_a_constant_field_is_reported(tmp_path):
    arrays = pair(6, 8, 8) | {"x": np.full((6, 8, 8), 3)}
    path = save(tmp_path / "a.npz", arrays)
    first = Darcy().prepare((8,), Darcy().resolve((8,), Darcy.options(data=path)), PrepareContext())
    assert first.warnings == ("a.npz: 'x' is 3 everywhere in the training samples",)


def test_a_coarser_grid_on_which_a_solution_vanishes_is_found_before_training(tmp_path):
    arrays = pair(6, 9, 9)
    arrays["y"][2, ::2, ::2] = 0
    options = Darcy().resolve((9, 5), Darcy.options(data=save(tmp_path / "a.npz", arrays)))
    with pytest.raises(DataError, match="zero everywhere at this resolution in 1 of 6 samples, first in sample 2"):
        Darcy().prepare((9, 5), options, PrepareContext())


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    from attn_bench.tasks.darcy.pairs import PairFile

    path, read = tmp_path / "a.npz", PairFile.read
    save(path, pair(6, 8, 8))
    resolved = Darcy().resolve((8,), Darcy.options(data=str(path)))

    def read_and_rewrite(self):
        found = read(self)
        save(path, pair(6, 8, 8))
        return found

    monkeypatch.setattr(PairFile, "read", read_and_rewrite)
    for options in (resolved, Darcy.options(data=str(path))):
        with pytest.raises(DataError, match=r"has changed since the run started|changed while it was read"):
            Darcy().splits(8, options)


@pytest.mark.parametrize("name", ["no~one.npz", "a b.npz", "größe.npz", "'quoted'.npz"])
def test_names_of_files_as_people_have_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / name, pair(6, 8, 8))
    for given in (name, f"~/{name}", f"./{name}"):
        assert f"from {name}: " in said(8, data=given)
    with pytest.raises(DataError, match="cannot be found"):
        said(8, data="~nobody-of-this-name/a.npz")


def test_a_grid_of_any_claimed_size_is_refused_at_once():
    with pytest.raises(OptionError, match="cannot give resolution 32"):
        choose_for_file((1 << 40, 24), (32,), "auto", "huge.pt")
