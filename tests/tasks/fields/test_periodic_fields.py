"""Which axes of a user's fields are periodic: given, or from the boundary conditions of The Well."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from data_files import save
from field_files import prepared, problem
from test_layouts import well

from attn_bench.plugin import OptionError
from attn_bench.tasks.darcy.task import Darcy
from attn_bench.tasks.navier_stokes.task import NavierStokes


def states(tmp_path, *shape):
    return str(save(tmp_path / "file.npz", {"u": np.random.default_rng(0).normal(size=shape).astype(np.float32)}))


def test_the_well_says_it_by_its_boundary_conditions(tmp_path):
    path = str(tmp_path / "made.hdf5")
    well(tmp_path / "made.hdf5")
    assert problem(data=path).periodic == (True, True)
    assert "; periodic along h and w" in prepared(data=path).read[0]
    assert problem(data=path, periodic="none").periodic == ()
    with h5py.File(path, "r+") as file:
        file["boundary_conditions/x_periodic"].attrs["bc_type"] = "WALL"
    assert problem(data=path).periodic == (False, True)
    with h5py.File(path, "r+") as file:
        file["boundary_conditions/y_periodic"].attrs["associated_dims"] = ["x", "y"]
    assert problem(data=path).periodic == (True, True)


def test_it_can_be_given(tmp_path):
    of = {"data": states(tmp_path, 4, 12, 9), "input": "u", "target": "u", "axes": "nhw"}
    assert problem(**of).periodic == ()
    assert problem(**of, periodic="hw").periodic == (True, True)
    assert problem(**of, periodic="w").periodic == (False, True)


def test_every_nth_point_must_go_on_at_the_first(tmp_path):
    of = {"data": states(tmp_path, 4, 32, 32), "input": "u", "target": "u", "axes": "nhw", "periodic": "hw"}
    assert problem(16, **of).periodic == (True, True)
    of["data"] = states(tmp_path, 4, 33, 33)
    assert problem(33, **of).periodic == (True, True)
    assert problem(17, **of).periodic == ()


def test_fields_on_a_line_have_no_second_axis(tmp_path):
    of = {"data": states(tmp_path, 4, 32), "input": "u", "target": "u", "axes": "nh"}
    assert problem(**of, periodic="h").periodic == (True,)
    with pytest.raises(OptionError, match=r"fields.periodic=w: .* has fields on a line, which have h only"):
        problem(**of, periodic="w")


def test_equations_say_it():
    flow, darcy = NavierStokes(), Darcy()
    assert flow.problem(32, flow.options()).periodic == (True, True)
    assert darcy.problem(16, darcy.options()).periodic == ()
