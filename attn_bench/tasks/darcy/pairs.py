"""Finds coefficients and solutions in a file, and checks them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError
from attn_bench.tasks.array_files import StoredArray, open_arrays
from attn_bench.tasks.darcy.source import Fields

if TYPE_CHECKING:
    import numpy as np

INPUT_KEYS = ("x", "coeff", "a", "coefficient", "coefficients", "input", "inputs", "permeability", "nu")
TARGET_KEYS = ("y", "sol", "u", "solution", "solutions", "output", "outputs", "target", "targets", "pressure", "tensor")
SHAPES = "(N, H, W), (N, 1, H, W) or (N, H, W, 1)"


class PairFile:
    """A file with coefficients and solutions; finding them reads shapes alone.

    Attributes:
        path: the file.
        samples, grid: N and (H, W).

    Raises:
        DataError: they are not to be found, or do not belong together.
    """

    def __init__(self, path: Path, input_key: str | None, target_key: str | None) -> None:
        self.path = path
        arrays = open_arrays(path)
        self._input = _chosen(path, arrays, "input", input_key, INPUT_KEYS)
        self._target = _chosen(path, arrays, "target", target_key, TARGET_KEYS)
        if self._input == self._target:
            raise DataError(f"{path}: array {self._input!r} cannot be input and target at once")
        self._arrays = arrays
        shapes = [_checked_shape(path, name, arrays[name].shape) for name in (self._input, self._target)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{path}: {self._input!r} and {self._target!r} must have the same samples and grid; they have shapes "
                f"{arrays[self._input].shape} and {arrays[self._target].shape}"
            )
        self.samples, *grid = shapes[0]
        self.grid = (grid[0], grid[1])

    def read(self) -> Fields:
        """Return both as float32, shape (N, H, W); raises DataError for values that are no finite real numbers."""
        return Fields(self._values(self._input), self._values(self._target))

    def _values(self, name: str) -> np.ndarray:
        import numpy as np

        values = self._arrays[name].read()
        if values.dtype.kind not in "biuf":
            raise DataError(f"{self.path}: {name!r} must hold real numbers (it holds {values.dtype})")
        with np.errstate(over="ignore"):
            fields = np.ascontiguousarray(values.reshape(self.samples, *self.grid), dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(fields).all((1, 2)))
        if len(broken):
            raise DataError(
                f"{self.path}: {name!r} has values that are not finite in single precision, in {len(broken)} of "
                f"{self.samples} samples, first in sample {broken[0]}; take these samples out"
            )
        return fields


def _chosen(
    path: Path, arrays: Mapping[str, StoredArray], role: str, key: str | None, candidates: Iterable[str]
) -> str:
    """Return the name of the array that plays ``role``."""
    if key is not None:
        if key in arrays:
            return key
        raise DataError(f"{path}: has no array {key!r} (darcy.{role}_key); it has {_listed(arrays)}")
    for wellformed in (True, False):
        for candidate in candidates:
            names = [
                name
                for name, array in arrays.items()
                if name.rpartition("/")[2].lower() == candidate and (_field_shape(array.shape) or not wellformed)
            ]
            if len(names) == 1:
                return names[0]
            if names:
                raise DataError(
                    f"{path}: {' and '.join(names)} may both be the {role}; say which with darcy.{role}_key"
                )
    raise DataError(
        f"{path}: no array has a name of the {role} ({', '.join(candidates)}); it has {_listed(arrays)}. "
        f"Say which with --set darcy.{role}_key=NAME"
    )


def _field_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        shape = (shape[0], *shape[2:]) if shape[1] == 1 else shape[:3]
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def _checked_shape(path: Path, name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    found = _field_shape(shape)
    if found is None:
        raise DataError(f"{path}: {name!r} has shape {shape}; what can be used is {SHAPES}")
    if 0 in found:
        raise DataError(f"{path}: {name!r} is empty (shape {shape})")
    return found


def _listed(arrays: Mapping[str, StoredArray]) -> str:
    names = [f"{name} {array.shape}" for name, array in arrays.items()]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "no arrays"
