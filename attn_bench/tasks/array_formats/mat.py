"""Variables of MATLAB's files before version 7.3; a struct's fields go by names like ``data/coeff``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy.io.matlab import MatlabFunction, MatlabObject, MatlabOpaque

from attn_bench.tasks.array_formats.contents import Contents, StoredArray, Unusable, size_of, unusable

DEEPEST = 16
_SIZES = {"double": 8, "single": 4, "logical": 1} | {f"{u}int{b}": b // 8 for u in ("", "u") for b in (8, 16, 32, 64)}
_NAMES = {"cell": "a cell array", "struct": "a struct array", "char": "text", "sparse": "a sparse matrix"}
PLAIN = "save plain arrays: save('FILE.mat', 'x', 'y', '-v7.3')"


def open_mat(path: Path) -> Contents:
    """Return the variables of a file, and the fields of structs in it."""
    contents = Contents(matlab=True)
    for name, shape, kind in scipy.io.whosmat(path, appendmat=False):
        if kind == "struct" and math.prod(shape) == 1:
            for inner, item in _fields(_variable(path, name), name):
                contents.add(inner, item)
        else:
            contents.add(name, _item(path, name, tuple(map(int, shape)), kind))
    return contents


def _item(path: Path, name: str, shape: tuple[int, ...], kind: str) -> StoredArray | Unusable:
    if kind not in _SIZES:
        return Unusable(_NAMES.get(kind, "a MATLAB object"), PLAIN)
    return StoredArray(shape, size_of(shape, _SIZES[kind]), lambda: _variable(path, name))


def _variable(path: Path, name: str) -> Any:
    return scipy.io.loadmat(path, variable_names=[name], appendmat=False)[name]


def _fields(struct: Any, name: str, depth: int = 1) -> Iterator[tuple[str, StoredArray | Unusable]]:
    for inner in struct.dtype.names or ():
        value, path = struct[inner].reshape(-1)[0], f"{name}/{inner}"
        if isinstance(value, MatlabFunction | MatlabObject | MatlabOpaque) or not isinstance(value, np.ndarray):
            yield path, Unusable("a sparse matrix" if hasattr(value, "tocsc") else "a MATLAB object", PLAIN)
        elif value.dtype.names and value.size == 1 and depth < DEEPEST:
            yield from _fields(value, path, depth + 1)
        elif value.dtype.names or value.dtype.kind == "O":
            yield path, Unusable("a struct array" if value.dtype.names else "a cell array", PLAIN)
        else:
            yield path, unusable(value.dtype) or StoredArray(value.shape, value.nbytes, partial(np.asarray, value))
