"""Finds coefficients and solutions in a file, and checks them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError
from attn_bench.tasks.darcy.array_axes import Axes, check_without_doubt
from attn_bench.tasks.darcy.source import Fields
from attn_bench.tasks.shared.array_files import open_arrays
from attn_bench.tasks.shared.array_formats.contents import LISTED, Contents, check_memory, shown

if TYPE_CHECKING:
    import numpy as np

INPUT_KEYS = ("x", "coeff", "a", "coefficient", "coefficients", "input", "inputs", "permeability", "nu")
TARGET_KEYS = ("y", "sol", "u", "solution", "solutions", "output", "outputs", "target", "targets", "pressure", "tensor")


class PairFile:
    """A file with coefficients and solutions; finding them reads only shapes.

    Args:
        path: the file.
        input_key, target_key: names of the arrays; None looks for the usual names.
        axes: order of their axes, e.g. ``"hwn"``; None means the usual one, if that is unambiguous.

    Attributes:
        samples, grid: N and (H, W).
        names: of both arrays, for display.

    Raises:
        DataError: they are missing, do not belong together, or are ambiguous.
    """

    def __init__(
        self, path: Path, input_key: str | None = None, target_key: str | None = None, axes: str | None = None
    ) -> None:
        self.path = path
        self._contents = contents = open_arrays(path)
        self._input = _chosen(path, contents, "input", input_key, INPUT_KEYS, target_key)
        self._target = _chosen(path, contents, "target", target_key, TARGET_KEYS, self._input)
        if self._input == self._target:
            raise DataError(f"{path}: array {shown(self._input)!r} cannot be both input and target")
        self._axes = {name: _axes(path, contents, name, axes) for name in (self._input, self._target)}
        shapes = [self._axes[name].shape for name in (self._input, self._target)]
        self.names = (shown(self._input), shown(self._target))
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{path}: {self.names[0]!r} and {self.names[1]!r} must have the same samples and grid; "
                f"they have shapes {contents.arrays[self._input].shape} and {contents.arrays[self._target].shape}"
            )
        if axes is None:
            check_without_doubt(path, self.names[0], shapes[0], contents.matlab)
        self.samples, *grid = shapes[0]
        self.grid = (grid[0], grid[1])

    def read(self) -> Fields:
        """Return both as float32, shape (N, H, W).

        Raises:
            DataError: values are not finite real numbers, or there is not enough memory.
        """
        numbers = self.samples * self.grid[0] * self.grid[1]
        read = sum(self._contents.arrays[name].nbytes for name in (self._input, self._target))
        # In single precision, and a second time in two splits.
        check_memory(f"{self.path}: reading both arrays", read + 4 * 4 * numbers, "give a smaller file")
        return Fields(self._values(self._input), self._values(self._target))

    def _values(self, name: str) -> np.ndarray:
        import numpy as np

        values = self._contents.arrays[name].read()
        if values.dtype.kind not in "biuf":
            raise DataError(f"{self.path}: {shown(name)!r} must contain real numbers (it contains {values.dtype})")
        with np.errstate(over="ignore", invalid="ignore"):
            fields = np.ascontiguousarray(self._axes[name].ordered(values), dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(fields).all((1, 2)))
        if len(broken):
            raise DataError(
                f"{self.path}: {shown(name)!r} has values that are not finite in single precision, in {len(broken)} of "
                f"{self.samples} samples, first in sample {broken[0]}; take these samples out"
            )
        return fields


def _chosen(
    path: Path, contents: Contents, role: str, key: str | None, candidates: Iterable[str], partner: str | None
) -> str:
    """Return the name of the array for ``role``; if there are several, the one in the folder of its named partner."""
    if key is not None:
        if key in contents.arrays:
            return key
        if key in contents.others:
            other = contents.others[key]
            raise DataError(f"{path}: {shown(key)!r} is {other.what}; {other.remedy}")
        raise DataError(f"{path}: has no array {key!r} (darcy.{role}_key); it contains {contents.listed()}")
    named = [name for name in (*contents.arrays, *contents.others) if name.rpartition("/")[2].lower() in candidates]
    fields = [name for name in named if name in contents.arrays and _may_be_field(contents.arrays[name].shape)]
    found = [name for name in fields if name != partner] or named
    if partner is not None and len(found) > 1:
        folder = partner.rpartition("/")[0]
        found = [name for name in found if name.rpartition("/")[0] == folder] or found
    say = f"select one with --set darcy.{role}_key="
    if len(found) > 1:
        first, last = found[:-1][:LISTED], shown(found[-1])
        words = (
            f"{', '.join(map(shown, first))} and {last if len(found) <= LISTED + 1 else f'{len(found) - LISTED} more'}"
        )
        raise DataError(
            f"{path}: {words} may {'both' if len(found) == 2 else 'all'} be the {role}; {say}{shown(found[0])}"
        )
    if not found:
        raise DataError(
            f"{path}: no array has a name of the {role} ({', '.join(candidates)}); it has {contents.listed()}. "
            f"{say[0].upper()}{say[1:]}NAME"
        )
    return found[0] if found[0] in contents.arrays else _chosen(path, contents, role, found[0], (), None)


def _may_be_field(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4)


def _axes(path: Path, contents: Contents, name: str, axes: str | None) -> Axes:
    shape = contents.arrays[name].shape
    try:
        found = Axes(shape, axes)
    except ValueError as error:
        raise DataError(f"{path}: {shown(name)!r} {error}") from None
    if 0 in shape:
        raise DataError(f"{path}: {shown(name)!r} is empty (shape {shape})")
    return found
