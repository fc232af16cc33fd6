"""Clock of a GPU under load, and what limits it, as NVML reports."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

# Bits of NVML's clock event reasons. The power cap limits every GPU under sustained load: it is recorded, but such a
# measurement is what a user gets. The others depend on cooling and power supply.
POWER_CAP = 0x4
SLOWDOWNS = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
REASONS = {POWER_CAP: "power cap", **SLOWDOWNS}


@dataclass(frozen=True)
class Reading:
    """One reading of a GPU: its SM clock, and NVML's bits for what limits it."""

    sm_mhz: int
    reasons: int

    @property
    def throttled(self) -> bool:
        """Whether heat or the power supply slows it down."""
        return any(self.reasons & bit for bit in SLOWDOWNS)


class Clocks:
    """Reads the clock of one GPU; without NVML there are no readings.

    Attributes:
        readings: in the order taken.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.readings: list[Reading] = []

    def read(self) -> bool:
        """Take a reading and tell whether the GPU is throttled."""
        if self.nvml is None:
            return False
        try:
            clock = self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
            reasons = self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle)
        except self.nvml.NVMLError:
            return False
        self.readings.append(Reading(clock, reasons))
        return self.readings[-1].throttled

    def sm_mhz(self) -> float | None:
        """Median of the SM clock, in MHz."""
        return statistics.median(reading.sm_mhz for reading in self.readings) if self.readings else None

    def limits(self) -> tuple[str, ...]:
        """Everything that limited the clock in any reading."""
        return tuple(name for bit, name in REASONS.items() if any(r.reasons & bit for r in self.readings))
