"""Named arrays in .pt, .npz, .mat and .h5 files, through one door that reads shapes before it reads data.

Nothing is unpickled: .pt files are loaded with ``weights_only``, .npz files with ``allow_pickle=False``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import DataError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".pt", ".npz", ".mat", ".h5", ".hdf5")


@dataclass(frozen=True)
class StoredArray:
    """An array of a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_arrays(path: Path) -> dict[str, StoredArray]:
    """Return the numeric arrays of a file by name, unread.

    A .mat file of version 7.3 holds every array with its axes reversed; they are put back.

    Raises:
        DataError: the file is missing, of another kind, or damaged.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a file")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without extension'}; give {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    readers = {".pt": _open_pt, ".npz": _open_npz, ".mat": _open_mat, ".h5": _open_h5, ".hdf5": _open_h5}
    found = _guarded(path, lambda: readers[path.suffix.lower()](path))
    return {
        name: StoredArray(array.shape, lambda read=array.read: _guarded(path, read))  # type: ignore[misc]
        for name, array in found.items()
    }


def _guarded(path: Path, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # What the readers raise on a broken file is not documented by any of them: from struct.error to KeyError.
        first = f"{type(error).__name__}: {error}".strip().splitlines()[0][:120]
        why = "" if isinstance(error, KeyError) else f" ({first})"  # the key of a table that no user knows
        raise DataError(f"{path}: no {path.suffix} file with plain arrays, or a damaged one{why}") from None


def _open_pt(path: Path) -> dict[str, StoredArray]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # Files of the format before torch 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds a {type(content).__name__}; a dict with coefficients and solutions is needed")

    def read(value: torch.Tensor) -> np.ndarray:
        # numpy has no bfloat16.
        return (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()

    return {
        str(name): StoredArray(tuple(value.shape), lambda value=value: read(value))  # type: ignore[misc]
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


def _open_npz(path: Path) -> dict[str, StoredArray]:
    import zipfile

    import numpy as np
    from numpy.lib import format as npy

    def read(name: str) -> np.ndarray:
        with np.load(path, allow_pickle=False) as stored:
            return stored[name]

    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                version = npy.read_magic(file)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape = header(file)[0]
            found[name] = StoredArray(tuple(shape), lambda name=name: read(name))  # type: ignore[misc]
    return found


def _open_mat(path: Path) -> dict[str, StoredArray]:
    import h5py
    import scipy.io

    if h5py.is_hdf5(path):
        return _open_h5(path, reverse=True)

    def read(name: str) -> np.ndarray:
        return scipy.io.loadmat(path, variable_names=[name])[name]

    return {
        name: StoredArray(tuple(shape), lambda name=name: read(name))  # type: ignore[misc]
        for name, shape, kind in scipy.io.whosmat(path)
        if kind not in ("cell", "struct", "object", "char", "function", "opaque", "sparse")
    }


def _open_h5(path: Path, reverse: bool = False) -> dict[str, StoredArray]:
    import h5py

    def read(name: str) -> np.ndarray:
        with h5py.File(path) as file:
            values = file[name][()]
        return values.T if reverse else values

    found = {}

    def visit(name: str, item: Any) -> None:
        # MATLAB keeps what cells point to below '#refs#'.
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and not name.startswith("#"):
            shape = item.shape[::-1] if reverse else item.shape
            found[name] = StoredArray(tuple(shape), lambda: read(name))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found
