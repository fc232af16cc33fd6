"""Data sets of HDF5 files, including MATLAB's version 7.3. Data in other files are not read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_formats.contents import (
    DEEPEST,
    Contents,
    Named,
    StoredArray,
    Unusable,
    shown,
    size_of,
    unusable,
)
from attn_bench.tasks.shared.array_formats.mat import PLAIN

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NUMERIC = {"double", "single", "logical"} | {f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)}
_COPY = "copy it into one file: new['x'] = old['x'][()]"


def is_hdf5(path: Path) -> bool:
    """Detect the signature, which is at the start or after a user block of 512 x 2^n bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset + len(SIGNATURE) <= size:
            file.seek(offset)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            offset = offset * 2 or 512
    return False


def open_hdf5(path: Path) -> Contents:
    """Return the data sets of a file by their paths, without reading the data.

    MATLAB writes arrays with reversed axes, and marks them; their order is restored. Arrays of other programs in .mat
    files stay as they are.

    Raises:
        DataError: another program has the file open for writing.
    """
    contents = Contents(path)
    with _opened(path) as file:
        for name, item in _below(path, file, contents, "", set()):
            contents.add(name, item)
    return contents


def _below(path: Path, group: Any, contents: Contents, prefix: str, seen: set[int]) -> Iterator[Named]:
    """Yield the items of a group and of its subgroups, each once even with cyclic links."""
    seen.add(h5py.h5o.get_info(group.id).addr)
    for key in group:
        name, link = f"{prefix}{key}", group.get(key, getlink=True)
        # MATLAB stores the contents of cells below '#refs#'.
        if name.startswith("#"):
            continue
        if isinstance(link, h5py.ExternalLink):
            yield name, Unusable("a link to another file", _COPY)
            continue
        if isinstance(link, h5py.SoftLink):
            yield name, Unusable(f"a link to {shown(link.path)}", "use that key")
            continue
        item = group[key]
        contents.matlab |= "MATLAB_class" in item.attrs
        if isinstance(item, h5py.Dataset):
            yield name, _item(path, name, item)
        elif "MATLAB_sparse" in item.attrs:
            yield name, Unusable("a sparse matrix", PLAIN)
        elif isinstance(item, h5py.Group) and h5py.h5o.get_info(item.id).addr not in seen:
            if name.count("/") < DEEPEST:
                yield from _below(path, item, contents, f"{name}/", seen)
            else:
                yield name, Unusable("nested too deeply", "move its contents up")


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock file" in str(error) or "already open" in str(error):
            raise DataError(
                f"{path}: is open for writing elsewhere, or its writer was interrupted; close it there, "
                "or run 'h5clear -s FILE' if no program has it open"
            ) from None
        raise


def _item(path: Path, name: str, item: Any) -> StoredArray | Unusable:
    matlab = _matlab_class(item)
    wrong = _type(item, matlab) or _place(item)
    if wrong is not None:
        return wrong
    empty = bool(matlab) and "MATLAB_empty" in item.attrs
    shape = (0,) if empty else item.shape[::-1] if matlab else item.shape
    # A chunk is decompressed completely, and may be larger than the part used.
    numbers = max(math.prod(shape), math.prod(item.chunks or (0,)))

    def read() -> np.ndarray:
        with _opened(path) as file:
            values = file[name][()]
        return values.T if matlab else values

    return StoredArray(tuple(map(int, shape)), size_of((numbers,), item.dtype.itemsize), read)


def _matlab_class(item: Any) -> str:
    if "MATLAB_class" not in item.attrs:
        return ""
    attribute = item.attrs.get_id("MATLAB_class")
    text = attribute.dtype.kind == "S" and attribute.shape == () and attribute.dtype.itemsize <= 64
    return item.attrs["MATLAB_class"].decode("latin1") if text else "unknown"


def _type(item: Any, matlab: str) -> Unusable | None:
    if item.shape is None:
        return Unusable("empty", "it must contain real numbers")
    if matlab and matlab not in NUMERIC:
        return Unusable({"cell": "a cell array", "char": "text"}.get(matlab, f"a MATLAB {shown(matlab)}"), PLAIN)
    if item.dtype.names in (("real", "imag"), ("r", "i")):
        return Unusable("complex", "it must contain real numbers")
    if h5py.check_enum_dtype(item.dtype) is not None:
        return Unusable("an enumeration", "store its numbers")
    if item.dtype.kind == "O":
        text = h5py.check_string_dtype(item.dtype) is not None
        return Unusable("text" if text else "references or lists of any length", "it must contain real numbers")
    if {"scale_factor", "add_offset"} & set(item.attrs):
        return Unusable("packed (scale_factor, add_offset)", "store the unpacked numbers")
    return unusable(item.dtype)


def _place(item: Any) -> Unusable | None:
    plan, numbers = item.id.get_create_plist(), math.prod(item.shape)
    if plan.get_external_count():
        return Unusable("stored in another file (external storage)", _COPY)
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        return Unusable("assembled from other data sets (virtual)", _COPY)
    if plan.get_layout() == h5py.h5d.CHUNKED:
        wanted = math.prod(-(-size // chunk) for size, chunk in zip(item.shape, item.chunks))
        if (there := item.id.get_num_chunks()) < wanted:
            return Unusable(f"incomplete ({there} of {wanted} chunks are present)", "write it again")
    elif numbers and not item.id.get_storage_size():
        return Unusable("an array that was never written", "write it")
    return None
