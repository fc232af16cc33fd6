"""Energy of a step, in joules, from a counter of the device: NVML's of a GPU, or RAPL's of the processor packages.

A counter counts all that its device does, with what it takes when idle, and moves in jumps: NVML's about every tenth
of a second. So the step is repeated between two jumps that are seconds apart.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_bench.results.record import Energy

POWERCAP = Path("/sys/class/powercap")
# How long the step is repeated; a counter that moves every 0.1 s is read at a jump, give or take one call.
SECONDS = 2.0
# Calls between two readings take about this long, and no fewer than one call.
ROUND_S = 0.005
# A counter that stands still for so long does not count.
STILL_S = 2.0
# RAPL's counters hold 65 kJ or more, which 500 W take more than two minutes to fill.
GAP_S = 60.0


@dataclass
class Zone:
    """A counter of one device.

    Attributes:
        read: returns what it says now.
        unit_j: joules that one stands for.
        wraps_at: where it begins again at 0; None if it never does.
    """

    read: Callable[[], int]
    unit_j: float
    wraps_at: int | None = None


@dataclass
class Meter:
    """Adds up what counters say, across the ends of their ranges.

    Attributes:
        source: ``nvml`` or ``rapl``.
    """

    source: str
    zones: Sequence[Zone]
    _last: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = [zone.read() for zone in self.zones]

    def joules(self) -> float:
        """Return the joules since the last reading; at most one end of a range may lie between.

        Raises:
            ValueError: a counter that never wraps went back.
        """
        now, total = [zone.read() for zone in self.zones], 0.0
        for zone, before, after in zip(self.zones, self._last, now):
            counted = after - before
            if counted < 0:
                if zone.wraps_at is None:
                    raise ValueError(f"the energy counter ({self.source}) went back while it was read")
                counted += zone.wraps_at
            total += counted * zone.unit_j
        self._last = now
        return total


def meter_of(device: str) -> Meter | str:
    """Return the meter of ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``, or why there is none."""
    return _nvml(device) if device.startswith("cuda") else rapl()


def rapl(folder: Path = POWERCAP) -> Meter | str:
    """Return the meter of the processor packages, or why there is none."""
    packages = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
    if not packages:
        return "no energy counter: this machine shows none of its processor (RAPL)"
    readable = [zone for zone in packages if os.access(zone / "energy_uj", os.R_OK)]
    if len(readable) < len(packages):
        return "no energy counter: only root may read that of the processor (RAPL, energy_uj)"
    try:
        return Meter("rapl", [_package(zone) for zone in packages])
    except (OSError, ValueError) as error:
        return f"no energy counter: that of the processor cannot be read (RAPL: {error})"


def _nvml(device: str) -> Meter | str:
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        return nvml_meter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except Exception as error:  # no driver, no such library, a GPU that only torch sees, or one without a counter
        return f"no energy counter: NVML has none of this GPU ({error})"


def nvml_meter(nvml: Any, handle: Any) -> Meter:
    """Return the meter of a GPU, whose counter is in millijoules since the driver was loaded; NVML stays open."""
    return Meter("nvml", [Zone(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3)])


def measure_energy(
    step: Callable[[], object],
    meter: Meter,
    finish: Callable[[], object] = lambda: None,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Energy:
    """Measure the energy of a call of ``step``, which was called before and is warm.

    It is repeated until the counter jumps, and from there until a jump that comes ``seconds`` later or more.

    Args:
        finish: waits for what the device still has to do.
        clock: in nanoseconds; for tests.

    Raises:
        ValueError: the counter stands still, went back, or may have wrapped twice during a call.
    """
    start = clock()
    step()
    finish()
    calls = max(1, math.ceil(ROUND_S / max((clock() - start) / 1e9, 1e-9)))

    def until_jump(after: float) -> tuple[float, int]:
        """Repeat the step until the first jump of the counter after so many seconds; return joules and calls."""
        start = still = before = clock()
        total, count = 0.0, 0
        while True:
            for _ in range(calls):
                step()
            finish()
            counted, now = meter.joules(), clock()
            count += calls
            total += counted
            if now - before > GAP_S * 1e9:
                raise ValueError(f"a call takes {(now - before) / 1e9 / calls:.0f} s, too long for the energy counter")
            still, before = now if counted > 0 else still, now
            if now - still > STILL_S * 1e9:
                raise ValueError(f"the energy counter ({meter.source}) stands still")
            if counted > 0 and now - start >= after * 1e9:
                return total, count

    until_jump(0.0)
    begun = clock()
    total, count = until_jump(seconds)
    return Energy(total / count, count, (clock() - begun) / 1e9)


def _package(folder: Path) -> Zone:
    """Return the counter of a processor package; its range is the largest value, after which comes 0."""
    counter = folder / "energy_uj"
    wraps_at = int(_text(folder / "max_energy_range_uj")) + 1
    return Zone(lambda: int(counter.read_text(encoding="ascii")), 1e-6, wraps_at)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
