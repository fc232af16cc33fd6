"""Energy of a step, in joules, from a counter of the device: NVML's of a GPU, or RAPL's of the processor packages.

A counter counts all that its device does, with what it takes when idle, and moves in jumps: NVML's about every tenth
of a second. So the step is repeated between two jumps that are seconds apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attn_bench.results.record import Energy
from attn_bench.running.device.meter import Meter

# How long the step is repeated; a counter that moves every 0.1 s is read at a jump, give or take one call.
SECONDS = 2.0
# Calls between two readings take about this long, and no fewer than one call.
ROUND_S = 0.005
# A counter that stands still for so long does not count.
STILL_S = 2.0
# RAPL's counters hold 65 kJ or more, which 500 W take more than two minutes to fill.
GAP_S = 60.0


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
