"""How long a kernel takes at least on a GPU, by what it moves and computes; no measurement.

A kernel takes at least as long as any single resource is busy with it: memory, the level-2 cache, the level-1 caches,
the unit that multiplies, and that of exponentials. The *limit* is that of its definition: every input read once, every
output written once, and its operations on the fastest unit for its numbers. The *prediction* is that of the kernel as
it is written. Where the prediction is far above the limit, another kernel can be faster. Launching takes about 3
microseconds in addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attn_bench.nn.kernel_work import KernelWork


@dataclass(frozen=True)
class Gpu:
    """Published peaks of a GPU.

    Attributes:
        bytes_per_s: of its memory.
        flops_per_s: of each unit by bytes of a number, without sparsity.
        processors: number of streaming multiprocessors.
        clock_hz: their boost clock.
        l2_bytes_per_clock: of the level-2 cache.
        source: where the numbers are published.
    """

    name: str
    bytes_per_s: float
    flops_per_s: Mapping[tuple[str, int], float]
    processors: int
    clock_hz: float
    l2_bytes_per_clock: int
    source: str

    @property
    def l1_bytes_per_s(self) -> float:
        """Of all level-1 caches: 128 bytes per clock each (CUDA C++ Best Practices Guide, shared memory)."""
        return 128 * self.processors * self.clock_hz

    @property
    def exponentials_per_s(self) -> float:
        """Of all special function units: 16 per clock and processor (CUDA C++ Programming Guide, throughput)."""
        return 16 * self.processors * self.clock_hz

    @property
    def l2_bytes_per_s(self) -> float:
        """Of the level-2 cache, at the processors' clock."""
        return self.l2_bytes_per_clock * self.clock_hz


def _peaks(vector: float, half: float) -> Mapping[tuple[str, int], float]:
    """Return the peaks in TFLOP/s; vector units compute in float32, whatever they load."""
    return {
        ("vector units", 4): vector * 1e12,
        ("vector units", 2): vector * 1e12,
        ("tensor cores", 4): half / 2 * 1e12,  # TF32
        ("tensor cores", 2): half * 1e12,
    }


# The A100 white paper has 5120 bytes per clock for its level-2 cache; of the H100 nothing is published, and the same is
# assumed. Peaks of tensor cores are half of those that the data sheets give with sparsity.
GPUS: Mapping[str, Gpu] = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("A100", 2.039e12, _peaks(19.5, 312), 108, 1.41e9, 5120, "NVIDIA A100 80GB data sheet; white paper"),
        Gpu("H100", 3.35e12, _peaks(67, 989.5), 132, 1.83e9, 5120, "NVIDIA H100 SXM data sheet; white paper"),
        Gpu("H200", 4.8e12, _peaks(67, 989.5), 132, 1.83e9, 5120, "NVIDIA H200 SXM data sheet; H100 white paper"),
    )
}


@dataclass(frozen=True)
class Roofline:
    """The least time of a kernel on a GPU.

    Attributes:
        limit_ms: of its definition.
        by_ms: of the kernel as it is written, by resource.
    """

    limit_ms: float
    by_ms: Mapping[str, float]

    @property
    def bound_by(self) -> str:
        """The resource that takes longest."""
        return max(self.by_ms, key=lambda name: self.by_ms[name])

    @property
    def predicted_ms(self) -> float:
        """How long the kernel takes at least."""
        return self.by_ms[self.bound_by]

    @property
    def share(self) -> float:
        """The limit over the prediction: 1 for a kernel that cannot be faster."""
        return self.limit_ms / self.predicted_ms


def roofline(work: KernelWork, gpu: Gpu, itemsize: int) -> Roofline:
    """Return the least time of ``work`` on ``gpu``.

    Args:
        itemsize: bytes of a number that is multiplied, 2 or 4.
    """
    moved = work.read + work.written
    fastest = max(peak for (_, size), peak in gpu.flops_per_s.items() if size == itemsize)
    memory = moved / gpu.bytes_per_s
    by = {
        "memory": memory,
        "level-2 cache": max(work.l2_moved, moved) / gpu.l2_bytes_per_s,
        "level-1 caches": work.l1_loaded / gpu.l1_bytes_per_s,
        work.unit: work.executed / gpu.flops_per_s[work.unit, itemsize],
        "exponentials": work.exponentials / gpu.exponentials_per_s,
    }
    limit = max(memory, work.flops / fastest)
    return Roofline(1e3 * limit, {name: 1e3 * seconds for name, seconds in by.items()})
