"""Files in the layouts of published data sets: read with one command, each axis where its authors have it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from field_files import prepared, problem, resolved, splits, tensors, values
from test_arrays import in_order

from attn_bench.plugin import DataError

N, T, H, W = 5, 4, 6, 8


def lines(path, **options):
    return prepared(data=str(path), **options).read


def everything(path, **options):
    found = splits(data=str(path), **options)
    return [np.concatenate(parts) for parts in zip(tensors(found.train), tensors(found.test))]


def pdebench(path, arrays, x=H, y=W, t=None):
    """Write arrays with the coordinates of PDEBench beside them."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        for name, size in (("x", x), ("y", y), ("t", t)):
            if size is not None:
                file[f"{name}-coordinate"] = np.linspace(0, 1, size, dtype=np.float32)
    return path


def test_darcy_flow_of_pdebench(tmp_path):
    arrays = {"nu": values(N, H, H), "tensor": values(N, 1, H, H)}
    path = pdebench(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5", arrays, H, H)
    inputs, targets = everything(path)
    in_order(inputs[:, 0], arrays["nu"])
    in_order(targets, arrays["tensor"])
    assert "input nu (nhw, as in PDEBench); target tensor (nchw, as in PDEBench)" in lines(path)[0]


def test_compressible_flow_of_pdebench(tmp_path):
    names = ("Vx", "Vy", "density", "pressure")
    arrays = {name: values(N, T, H, W) for name in names}
    path = pdebench(tmp_path / "2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5", arrays, t=T + 1)
    inputs, targets = everything(path)
    assert inputs.shape == (N * (T - 1), 4, H, W)
    in_order(inputs[:, 2], arrays["density"][:, :-1].reshape(-1, H, W))
    in_order(targets[:, 0], arrays["Vx"][:, 1:].reshape(-1, H, W))
    inputs, targets = everything(path, input="Vx+Vy", target="pressure")
    assert (inputs.shape[1], targets.shape[1]) == (2, 1)


def test_fields_on_a_line_of_pdebench(tmp_path):
    tensor = values(N, T, H)
    path = pdebench(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", {"tensor": tensor}, y=None, t=T + 1)
    assert problem(data=str(path)).grid == (H,)
    inputs, targets = everything(path)
    in_order(inputs[:, 0], tensor[:, :-1].reshape(-1, H))
    in_order(targets[:, 0], tensor[:, 1:].reshape(-1, H))


def test_a_group_for_each_sample_of_pdebench(tmp_path):
    data = values(N, T, H, W, 2)
    path = tmp_path / "2D_diff-react_NA_NA.h5"
    with h5py.File(path, "w") as file:
        for i, sample in enumerate(data):
            group = file.create_group(f"{i:04d}")
            group["data"] = sample
            for name, size in (("t", T), ("x", H), ("y", W)):
                group[f"grid/{name}"] = np.linspace(0, 1, size, dtype=np.float32)
            group.attrs["config"] = "seed: 0"
    inputs, targets = everything(path)
    moved = data.transpose(0, 1, 4, 2, 3)
    in_order(inputs, moved[:, :-1].reshape(-1, 2, H, W))
    in_order(targets, moved[:, 1:].reshape(-1, 2, H, W))
    assert f"{N * (T - 1)} pairs of steps 1 apart of {H} x {W}" in lines(path)[0]


def test_incompressible_flow_of_pdebench_asks_for_its_roles(tmp_path):
    path = tmp_path / "ns_incom_inhom_2d_512-0.h5"
    with h5py.File(path, "w") as file:
        file["velocity"], file["particles"] = values(N, T, H, H, 2), values(N, T, H, H, 1)
        file["force"], file["t"] = values(N, H, H, 2), values(N, T)
    with pytest.raises(DataError, match=r"it is not clear which array is the input and which the target; it has force"):
        resolved(data=str(path))
    assert problem(data=str(path), input="velocity+force", target="velocity", axes="nthwc").inputs == 4


def well(path, dimensions=2, samples=N):
    """Write a file as The Well's own ``the_well/utils/dummy_data.py`` does."""
    grid = (H, W)[:dimensions]
    fields = {
        "t0_fields": {"density": values(samples, T, *grid), "speed": values(samples, *grid)},
        "t1_fields": {"velocity": values(samples, T, *grid, dimensions)},
        "t2_fields": {"D": values(samples, T, *grid, dimensions, dimensions)},
    }
    with h5py.File(path, "w") as file:
        file.attrs.update(
            a=0.25, dataset_name="made", grid_type="cartesian", n_spatial_dims=dimensions, n_trajectories=samples,
            simulation_parameters=["a"],
        )  # fmt: skip
        axes = ["x", "y"][:dimensions]
        conditions = file.create_group("boundary_conditions")
        for axis, size in zip(axes, grid):
            group = conditions.create_group(f"{axis}_periodic")
            group.attrs.update(
                associated_dims=axis, associated_fields=[], bc_type="PERIODIC", sample_varying=False, time_varying=False
            )
            group["mask"] = np.zeros(size, bool)
        group = file.create_group("dimensions")
        group.attrs["spatial_dims"] = axes
        for name, size in zip(["time", *axes], (T, *grid)):
            group[name] = np.linspace(0, 1, size, dtype=np.float32)
            group[name].attrs["sample_varying"] = False
        group = file.create_group("scalars")
        group.attrs["field_names"] = ["a"]
        group["a"] = 0.25
        group["a"].attrs.update(time_varying=False, sample_varying=False)
        for kind, arrays in fields.items():
            group = file.create_group(kind)
            group.attrs["field_names"] = list(arrays)
            for name, array in arrays.items():
                group[name] = array
                group[name].attrs.update(
                    dim_varying=[True] * dimensions, sample_varying=True, time_varying=name != "speed"
                )
    return {name: array for arrays in fields.values() for name, array in arrays.items()}


def test_the_well(tmp_path):
    arrays = well(tmp_path / "made.hdf5")
    inputs, targets = everything(tmp_path / "made.hdf5")
    assert (inputs.shape[1], targets.shape[1]) == (1 + 2 + 4 + 1, 1 + 2 + 4)
    in_order(targets[:, 0], arrays["density"][:, 1:].reshape(-1, H, W))
    in_order(targets[:, 1:3], arrays["velocity"][:, 1:].transpose(0, 1, 4, 2, 3).reshape(-1, 2, H, W))
    in_order(targets[:, 3:7], arrays["D"][:, 1:].reshape(-1, H, W, 4).transpose(0, 3, 1, 2))
    in_order(inputs[:: T - 1, 7], arrays["speed"])
    assert "t2_fields/D (nthwcc, as in The Well)" in lines(tmp_path / "made.hdf5")[0]


def test_a_split_of_the_well_is_a_folder(tmp_path):
    for part in ("one", "two"):
        well(tmp_path / f"{part}.hdf5", samples=3)
    assert len(everything(tmp_path)[0]) == 6 * (T - 1)


def test_the_well_in_other_dimensions(tmp_path):
    well(tmp_path / "line.hdf5", 1)
    assert problem(data=str(tmp_path / "line.hdf5")).input_shape(1) == (1, 4, H)
    with h5py.File(tmp_path / "line.hdf5", "r+") as file:
        file.attrs["n_spatial_dims"] = 3
    with pytest.raises(DataError, match="its fields have 3 dimensions; fields serves one and two"):
        resolved(data=str(tmp_path / "line.hdf5"))


@pytest.mark.slow
def test_the_well_reads_the_same(tmp_path):
    """Skipped unless The Well is there; ``pip install --no-deps the_well`` does, as it pins a version of fsspec."""
    the_well = pytest.importorskip("the_well.data.datasets")
    well(tmp_path / "made.hdf5")
    theirs = the_well.WellDataset(path=str(tmp_path), n_steps_input=1, n_steps_output=1)
    inputs, targets = everything(tmp_path / "made.hdf5")
    assert len(theirs) == len(inputs)
    for sample in theirs:
        moved = [sample[f"{kind}_fields"][0].permute(2, 0, 1).numpy() for kind in ("input", "output")]
        found = np.flatnonzero((inputs[:, :7] == moved[0]).all((1, 2, 3)))
        assert len(found) == 1
        assert (targets[found[0]] == moved[1]).all()
        assert (inputs[found[0], 7] == sample["constant_fields"][..., 0].numpy()).all()


def test_navier_stokes_of_neural_solver_library(tmp_path):
    u = values(N, H, H, 20)
    path = tmp_path / "NavierStokes_V1e-5_N1200_T20.mat"
    scipy.io.savemat(path, {"u": u, "a": values(N, H, H), "t": np.arange(20.0)[None]})
    with pytest.raises(DataError, match=r"nhwc \(5 samples, 20 channels, grid 6 x 6\) or nhwt \(5 samples, 20 steps"):
        resolved(data=str(path))
    inputs, targets = everything(path, axes="nhwt", input="u[t=0:10]", target="u[t=10:20]")
    assert inputs.shape == targets.shape == (N, 10, H, H)
    in_order(targets[:, 9], u[..., 19])


def test_meshes_of_neural_solver_library(tmp_path):
    q = values(N, 5, H, W)
    for name, array in (("X", values(N, H, W)), ("Y", values(N, H, W)), ("Q", q)):
        np.save(tmp_path / f"NACA_Cylinder_{name}.npy", array)
    inputs, targets = everything(
        tmp_path, axes="nchw", input="NACA_Cylinder_X+NACA_Cylinder_Y", target="NACA_Cylinder_Q[4]"
    )
    assert inputs.shape == (N, 2, H, W)
    in_order(targets[:, 0], q[:, 4])


def test_plasticity_of_neural_solver_library(tmp_path):
    force, output = values(N, H), values(N, H, W, 20, 4)
    path = tmp_path / "plas_N987_T20.mat"
    scipy.io.savemat(path, {"input": force, "output": output})
    inputs, targets = everything(path, input="input:nh", target="output:nhwtc[t=19]")
    assert (inputs == inputs[..., :1]).all()
    in_order(inputs[:, 0, :, 0], force)
    in_order(targets, output[..., 19, :].transpose(0, 3, 1, 2))


def test_darcy_flow_of_neuraloperator(tmp_path):
    arrays = {"x": values(N, H, H) > 50, "y": values(N, H, H)}
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "darcy_train_16.pt")
    inputs, targets = everything(tmp_path / "darcy_train_16.pt")
    in_order(targets[:, 0], arrays["y"])
    assert set(np.unique(inputs)) <= {0, 1}
