"""Layouts of published data sets, recognized by what only they have.

PDEBench (arXiv:2210.07182): ``t-coordinate``, ``x-coordinate``, ``y-coordinate`` beside arrays (N, T, X) or
(N, T, X, Y), and ``nu`` (N, X, Y) with ``tensor`` (N, 1, X, Y) for Darcy flow; or a numbered group for each sample,
with ``data`` (T, X, Y, C) and ``grid``. The Well (arXiv:2412.00568): groups ``t0_fields``, ``t1_fields`` and
``t2_fields`` of scalar, vector and tensor fields, whose attributes say on what they depend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_bench.plugin import DataError
from attn_bench.tasks.fields.stored import Opened

TENSORS = ("t0_fields", "t1_fields", "t2_fields")


@dataclass(frozen=True)
class Layout:
    """What a layout says about the arrays of a file.

    Attributes:
        name: of the layout; empty if it is not a known one.
        axes: of arrays, by name.
        inputs, targets: names of arrays; empty where the layout does not say.
        beside: arrays that are no fields, such as coordinates.
        periodic: letters of the axes of the grid that are periodic.
    """

    name: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    periodic: str = ""


def layout_of(opened: Opened) -> Layout:
    """Return the layout of a file; raises DataError if it is a known one that cannot be used."""
    if any(name.startswith(tuple(f"{group}/" for group in TENSORS)) for name in opened.arrays):
        found = _well(opened)
        if found is not None:
            return found
    return _pdebench(opened)


def _pdebench(opened: Opened) -> Layout:
    """Return the layout of PDEBench by its coordinates."""
    sizes = {
        letter: array.shape[-1]
        for letter, names in (("t", ("t-coordinate", "grid/t")), ("h", ("x-coordinate", "grid/x")),
                              ("w", ("y-coordinate", "grid/y")))
        for name in names
        if (array := opened.arrays.get(name)) is not None and array.shape
    }  # fmt: skip
    if "h" not in sizes or "z-coordinate" in opened.arrays:
        return Layout()
    grid = "hw" if "w" in sizes else "h"
    axes = {}
    for name, array in opened.arrays.items():
        for letters in (f"nt{grid}", f"nt{grid}c", f"n{grid}", f"nc{grid}"):
            if _agrees(letters, array.shape, sizes):
                axes[name] = letters
                break
    beside = tuple(name for name in opened.arrays if name.endswith("-coordinate") or name.startswith("grid/"))
    fields = tuple(name for name in axes if name not in beside)
    timed = tuple(name for name in fields if "t" in axes[name])
    # Compressible flow has its fields in arrays of their own; all of them are predicted.
    whole = timed if len(timed) > 1 and {"density", "pressure"} <= set(timed) == set(fields) else ()
    return Layout("PDEBench", axes, whole, whole, beside)


def _agrees(letters: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    if len(letters) != len(shape):
        return False
    own = dict(zip(letters, shape))
    # Some files have one more coordinate in time than steps.
    timed = "t" not in own or ("t" in sizes and own["t"] in (sizes["t"], sizes["t"] - 1))
    channel = letters != "nchw" or own["c"] == 1
    return timed and channel and all(own[letter] == sizes[letter] for letter in "hw" if letter in own)


def _well(opened: Opened) -> Layout | None:
    """Return the layout of The Well, by the attributes of the first file; None if it has none of them."""
    import h5py

    axes: dict[str, str] = {}
    varying: list[str] = []
    constant: list[str] = []
    with h5py.File(opened.files[0], "r") as file:
        if "n_spatial_dims" not in file.attrs or "dimensions" not in file:
            return None
        dimensions = int(file.attrs["n_spatial_dims"])
        if dimensions not in (1, 2):
            raise DataError(f"{opened.path}: its fields have {dimensions} dimensions; fields serves one and two")
        periodic = _well_periodic(file, dimensions)
        for order, group in enumerate(TENSORS):
            for key in file.get(group, ()):
                name = f"{group}/{key}"
                if name in opened.arrays:
                    axes[name] = _well_axes(file[name], dimensions, order)
                    (varying if "t" in axes[name] else constant).append(name)
    # In several files, what does not depend on the sample would be put together as if it did.
    single = [name for name in constant if len(opened.files) == 1 or "n" in axes[name]]
    if not varying:
        raise DataError(f"{opened.path}: none of its fields varies in time, so there is no later step to predict")
    for name in varying:
        if len(axes[name]) != len(opened.arrays[name].shape):
            raise DataError(
                f"{opened.path}: {name} has the shape {opened.arrays[name].shape}, but its attributes say that it "
                f"has the axes {axes[name]}"
            )
    return Layout("The Well", axes, (*varying, *single), tuple(varying), periodic=periodic)


def _well_periodic(file: Any, dimensions: int) -> str:
    """Return the letters of the axes with a periodic boundary condition."""
    names = [_text(name) for name in file["dimensions"].attrs.get("spatial_dims", ())][:dimensions]
    found: set[str] = set()
    for condition in file.get("boundary_conditions", {}).values():
        if _text(condition.attrs.get("bc_type", "")).upper() == "PERIODIC":
            along = condition.attrs.get("associated_dims", ())
            found |= {_text(along)} if isinstance(along, str | bytes) else set(map(_text, along))
    return "".join(letter for letter, name in zip("hw", names) if name in found)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _well_axes(item: Any, dimensions: int, order: int) -> str:
    """Return the axes of a field; one that it does not vary along is of size one, or left out."""
    varies = [bool(each) for each in item.attrs.get("dim_varying", [True] * dimensions)]
    sample, time = (bool(item.attrs.get(f"{name}_varying", True)) for name in ("sample", "time"))
    before, after = f"{'n' * sample}{'t' * time}", "c" * order
    whole = f"{before}{'hw'[:dimensions]}{after}"
    if len(whole) == len(item.shape):
        return whole
    return f"{before}{''.join(letter for letter, there in zip('hw', varies) if there)}{after}"
