"""What a kernel does, counted on paper: the input of :mod:`attn_bench.analysis.roofline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["tensor cores", "vector units"]


@dataclass(frozen=True)
class KernelWork:
    """The work of one launch.

    Attributes:
        name: of the kernel.
        read, written: bytes that must pass between memory and the chip: every input and every output once.
        flops: floating-point operations of the definition, multiplications and additions.
        executed: operations that the kernel takes for them, padding of tiles and rescaling included.
        unit: which unit takes them.
        exponentials: that the kernel takes.
        l1_loaded: bytes that the threads load, from whatever cache.
        l2_moved: bytes that pass the level-2 cache, where that is known to differ from ``read + written``.
    """

    name: str
    read: int
    written: int
    flops: int
    executed: int
    unit: Unit
    exponentials: int
    l1_loaded: int
    l2_moved: int = 0
