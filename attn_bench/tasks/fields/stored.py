"""Arrays of a file or a folder that are read in pieces, so that a file may be larger than the memory.

HDF5 data sets are read by slices, .npy files and uncompressed .npz files are mapped into memory, as are tensors of .pt
files. Compressed .npz files and MATLAB files before version 7.3 are read whole, an array at a time.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.format import clean
from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_files import SUFFIXES, open_arrays
from attn_bench.tasks.shared.array_formats.contents import Contents, StoredArray, check_memory, shown

if TYPE_CHECKING:
    import numpy as np

HDF5 = (".h5", ".hdf5")
NPY = b"\x93NUMPY"
# What h5py keeps of chunks that were read; its own default is less than one chunk of usual files.
CHUNK_CACHE = 16 << 20
# Pictures, descriptions and statistics that data sets ship beside their arrays.
BESIDE = (".md", ".txt", ".json", ".yaml", ".yml", ".png", ".pdf", ".csv")
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Stored:
    """An array that is read in pieces.

    Attributes:
        name: in its file; that of a .npy file is the file's, without extension.
        shape: its axes in the order that its author sees.
        itemsize: bytes of a number.
        kind: numpy's letter of its type.
        piece: returns the values in a slice of every axis.
        mapped: whether a piece is read without the rest.
        close: closes what was opened to read; reading again opens it again.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int
    kind: str
    piece: Callable[[Index], np.ndarray]
    mapped: bool = True
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Opened:
    """What a file or folder holds.

    Attributes:
        path: of it.
        arrays: by name.
        others: what else it has, by name, in words.
        matlab: whether MATLAB wrote it, whose users often keep samples on the last axis.
        files: that it consists of.
        joined: the first axis of its arrays is that of the samples, as each was put together from many.
    """

    path: Path
    arrays: Mapping[str, Stored]
    others: Mapping[str, str]
    matlab: bool
    files: tuple[Path, ...]
    joined: bool = False


def open_stored(path: Path) -> Opened:
    """Return the arrays of a file, or of a folder of .npy files or of equal HDF5 files, without reading data.

    Raises:
        DataError: it cannot be used; the message says why.
    """
    if not os.path.exists(path):  # also of names that no file can have
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _grouped(_file(path))
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    kinds = {each.suffix.lower() for each in files} - set(BESIDE)
    if kinds == {".npy"}:
        arrays = {each.stem: _npy(each) for each in files if each.suffix.lower() == ".npy"}
        return Opened(path, arrays, {}, False, tuple(each for each in files if each.suffix.lower() == ".npy"))
    if kinds and kinds <= set(HDF5):
        return _joined(path, [_file(each) for each in files if each.suffix.lower() in HDF5])
    there = ", ".join(sorted(clean(kind, 20) or "files without extension" for kind in kinds)) or "no files"
    raise DataError(f"{path}: a folder must hold .npy files, or HDF5 files of one form; it has {there}")


def _file(path: Path) -> Opened:
    """Return the arrays of one file."""
    if path.is_file() and _starts(path, NPY):
        array = _npy(path)
        return Opened(path, {array.name: array}, {}, False, (path,))
    contents = open_arrays(path, (*SUFFIXES, ".npy"))
    others = {name: f"{other.what}; {other.remedy}" for name, other in contents.others.items()}
    return Opened(path, _arrays(path, contents), others, contents.matlab, (path,))


def _starts(path: Path, sign: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(sign)) == sign
    except OSError:
        return False


def _arrays(path: Path, contents: Contents) -> dict[str, Stored]:
    from attn_bench.tasks.shared.array_formats.hdf5 import is_hdf5

    if is_hdf5(path):
        file = _Hdf5(path)
        return {name: file.stored(name) for name in contents.arrays}
    if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        if not any(name.endswith("data.pkl") for name in members):
            return {name: _in_zip(path, name, array, members[name]) for name, array in contents.arrays.items()}
        return {name: _whole(path, name, array, mapped=True) for name, array in contents.arrays.items()}
    return {name: _whole(path, name, array, mapped=False) for name, array in contents.arrays.items()}


