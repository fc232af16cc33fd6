"""Latency of the parts of a step, such as forward, backward and optimizer: each in its place in the whole step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attn_bench.results.record import Latency
from attn_bench.running.device.clocks import Clocks
from attn_bench.running.device.device import Device, Event
from attn_bench.running.measure.latency import ROUND_MS, Clock, Sampler, Sampling, measured

# What a part gets is what the part before it returned; the first gets None.
Part = Callable[[Any], Any]

# The whole step was measured before, so that it is warm; the parts need fewer samples than a number that is compared.
BRIEF = Sampling(min_samples=10, min_seconds=0.2, max_seconds=1.0, warmup_seconds=0.5, target=0.02)


class Whole(float):
    """Milliseconds of a step that also knows those of its parts."""

    parts: Sequence[float]

    @classmethod
    def of(cls, parts: Sequence[float]) -> Whole:
        """Return the sum of some parts."""
        whole = cls(sum(parts))
        whole.parts = parts
        return whole

    def part(self, i: int) -> float:
        """Return the milliseconds of part ``i``."""
        return self.parts[i]


def measure_parts(
    parts: Sequence[Part],
    device: str,
    sampling: Sampling = BRIEF,
    *,
    clock: Clock = time.perf_counter_ns,
    thread_clock: Clock = time.thread_time_ns,
) -> list[Latency]:
    """Measure the latency of each part of a step that is run as a whole, over and over.

    The step is warmed up and sampled as :func:`attn_bench.running.measure.latency.measure_latency` does, with a reading
    of the clock between its parts: so the parts of a sample add up to the step.

    Args:
        parts: called one after the other, each with what the part before it returned.

    Raises:
        ValueError: a device that cannot be timed.
    """

    def sampler(at: Device, clocks: Clocks) -> Sampler:
        return EventParts(parts, at, clocks) if at.asynchronous else HostParts(parts, clock)

    each = [partial(Whole.part, i=i) for i in range(len(parts))]
    return measured(sampler, device, sampling, each, clock=clock, thread_clock=thread_clock)


class HostParts:
    """Times parts that are finished when they return."""

    round_ms = 0.0
    throttled = False

    def __init__(self, parts: Sequence[Part], clock: Clock) -> None:
        self.parts, self.clock = parts, clock

    def __call__(self, samples: int, calls: int) -> list[float]:
        clock, times = self.clock, list[float]()
        for _ in range(samples):
            spent = [0] * len(self.parts)
            for _ in range(calls):
                value, before = None, clock()
                for i, part in enumerate(self.parts):
                    value = part(value)
                    now = clock()
                    spent[i] += now - before
                    before = now
            times.append(Whole.of([nanoseconds / calls / 1e6 for nanoseconds in spent]))
        return times


class EventParts:
    """Times parts between events on the current stream; one synchronization for all samples asked for."""

    round_ms = ROUND_MS
    throttled = False

    def __init__(self, parts: Sequence[Part], device: Device, clocks: Clocks) -> None:
        self.parts, self.device, self.clocks = parts, device, clocks

    def __call__(self, samples: int, calls: int) -> list[float]:
        def event() -> Event:
            recorded = self.device.event()
            recorded.record()
            return recorded

        with self.device.current():
            taken = []
            for _ in range(samples):
                each = []
                for _ in range(calls):
                    value, events = None, [event()]
                    for part in self.parts:
                        value = part(value)
                        events.append(event())
                    each.append(events)
                taken.append(each)
            self.throttled = self.clocks.read()
            self.device.synchronize()
        return [
            Whole.of(
                [sum(events[i].elapsed_time(events[i + 1]) for events in each) / calls for i in range(len(self.parts))]
            )
            for each in taken
        ]
