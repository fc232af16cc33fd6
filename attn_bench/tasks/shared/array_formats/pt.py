"""Tensors of .pt files, loaded with ``weights_only`` and mapped into memory: no code is executed, no data are read."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_bench.format import clean
from attn_bench.plugin import DataError
from attn_bench.tasks.shared.array_formats.contents import DEEPEST, NAME_LIMIT, Contents, StoredArray, Unusable, size_of

_NEEDED = "a dict with coefficients and solutions is needed"
_INSTEAD = "save only tensors, torch.save({'x': x, 'y': y}, FILE), or numpy arrays with numpy.savez(FILE, x=x, y=y)"


def open_pt(path: Path) -> Contents:
    """Return the tensors of a file; those in nested dicts and lists are named by their path (``train/x``).

    Raises:
        DataError: it contains something else, or something that requires unpickling.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
    content = _loaded(path)
    if isinstance(content, Tensor):
        raise DataError(f"{path}: contains only a Tensor of shape {tuple(content.shape)}; {_NEEDED}")
    if not isinstance(content, Mapping | list | tuple):
        raise DataError(f"{path}: contains {clean(type(content).__name__, NAME_LIMIT)!r}; {_NEEDED}")
    contents = Contents(path)
    for name, value in _flat(content):
        contents.add(name, _item(value))
    return contents


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise DataError(f"{path}: is a TorchScript archive, a program with its weights; {_INSTEAD}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise DataError(f"{path}: its entries are compressed, which torch does not support; {_INSTEAD}")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise DataError(f"{path}: claims more data than it has; it is damaged")


def _loaded(path: Path) -> Any:
    try:
        name = str(path)
        name.encode()
    except UnicodeEncodeError:
        # torch cannot map a file whose name is not UTF-8; a mapping stays valid when the link is deleted.
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(path, link := os.path.join(folder, "data.pt"))
            return _unpickled(link)
    return _unpickled(name)


def _unpickled(name: str) -> Any:
    try:
        return torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # The format before torch 1.6 cannot be mapped.
        return torch.load(name, map_location="cpu", weights_only=True)


def refused(error: Exception) -> str:
    """Return one line on what torch refused to unpickle, instead of torch's advice, part of which does not apply."""
    named = re.search(r"GLOBAL (\S+) was not an allowed global|Trying to load unsupported GLOBAL (\S+)", str(error))
    if not named:
        return f"is not a .pt file with only tensors in torch's usual form, or is damaged; {_INSTEAD}"
    what = clean(named[1] or named[2], NAME_LIMIT)
    kind = "numpy arrays" if what.startswith("numpy") else "Python objects"
    return f"contains {kind} ({what}), which require unpickling, and that can run any code; {_INSTEAD}"


def _flat(content: Any, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    for key, value in pairs:
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping | list | tuple) or isinstance(value, torch.Size):
            yield name, value
        elif id(value) in above or len(above) == DEEPEST:
            yield name, Unusable("nested too deeply", "save the arrays at the top level")
        elif value and not isinstance(value, Mapping) and not any(isinstance(v, _CONTAINERS) for v in value):
            yield name, Unusable(f"a {type(value).__name__} of {len(value)} values", "save it as a tensor")
        else:
            yield from _flat(value, f"{name}/", (*above, id(value)))


_CONTAINERS = (Tensor, Mapping, list, tuple)


def _item(value: Any) -> StoredArray | Unusable:
    if isinstance(value, Unusable):
        return value
    if not isinstance(value, Tensor):
        return Unusable(f"a {clean(type(value).__name__, NAME_LIMIT)}", "save it as a tensor")
    if value.is_meta:
        return Unusable("a tensor without data (on the meta device)", "save it from the device that has them")
    if value.is_quantized:
        return Unusable("a quantized tensor", "save its .dequantize()")
    if value.layout != torch.strided or value.is_nested:
        return Unusable(f"a tensor of layout {str(value.layout).removeprefix('torch.')}", "save its .to_dense()")
    if value.is_complex():
        return Unusable(str(value.dtype).removeprefix("torch."), "it must contain real numbers")

    def read() -> np.ndarray:
        # numpy has no bfloat16 and no 8-bit floats.
        plain = value.detach().resolve_neg()
        known = plain.dtype in (torch.float16, torch.float32, torch.float64) or not plain.is_floating_point()
        return (plain if known else plain.float()).numpy()

    return StoredArray(tuple(value.shape), size_of(value.shape, max(value.element_size(), 1)), read)
