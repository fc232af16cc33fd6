"""Arbitrary and damaged files give either fields and a line that describes them, or one line that says why not."""

from __future__ import annotations

import io
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_bench.plugin import DataError, OptionError, PrepareContext
from attn_bench.tasks.darcy.task import Darcy

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
often = settings(suppress_health_check=list(HealthCheck))
NAMES = (
    "x",
    "y",
    "a",
    "u",
    "X",
    "coeff",
    "sol",
    "1",
    "",
    "tensor",
    "a b",
    "ü",
    "a/b",
    "#refs#",
    "\n\x1b[31m",
    "x" * 300,
)
TYPES = ("f8", ">f4", "f2", "i4", "u1", "?", "c16", "S3", "U2", "O", "M8[s]", [("p", "f8"), ("q", "i4")])
OPTIONS = st.sampled_from([{}, {}, {}, {"axes": "hwn"}, {"axes": "nchw"}, {"input_key": "x"}, {"target_key": "1"}])


def check(path: Path, **options: Any) -> str | None:
    """Prepare the data as a run does; return the line that a user sees, None where there are data."""
    task = Darcy()
    try:
        resolved = task.resolve((8,), task.options(data=str(path), **options))
        first = task.prepare((8,), resolved, PrepareContext())
        splits = task.splits(8, resolved)
    except (DataError, OptionError) as error:
        line = str(error)
        assert line
        assert not set(line.replace(str(path), "")) & set("\n\r\x1b\0")
        assert len(line) < 3000
        return line
    assert " samples of " in first.read[0]
    inputs, targets = splits.train[0]
    assert inputs.shape == targets.shape == (1, *task.problem(8, resolved).grid)
    assert inputs.isfinite().all()
    assert targets.isfinite().all()
    return None


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        shutil.rmtree(made)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array that may well be a field, and may be anything else."""
    usual = st.sampled_from([(6, 8, 8), (6, 1, 8, 8), (8, 8, 6), (6, 8, 16), (1, 8, 8), (6, 8, 8, 1)])
    shape = draw(st.one_of(usual, usual, st.lists(st.integers(0, 9), max_size=5).map(tuple)))
    values = np.random.default_rng(draw(st.integers(0, 3))).random(shape) + draw(st.sampled_from([0, 1, -0.5]))
    values = values * draw(st.sampled_from([1, 1, 1, 0, 1e-40, 1e300, np.nan, np.inf]))
    kind = draw(st.one_of(st.just("f8"), st.sampled_from(TYPES)))
    if isinstance(kind, list):
        return np.zeros(shape, kind)
    with np.errstate(all="ignore"):
        return values.astype("i8").astype(kind) if kind == "M8[s]" else values.astype(kind)


ITEMS = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(arrays(), st.text(max_size=3), st.integers(), st.none()), max_size=5
)
TREES = st.recursive(
    ITEMS, lambda inner: st.dictionaries(st.sampled_from(NAMES), st.one_of(inner, arrays()), max_size=4)
)
BOTH = st.builds(lambda tree, x, y: {"x": x, "y": y} | tree, TREES, arrays(), arrays())


def to_torch(value: Any, wrap: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(value, dict):
        return {name: to_torch(item, wrap) for name, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    try:
        tensor = torch.from_numpy(value.copy())
    except (TypeError, ValueError):
        return value.tolist()
    try:
        return wrap(tensor)
    except (RuntimeError, NotImplementedError, IndexError):
        return tensor


WRAPS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t,
    lambda t: t,
    lambda t: t.to_sparse(),
    lambda t: t.bfloat16(),
    lambda t: t.to("meta"),
    lambda t: t[:1].expand(10**9, *t.shape[1:]),
    lambda t: torch.nn.Parameter(t.float()),
    lambda t: [t, (t, 3)],
)


@often
@given(tree=TREES | BOTH, wrap=st.sampled_from(WRAPS), new=st.booleans(), options=OPTIONS)
def test_any_pt(tree, wrap, new, options):
    with folder() as into:
        with suppress(RuntimeError):  # what the old format cannot hold
            torch.save(to_torch(tree, wrap), into / "a.pt", _use_new_zipfile_serialization=new)
        check(into / "a.pt", **options)


@often
@given(tree=ITEMS | BOTH, packed=st.booleans(), options=OPTIONS)
def test_any_npz(tree, packed, options):
    with folder() as into:
        with zipfile.ZipFile(into / "a.npz", "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
            for name, value in tree.items():
                content = io.BytesIO()
                np.save(content, np.asarray(value, None if isinstance(value, np.ndarray | str | int) else object))
                archive.writestr(f"{name}.npy", content.getvalue())
        check(into / "a.npz", **options)


@often
@given(tree=TREES | BOTH, packed=st.booleans(), old=st.booleans(), options=OPTIONS)
def test_any_mat(tree, packed, old, options):
    with folder() as into:
        content = {f"v{name}" if not name.isidentifier() else name[:30]: value for name, value in tree.items()}
        with suppress(Exception):  # what the format cannot hold
            scipy.io.savemat(into / "a.mat", content, do_compression=packed, format="4" if old else "5")
        check(into / "a.mat", **options)


def into_hdf5(group: Any, tree: dict[str, Any], rng: random.Random) -> None:
    for name, value in tree.items():
        with suppress(Exception):  # what the format cannot hold
            if isinstance(value, dict):
                into_hdf5(group.create_group(name), value, rng)
                continue
            chunked = isinstance(value, np.ndarray) and value.ndim and value.size and rng.random() < 0.5
            how = {"compression": "gzip", "chunks": tuple(rng.randint(1, s) for s in value.shape)} if chunked else {}
            group.create_dataset(name, data=value, **how)
            if rng.random() < 0.3:
                kind = rng.choice(["double", "char", "cell", "struct", "logical"])
                group[name].attrs["MATLAB_class"] = np.bytes_(kind)
            if rng.random() < 0.2:
                link = rng.choice([h5py.SoftLink("/x"), h5py.ExternalLink("/etc/passwd", "/x"), group])
                group[f"{name}-again"] = link


@often
@given(tree=TREES | BOTH, seed=st.integers(0, 99), block=st.sampled_from([0, 512, 2048]), options=OPTIONS)
def test_any_hdf5(tree, seed, block, options):
    with folder() as into:
        with h5py.File(into / "a.h5", "w", userblock_size=block) as file:
            into_hdf5(file, tree, random.Random(seed))
        check(into / "a.h5", **options)


@cache
def whole_files() -> dict[str, bytes]:
    """Return a good file of each sort."""
    fields = np.random.default_rng(0).random((2, 6, 8, 8)) + 1
    named = dict(zip("xy", fields))
    with folder() as into:
        for name, new in (("new.pt", True), ("old.pt", False)):
            tensors = {key: torch.from_numpy(value) for key, value in named.items()}
            torch.save(tensors, into / name, _use_new_zipfile_serialization=new)
        np.savez(into / "plain.npz", **named)
        np.savez_compressed(into / "packed.npz", **named)
        scipy.io.savemat(into / "plain.mat", named)
        scipy.io.savemat(into / "packed.mat", {"s": named, "sparse": scipy.sparse.eye(3).tocsc()}, do_compression=True)
        scipy.io.savemat(into / "four.mat", {key: value[0] for key, value in named.items()}, format="4")
        for version in ("earliest", "latest"):
            with h5py.File(into / f"{version}.h5", "w", libver=version) as file:
                file.create_dataset("x", data=fields[0], chunks=(2, 4, 4), compression="gzip", shuffle=True)
                file["g/y"], file["t"], file["l"] = fields[1].T, "text", h5py.SoftLink("/x")
                file["g/y"].attrs["MATLAB_class"] = np.bytes_("double")
        return {path.name: path.read_bytes() for path in into.iterdir()}


GOOD = (
    "new.pt",
    "old.pt",
    "plain.npz",
    "packed.npz",
    "plain.mat",
    "packed.mat",
    "four.mat",
    "earliest.h5",
    "latest.h5",
)


@pytest.mark.parametrize("name", GOOD)
@often
@given(data=st.data())
def test_any_damage(name, data):
    content = bytearray(whole_files()[name])
    for _ in range(data.draw(st.integers(0, 8), "flips")):
        content[data.draw(st.integers(0, len(content) - 1), "at")] = data.draw(st.integers(0, 255), "byte")
    if data.draw(st.booleans(), "cut"):
        first = data.draw(st.integers(0, len(content)), "from")
        del content[first : first + data.draw(st.integers(1, len(content)), "count")]
    with folder() as into:
        (into / name).write_bytes(content)
        check(into / name)


@pytest.mark.parametrize("name", ["plain.mat", "earliest.h5"])
def test_any_byte_of_the_first_headers(name):
    """A library that takes what stands there as it is may end the process: scipy does so for types of elements."""
    content = whole_files()[name]
    with folder() as into:
        for at in range(128, 300) if name.endswith("mat") else range(96):
            (into / name).write_bytes(content[:at] + b"\xc8" + content[at + 1 :])
            check(into / name)


def test_whole_files_are_read():
    """Or everything above would hold of a reader that refuses all."""
    assert set(whole_files()) == set(GOOD)
    for name, content in whole_files().items():
        with folder() as into:
            (into / name).write_bytes(content)
            said = check(into / name, axes="nhw")
            assert (said is None) == (name != "four.mat"), said