def _whole(path: Path, name: str, array: StoredArray, *, mapped: bool) -> Stored:
    """Return an array that is read whole when the first piece of it is asked for."""
    kept: list[np.ndarray] = []

    def piece(index: Index) -> np.ndarray:
        if not kept:
            if not mapped:
                check_memory(f"{path}: reading {shown(name)!r}", array.nbytes, "save it as .h5 or .npy")
            kept.append(array.read())
        return kept[0][index]

    # Integers and booleans of a MATLAB file are known when they are read; all of them are real numbers.
    return Stored(name, array.shape, max(array.nbytes // max(prod(array.shape), 1), 1), "f", piece, mapped)


def _npy(path: Path, offset: int = 0, name: str | None = None, whole: Path | None = None) -> Stored:
    """Return the array of a .npy file, or of one at an offset in another file, mapped into memory.

    Raises:
        DataError: it is damaged, or does not contain real numbers.
    """
    import numpy as np
    from numpy.lib import format as npy

    where = whole or path
    try:
        with path.open("rb") as file:
            file.seek(offset)
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = header(file)
            start = file.tell()
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: not an array file, or a damaged one ({clean(str(error), 120)})") from None
    named = path.stem if name is None else name
    if dtype.kind not in "biuf":
        what = "Python objects, which require unpickling" if dtype.hasobject else str(dtype)
        raise DataError(f"{where}: {shown(named)!r} must contain real numbers (it contains {what})")
    if min(shape, default=0) < 0 or start + prod(shape) * dtype.itemsize > size:
        raise DataError(f"{where}: {shown(named)!r} claims the shape {shape}, which the file is too short for")

    order: Literal["C", "F"] = "F" if fortran else "C"

    def piece(index: Index) -> np.ndarray:
        return np.asarray(np.memmap(path, dtype, "r", start, shape, order)[index])

    return Stored(named, tuple(map(int, shape)), dtype.itemsize, dtype.kind, piece)


def _in_zip(path: Path, name: str, array: StoredArray, member: zipfile.ZipInfo) -> Stored:
    """Return an array of a .npz file: mapped into memory if it is not compressed, else read whole."""
    if member.compress_type != zipfile.ZIP_STORED:
        return _whole(path, name, array, mapped=False)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise DataError(f"{path}: {shown(name)!r} is damaged")
    names, extra = struct.unpack("<HH", header[26:30])
    return _npy(path, member.header_offset + 30 + names + extra, name, path)


class _Hdf5:
    """An HDF5 file that is opened when it is first read in a process, and kept open."""

    def __init__(self, path: Path) -> None:
        self.path, self._open = path, dict[int, Any]()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": {}}

    @property
    def file(self) -> Any:
        import h5py

        if os.getpid() not in self._open:
            try:
                self._open = {os.getpid(): h5py.File(self.path, "r", rdcc_nbytes=CHUNK_CACHE)}
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({clean(str(error), 120)})") from None
        return self._open[os.getpid()]

    def close(self) -> None:
        """Close the file, so that it may be written to."""
        for file in self._open.values():
            file.close()
        self._open = {}

    def stored(self, name: str) -> Stored:
        item = self.file[name]
        # MATLAB writes arrays with reversed axes.
        matlab = "MATLAB_class" in item.attrs

        def piece(index: Index) -> np.ndarray:
            try:
                values = self.file[name][index[::-1] if matlab else index]
            except OSError as error:
                raise DataError(f"{self.path}: {shown(name)!r} cannot be read ({clean(str(error), 120)})") from None
            return values.T if matlab else values

        shape = tuple(map(int, item.shape[::-1] if matlab else item.shape))
        return Stored(name, shape, item.dtype.itemsize, item.dtype.kind, piece, close=self.close)


@dataclass(frozen=True)
class _Pieces:
    """Arrays of one shape, one after the other along the first axis.

    Attributes:
        added: the first axis is new, and each array is one sample.
    """

    parts: tuple[Stored, ...]
    added: bool

    @cached_property
    def bounds(self) -> list[int]:
        """Where each part begins along the first axis, and the end."""
        bounds = [0]
        for part in self.parts:
            bounds.append(bounds[-1] + (1 if self.added else part.shape[0]))
        return bounds

    def close(self) -> None:
        """Close the files of all parts."""
        for part in self.parts:
            part.close()

    def __call__(self, index: Index) -> np.ndarray:
        import numpy as np

        first, *rest = index
        start, stop, _ = first.indices(self.bounds[-1])
        return np.concatenate(list(self._each(start, stop, tuple(rest))))

    def _each(self, start: int, stop: int, rest: Index) -> Iterator[np.ndarray]:
        for part, low, high in zip(self.parts, self.bounds, self.bounds[1:]):
            if low < stop and start < high:
                own = slice(max(start - low, 0), min(stop, high) - low)
                yield part.piece(rest)[None] if self.added else part.piece((own, *rest))


def _grouped(opened: Opened) -> Opened:
    """Return a file in which each sample is a group with a number as array of all samples (PDEBench's layout)."""
    groups: dict[str, list[Stored]] = {}
    for name, array in opened.arrays.items():
        number, _, rest = name.partition("/")
        if not re.fullmatch(r"\d+", number) or not rest:
            return opened
        groups.setdefault(rest, []).append(array)
    if not groups or max(map(len, groups.values())) < 2:
        return opened
    arrays = {rest: _stacked(opened.path, rest, parts, added=True) for rest, parts in groups.items()}
    return replace(opened, arrays=arrays, joined=True)


def _joined(path: Path, files: Sequence[Opened]) -> Opened:
    """Return the arrays of several files with samples one after the other; raises DataError if the files differ."""
    first = files[0]
    for each in files[1:]:
        if each.arrays.keys() != first.arrays.keys():
            differing = ", ".join(map(shown, sorted(each.arrays.keys() ^ first.arrays.keys())[:3]))
            raise DataError(
                f"{path}: its files must have the same arrays; {clean(each.path.name)} and {clean(first.path.name)} "
                f"differ in {differing}"
            )
    if len(files) == 1:
        return replace(first, path=path)
    arrays = {
        name: _stacked(path, name, [each.arrays[name] for each in files], added=False)
        for name, array in first.arrays.items()
        if array.shape
    }
    return Opened(path, arrays, first.others, first.matlab, tuple(file for each in files for file in each.files), True)


def _stacked(path: Path, name: str, parts: Sequence[Stored], *, added: bool) -> Stored:
    first, skipped = parts[0], 0 if added else 1
    for part in parts:
        if part.shape[skipped:] != first.shape[skipped:]:
            raise DataError(
                f"{path}: {shown(name)!r} must have one shape in all samples; it has {first.shape} and {part.shape}"
            )
    pieces = _Pieces(tuple(parts), added)
    shape = (pieces.bounds[-1], *first.shape[skipped:])
    return replace(first, name=name, shape=shape, piece=pieces, close=pieces.close)
