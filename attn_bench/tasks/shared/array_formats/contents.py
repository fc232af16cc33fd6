"""The contents of a file: readable arrays, and other named items."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.format import clean
from attn_bench.plugin import DataError

if TYPE_CHECKING:
    import numpy as np

NAME_LIMIT = 60
LISTED = 10
# Maximum nesting, and maximum number of items.
DEEPEST, MOST_ITEMS = 16, 10_000
# deflate packs at most 1032 bytes into one; an array that claims more is not in the file.
MOST_PACKED = 1100


@dataclass(frozen=True)
class StoredArray:
    """An array of a file.

    Attributes:
        shape: its axes in the order that its author sees.
        nbytes: memory needed to read it.
        read: returns the values.
    """

    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Unusable:
    """An item that is not an array of real numbers: what it is ("a sparse tensor"), and what its author can do."""

    what: str
    remedy: str


Named = tuple[str, StoredArray | Unusable]


@dataclass
class Contents:
    """Everything in a file, by name.

    Attributes:
        path: the file.
        arrays: readable arrays.
        others: other items.
        matlab: whether MATLAB wrote it, whose users often keep samples on the last axis.
    """

    path: Path
    arrays: dict[str, StoredArray] = field(default_factory=dict)
    others: dict[str, Unusable] = field(default_factory=dict)
    matlab: bool = False

    def add(self, name: str, item: StoredArray | Unusable) -> None:
        """Add ``item``; two items with one name are both unusable. Raises DataError if there are too many."""
        if len(self.arrays) + len(self.others) == MOST_ITEMS:
            raise DataError(f"{self.path}: contains more than {MOST_ITEMS} items; save only the two arrays")
        if name in self.arrays or name in self.others:
            self.arrays.pop(name, None)
            self.others[name] = Unusable("present more than once under this name", "rename one of them")
        elif isinstance(item, StoredArray):
            self.arrays[name] = item
        else:
            self.others[name] = item

    def listed(self) -> str:
        """Return names with shapes or descriptions, in one line."""
        names = [f"{shown(name)} {array.shape}" for name, array in self.arrays.items()]
        names += [f"{shown(name)} ({other.what})" for name, other in self.others.items()]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return ", ".join(names[:LISTED]) + more or "no arrays"


def shown(name: str) -> str:
    """Return a name from a file in a form that is safe to display."""
    return clean(name, NAME_LIMIT)


def size_of(shape: Sequence[int], itemsize: int) -> int:
    """Return the bytes of an array in memory."""
    return math.prod(map(int, shape)) * itemsize


def unusable(dtype: np.dtype) -> Unusable | None:
    """Return why values of ``dtype`` cannot be used, or None if they are real numbers."""
    if dtype.kind in "biuf":
        return None
    if dtype.kind == "c":
        return Unusable(str(dtype), "it must contain real numbers")
    if dtype.names:
        return Unusable(f"a table of {clean(', '.join(dtype.names), NAME_LIMIT)}", "store its columns as plain arrays")
    what = {"O": "Python objects", "S": "text", "U": "text", "M": "dates", "m": "durations"}
    return Unusable(what.get(dtype.kind, f"of type {clean(str(dtype), NAME_LIMIT)}"), "it must contain real numbers")


def check_memory(what: str, needed: int, remedy: str) -> None:
    """Raise DataError if ``what`` needs more bytes than this process can allocate."""
    free = free_memory()
    if needed > free:
        raise DataError(f"{what} needs {in_units(needed)} of memory, but {in_units(free)} are free; {remedy}")


def free_memory() -> int:
    """Return the bytes that this process can still allocate, by the machine and its control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no such group, or no limit
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(free, 0)


def in_units(size: int) -> str:
    """Return bytes in words, e.g. ``"1.5 GiB"``."""
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.3g} {units[0]}"
