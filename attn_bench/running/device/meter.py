"""Counters of energy: NVML's of a GPU, in millijoules, and RAPL's of the processor packages, which wrap."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


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


def nvml_meter(nvml: Any, handle: Any) -> Meter:
    """Return the meter of a GPU, whose counter is in millijoules since the driver was loaded; NVML stays open."""
    return Meter("nvml", [Zone(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3)])


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
