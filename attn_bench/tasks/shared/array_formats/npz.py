"""Arrays of .npz files: headers are read without the data, and nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_formats.contents import Contents, StoredArray, Unusable, shown, size_of, unusable


def open_npz(path: Path) -> Contents:
    """Return the arrays of a .npz file without reading data; raises DataError if one exceeds its part of the file."""
    contents = Contents(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if not member.is_dir():
                item = (
                    _item(path, archive, member) if name != member.filename else Unusable("not an array", "remove it")
                )
                contents.add(name, item)
    return contents


def _item(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray | Unusable:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        rest = member.file_size - file.tell()
    if (wrong := unusable(dtype)) is not None:
        return wrong
    size = size_of(shape, dtype.itemsize)
    if min(shape, default=0) < 0 or size > rest:
        raise DataError(f"{path}: {shown(member.filename)!r} claims the shape {shape}, but has {rest} bytes of data")

    def read() -> np.ndarray:
        with np.load(path, allow_pickle=False) as stored:
            return stored[member.filename]

    return StoredArray(tuple(shape), size, read)
