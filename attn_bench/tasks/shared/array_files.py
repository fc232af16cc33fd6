"""Named arrays in .pt, .npz, .mat and .h5 files; shapes are read before data.

The content of a file determines its format. Nothing is unpickled, nothing is read from another file, and claimed sizes
are checked against the size of the file and free memory.
"""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from attn_bench.format import clean
from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_formats.contents import MOST_PACKED, Contents, StoredArray, in_units, shown

SUFFIXES = (".pt", ".npz", ".mat", ".h5", ".hdf5")
# Start of torch's file format before version 1.6: a pickled number.
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Starts of files that are often confused with these formats, and what to do.
OTHER = {
    b"\x93NUMPY": "it is a single numpy array; put both into one file with numpy.savez(FILE, x=x, y=y)",
    b"\x1f\x8b": "it is compressed by gzip; unpack it",
    b"CDF": "it is netCDF 3; convert it to netCDF 4, which is HDF5, with nccopy -k nc4",
    b"# Created by Octave": "it is Octave's text format; save it with save -v7",
    b"version https://git-lfs": "it is a placeholder of Git LFS; get the file with git lfs pull",
    b"<": "it is a web page, so the download failed",
    b"\x00\x00\x00\x00": "if it is from MATLAB 4, its arrays have only two axes; save them with save -v7",
    b"\x80": "it is a Python pickle, which is not read because it can run any code; use numpy.savez or torch.save",
}
_Result = TypeVar("_Result")


def open_arrays(path: Path, formats: Sequence[str] = SUFFIXES) -> Contents:
    """Return the contents of a file, without reading the data.

    Args:
        formats: suffixes that errors list, of whoever reads further formats.

    Raises:
        DataError: the file is missing, of another kind, or damaged; or an array is too large when it is read.
    """
    size = _size(path, formats)
    contents = _guarded(path, lambda: _reader(path, formats)(path))
    arrays = {name: _checked(path, name, array, size) for name, array in contents.arrays.items()}
    return replace(contents, arrays=arrays)


def _size(path: Path, formats: Sequence[str]) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.suffix.lower() not in formats:
            what = clean(path.suffix) or "a file without extension"
            raise DataError(f"{path}: cannot read {what}; supported are {', '.join(formats)}") from None
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(found.st_mode):
        raise DataError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is a pipe or a device, not a file")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read (permission denied)")
    if found.st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return found.st_size


def _reader(path: Path, formats: Sequence[str]) -> Callable[[Path], Contents]:
    """Return the reader for the format of a file, which its content determines."""
    from attn_bench.tasks.shared.array_formats.hdf5 import is_hdf5, open_hdf5

    with path.open("rb") as file:
        start = file.read(128)
    if start.startswith(b"PK\x03\x04") or (start.startswith(b"PK\x05\x06") and zipfile.is_zipfile(path)):
        with zipfile.ZipFile(path) as archive:
            torch_wrote = any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
        if not torch_wrote:
            from attn_bench.tasks.shared.array_formats.npz import open_npz

            return open_npz
    elif is_hdf5(path):
        return open_hdf5
    elif start[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        from attn_bench.tasks.shared.array_formats.mat import open_mat

        return open_mat
    elif not start.startswith(OLD_TORCH):
        why = next(
            (why for sign, why in OTHER.items() if start.lstrip().startswith(sign)), "its content has another format"
        )
        raise DataError(f"{path}: is not a {', '.join(formats)} file with plain arrays, or a damaged one; {why}")
    from attn_bench.tasks.shared.array_formats.pt import open_pt

    return open_pt


def _checked(path: Path, name: str, array: StoredArray, size: int) -> StoredArray:
    def read() -> Any:
        if array.nbytes > MOST_PACKED * size:
            raise DataError(
                f"{path}: {shown(name)!r} claims {in_units(array.nbytes)} (shape {array.shape}), which a file of "
                f"{in_units(size)} cannot hold; it is damaged, or was expanded without being copied"
            )
        return _guarded(path, array.read)

    return replace(array, read=read)


def _guarded(path: Path, action: Callable[[], _Result]) -> _Result:
    try:
        with warnings.catch_warnings():
            # Warnings of libraries are either repeated by errors or useless.
            warnings.simplefilter("ignore")
            return action()
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path}: not enough memory to read it") from None
    except Exception as error:
        # Readers raise undocumented errors on broken files, from struct.error to KeyError.
        raise DataError(f"{path}: {_reason(error, path)}") from None


def _reason(error: Exception, path: Path) -> str:
    if type(error).__name__ == "UnpicklingError":
        from attn_bench.tasks.shared.array_formats.pt import refused

        return refused(error)
    if "filter" in str(error) and isinstance(error, OSError):
        return "is compressed by a filter of HDF5 that is not installed here (often: pip install hdf5plugin)"
    # An internal key, which no user knows.
    why = "" if isinstance(error, KeyError) else f" ({clean(f'{type(error).__name__}: {error}', 120)})"
    return f"not a {path.suffix} file with plain arrays, or a damaged one{why}"
