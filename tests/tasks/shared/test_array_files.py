"""Files of arrays in every format: contents are described, and references to other files are not followed."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_files import open_arrays
from attn_bench.tasks.shared.array_formats import contents

SHAPE = (6, 8, 8)
VALUES = np.random.default_rng(0).random(SHAPE)
TENSOR = torch.from_numpy(VALUES)
HOLD = "import h5py, sys, time; f = h5py.File(sys.argv[1], 'a'); print(flush=True); time.sleep(60)"


def refusal(path):
    """Return the one line with which a file is refused."""
    with pytest.raises(DataError) as error:
        open_arrays(path)
    assert str(error.value).startswith(str(path))
    assert not set(str(error.value)) & set("\n\x1b")
    return str(error.value)


def what(path, name):
    """Return what is said of a name that holds no array of real numbers."""
    return open_arrays(path).others[name].what


def read(path, name):
    return open_arrays(path).arrays[name].read()


def marked(group, name, values, kind):
    """Add a variable as MATLAB 7.3 does."""
    group[name] = values.T
    group[name].attrs["MATLAB_class"] = np.bytes_(kind)


def test_the_content_determines_the_format(tmp_path):
    torch.save({"x": TENSOR}, tmp_path / "a.h5")
    torch.save({"x": TENSOR}, tmp_path / "b.MAT", _use_new_zipfile_serialization=False)
    with (tmp_path / "c.pt").open("wb") as file:
        np.savez(file, x=VALUES)
    with h5py.File(tmp_path / "d.dat", "w", userblock_size=1024) as file:
        file["x"] = VALUES
    scipy.io.savemat(tmp_path / "e", {"x": VALUES}, appendmat=False)
    for path in tmp_path.iterdir():
        assert (read(path, "x") == VALUES).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\x01\x00v\x00", "a single numpy array; put both into one file with numpy.savez"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip; unpack it"),
        (b"CDF\x01" + bytes(100), "netCDF 3"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "the download failed"),
        (pickle.dumps({"x": VALUES}), "a Python pickle, which is not read"),
        (b"# Created by Octave 9.2", "save -v7"),
        (b"x,y\n1,2\n", "its content has another format"),
    ],
)
def test_files_that_are_taken_for_these(tmp_path, content, message):
    (tmp_path / "mine.npz").write_bytes(content)
    assert message in refusal(tmp_path / "mine.npz")


def test_paths_that_are_not_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    assert "a pipe or a device" in refusal(tmp_path / "pipe.pt")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop.pt")
    assert "File name too long" in refusal(tmp_path / f"{'a' * 300}.pt")
    assert "null byte" in refusal(tmp_path / "a\0.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_must_not_be_read(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"x")
    (tmp_path / "mine.pt").chmod(0)
    assert "permission denied" in refusal(tmp_path / "mine.pt")


def test_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"gr\xfc\xdf.pt")
    torch.save({"x": TENSOR}, tmp_path / "plain.pt")
    os.rename(tmp_path / "plain.pt", path)
    assert (read(path, "x") == VALUES).all()


def test_tensors_of_every_kind(tmp_path):
    cycle: dict = {"x": TENSOR}
    cycle["again"] = cycle
    made = {
        "half": TENSOR.half().requires_grad_(),
        "bfloat16": TENSOR.bfloat16(),
        "eight": TENSOR.to(torch.float8_e4m3fn),
        "strided": TENSOR.transpose(0, 2)[::2],
        "expanded": TENSOR[:1].expand(SHAPE),
        "negative": torch.view_as_complex(torch.stack([TENSOR, TENSOR], -1)).conj().imag,
        "bool": TENSOR > 0.5,
        "sparse": TENSOR.to_sparse(),
        "meta": torch.empty(SHAPE, device="meta"),
        "complex": TENSOR * 1j,
        "nested": {"deep": [TENSOR, (TENSOR, 3)]},
        "list": [1, 2, 3],
        "text": "made by hand",
        1: TENSOR,
        "1": TENSOR,
        "cycle": cycle,
        "line\n\x1b[31mbreak": 1,
    }
    torch.save(made, tmp_path / "mine.pt")
    found = open_arrays(tmp_path / "mine.pt")
    assert set(found.arrays) == {
        "half", "bfloat16", "eight", "strided", "expanded", "negative", "bool",
        "nested/deep/0", "nested/deep/1/0", "cycle/x",
    }  # fmt: skip
    for name in ("half", "bfloat16", "strided", "negative"):
        expected = made[name].detach().double().resolve_neg().numpy()
        assert found.arrays[name].shape == expected.shape
        assert (found.arrays[name].read() == expected).all()
    words = {name: other.what for name, other in found.others.items()}
    assert words["sparse"] == "a tensor of layout sparse_coo"
    assert words["meta"].startswith("a tensor without data")
    assert words["complex"] == "complex128"
    assert words["list"] == "a list of 3 values"
    assert words["1"] == "present more than once under this name"
    assert words["cycle/again"] == "nested too deeply"
    assert not set(found.listed()) & set("\n\x1b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": VALUES, "y": VALUES}, r"contains numpy arrays \(numpy\S+\), which require unpickling.*numpy.savez"),
        (torch.nn.Linear(2, 2), r"contains Python objects \(torch.nn.modules.linear.Linear\)"),
        (TENSOR, r"contains only a Tensor of shape \(6, 8, 8\); a dict"),
        (3, "contains 'int'; a dict"),
    ],
)
def test_other_things_that_torch_saves(tmp_path, content, message):
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(DataError, match=message):
        open_arrays(tmp_path / "mine.pt")
    assert "weights_only" not in refusal(tmp_path / "mine.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_s_own_advice_is_never_passed_on(tmp_path):
    torch.save({"x": TENSOR}, tmp_path / "four.pt", pickle_protocol=4)
    assert "weights_only" not in refusal(tmp_path / "four.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "jit.pt"))
    assert "is a TorchScript archive" in refusal(tmp_path / "jit.pt")


def test_an_archive_with_compressed_tensors_is_refused(tmp_path):
    """Mapped into memory, it would be read as it lies there."""
    torch.save({"x": TENSOR}, tmp_path / "mine.pt")
    with zipfile.ZipFile(tmp_path / "mine.pt") as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
    assert "its entries are compressed" in refusal(tmp_path / "new.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, o=np.array([None]), t=np.array(["a"]), s=np.zeros(3, [("p", int)]), d=np.zeros(3, "M8[s]"), x=VALUES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("read.me", "hello")
        archive.writestr("x.npy", archive.read("x.npy"))
    found = open_arrays(path)
    assert not found.arrays
    assert {name: other.what for name, other in found.others.items()} == {
        "o": "Python objects", "t": "text", "s": "a table of p", "d": "dates", "read.me": "not an array",
        "x": "present more than once under this name",
    }  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
def test_structs_are_opened_and_other_matlab_types_are_named(tmp_path, compressed):
    inner = {"coeff": VALUES, "sol": VALUES, "about": "text", "deep": {"z": VALUES}, "cell": np.array([1, "a"], object)}
    values = {
        "data": inner, "array": np.array([{"a": 1}, {"a": 2}]), "cell": np.array([1, "a"], object),
        "name": "text", "sparse": scipy.sparse.eye(4).tocsc(), "flags": VALUES > 0.5,
    }  # fmt: skip
    scipy.io.savemat(tmp_path / "mine.mat", values, do_compression=compressed)
    found = open_arrays(tmp_path / "mine.mat")
    assert found.matlab
    assert set(found.arrays) == {"data/coeff", "data/sol", "data/deep/z", "flags"}
    assert (found.arrays["data/deep/z"].read() == VALUES).all()
    assert {name: other.what for name, other in found.others.items()} == {
        "data/about": "text", "data/cell": "a cell array", "array": "a cell array", "cell": "a cell array",
        "name": "text", "sparse": "a sparse matrix",
    }  # fmt: skip


def test_matlab_s_hdf5_is_distinguished_from_python_s(tmp_path):
    with h5py.File(tmp_path / "mine.mat", "w") as file:
        marked(file, "x", VALUES[:, :4], "double")
        marked(file.create_group("data"), "y", VALUES[:, :4], "single")
        file["z"] = VALUES[:, :4]
        marked(file, "text", np.zeros((1, 5), np.uint16), "char")
        marked(file, "table", np.zeros((1, 6), np.uint32), "table")
        marked(file, "cell", np.zeros((1, 6), np.uint64), "cell")
        marked(file, "empty", np.zeros(2, np.uint64), "double")
        file["empty"].attrs["MATLAB_empty"] = np.uint8(1)
        file["odd"] = VALUES
        file["odd"].attrs["MATLAB_class"] = [1, 2, 3]
        file.create_group("sparse").attrs["MATLAB_sparse"] = np.uint64(4)
        marked(file["sparse"], "data", np.zeros(4), "double")
        file["#refs#/a"] = VALUES
    found = open_arrays(tmp_path / "mine.mat")
    assert found.matlab
    assert {name: array.shape for name, array in found.arrays.items()} == {
        "x": (6, 4, 8), "data/y": (6, 4, 8), "z": (6, 4, 8), "empty": (0,),
    }  # fmt: skip
    assert all((found.arrays[name].read() == VALUES[:, :4]).all() for name in ("x", "data/y", "z"))
    assert {name: other.what for name, other in found.others.items()} == {
        "text": "text", "table": "a MATLAB table", "cell": "a cell array", "odd": "a MATLAB unknown",
        "sparse": "a sparse matrix",
    }  # fmt: skip


def test_data_stored_in_another_file_are_not_read(tmp_path):
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = VALUES
    layout = h5py.VirtualLayout(SHAPE, "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", SHAPE)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file.create_dataset("external", SHAPE, "f8", external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)])
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        file["group"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["soft"] = h5py.SoftLink("/group/x")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file.create_virtual_dataset("virtual", layout)
        file["own"] = VALUES
        file["ring/up"] = file["/"]
    found = open_arrays(tmp_path / "mine.h5")
    assert set(found.arrays) == {"own"}
    assert {name: other.what for name, other in found.others.items()} == {
        "external": "stored in another file (external storage)",
        "link": "a link to another file",
        "group": "a link to another file",
        "soft": "a link to /group/x",
        "dangling": "a link to /nowhere",
        "virtual": "assembled from other data sets (virtual)",
    }


def test_hdf5_types_that_are_no_real_numbers(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["big"], file["half"], file["bool"] = VALUES.astype(">f8"), VALUES.astype("<f2"), VALUES > 0.5
        file["table"] = np.zeros(3, [("p", int), ("q", float)])
        file["complex"], file["text"], file["null"] = VALUES * 1j, "text", h5py.Empty("f8")
        file["matlab"] = np.zeros(3, [("real", float), ("imag", float)])
        file["enum"] = np.zeros(3, h5py.enum_dtype({"RED": 0}))
        file.create_dataset("lists", (3,), h5py.vlen_dtype("f8"))
        file.create_dataset("references", (3,), h5py.ref_dtype)
        file["packed"] = np.zeros(SHAPE, np.int16)
        file["packed"].attrs["scale_factor"] = 0.1
    found = open_arrays(tmp_path / "mine.h5")
    assert set(found.arrays) == {"big", "half", "bool"}
    assert {name: other.what for name, other in found.others.items()} == {
        "table": "a table of p, q", "complex": "complex128", "text": "text", "null": "empty", "matlab": "complex",
        "enum": "an enumeration", "lists": "references or lists of any length",
        "references": "references or lists of any length", "packed": "packed (scale_factor, add_offset)",
    }  # fmt: skip


def test_an_array_that_was_never_written_is_refused(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file.create_dataset("x", (10**5, 320, 320), "f8")
        file.create_dataset("y", SHAPE, "f8", chunks=(2, 8, 8))[:2] = 1
    assert what(tmp_path / "mine.h5", "x") == "an array that was never written"
    assert what(tmp_path / "mine.h5", "y") == "incomplete (1 of 3 chunks are present)"


def test_a_file_open_elsewhere_is_not_called_damaged(tmp_path):
    path = tmp_path / "mine.h5"
    with h5py.File(path, "w") as file:
        file["x"] = VALUES
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            assert "is open for writing elsewhere" in refusal(path)
        finally:
            other.kill()
    assert "x" in open_arrays(path).arrays


def expanded(path):
    torch.save({"x": torch.zeros(1).expand(10**5, 320, 320)}, path)


def packed(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (20, 1024, 1024), "f8", chunks=(20, 1024, 1024), compression="gzip")[0, 0, 0] = 1


@pytest.mark.parametrize("make", [expanded, packed])
def test_a_claim_that_a_file_cannot_hold_is_refused_unread(tmp_path, make, monkeypatch):
    make(tmp_path / "mine.dat")
    monkeypatch.setattr(contents, "MOST_PACKED", 100)
    monkeypatch.setattr("attn_bench.tasks.shared.array_files.MOST_PACKED", 100)
    with pytest.raises(DataError, match=r"'x' claims .* \(shape .*\), which a file of .* cannot hold"):
        read(tmp_path / "mine.dat", "x")


@pytest.mark.parametrize("bits", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_more_than_its_member_has(tmp_path, bits):
    header = io.BytesIO()
    claimed = {"descr": "<f8", "fortran_order": False, "shape": (10**5, 320, 320)}
    np.lib.format.write_array_header_1_0(header, claimed)
    with zipfile.ZipFile(tmp_path / "mine.npz", "w", bits) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(800))
    assert "'x.npy' claims the shape (100000, 320, 320), but has 800 bytes of data" in refusal(tmp_path / "mine.npz")


def test_a_chunk_counts_whole(tmp_path):
    """It is unpacked whole, however little of it is used."""
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file.create_dataset("x", SHAPE, "f8", maxshape=(None,) * 3, chunks=(600, 64, 64), compression="gzip")[:] = (
            VALUES
        )
    assert open_arrays(tmp_path / "mine.h5").arrays["x"].nbytes == 600 * 64 * 64 * 8


def test_depth_and_number_have_limits(tmp_path):
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["/".join("g" * 3000) + "/x"] = file["x"] = VALUES
    assert list(open_arrays(tmp_path / "deep.h5").arrays) == ["x"]
    torch.save(dict.fromkeys(range(10001), 0), tmp_path / "many.pt")
    assert "contains more than 10000 items; save only the two arrays" in refusal(tmp_path / "many.pt")


def test_sizes_in_words():
    assert [contents.in_units(size) for size in (0, 1023, 1536, 83886080000)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "78.1 GiB",
    ]  # fmt: skip


def element(order, kind, data):
    """An element of a MATLAB file, in its tag where it has up to four bytes, as MATLAB writes it."""
    if len(data) <= 4:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("stored", "kind", "shape"), [("u1", 2, (2, 3, 5)), ("i2", 3, (2, 3, 5)), ("u1", 2, (2, 1, 2))]
)
def test_matlab_stores_whole_numbers_in_fewer_bytes_and_on_other_machines_in_another_order(
    tmp_path, order, packed, stored, kind, shape
):
    values = np.arange(np.prod(shape)).reshape(shape)
    parts = [
        element(order, 6, struct.pack(f"{order}II", 6, 0)),  # of class double
        element(order, 5, struct.pack(f"{order}3i", *shape)),
        element(order, 1, b"coefficient"),
        element(order, kind, values.astype(f"{order}{stored}").tobytes("F")),
    ]
    content = element(order, 14, b"".join(parts))
    if packed:
        content = zlib.compress(content)
        content = struct.pack(f"{order}II", 15, len(content)) + content
    header = b"MATLAB 5.0 MAT-file".ljust(124) + (b"\x00\x01IM" if order == "<" else b"\x01\x00MI")
    (tmp_path / "mine.mat").write_bytes(header + content)
    assert (read(tmp_path / "mine.mat", "coefficient") == values).all()
    if packed:
        (tmp_path / "mine.mat").write_bytes(header + content[:-1] + b"\x00")
        with pytest.raises(DataError, match="or a damaged one"):
            read(tmp_path / "mine.mat", "coefficient")
