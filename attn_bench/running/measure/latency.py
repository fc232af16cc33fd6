"""Latency of a step: warm-up, adaptive sampling, and the median with its confidence interval.

Host steps are timed with ``perf_counter_ns``, several calls per sample if one is too short for the timer. CUDA steps
are timed between two events on their stream, with many launches per synchronization: host and device overlap as in
real use, and no time is read before the device has reached it.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from attn_bench.results.record import Latency
from attn_bench.running.device.clocks import Clocks
from attn_bench.running.device.device import Device
from attn_bench.running.device.select import device_of

Step = Callable[[], Any]
Clock = Callable[[], int]

# The fewest samples whose range is a 95 % confidence interval of the median: 1 - 2 / 2^6 = 0.97.
FEWEST = 6
# Short calls are timed together for this long, much as torch.utils.benchmark does: a sample is a mean, so that rare
# slow calls count in proportion. Medians of single calls of 0.1 ms are 2 to 3 % lower on a busy machine.
SAMPLE_MS = 1.0
WARMUP_WINDOW = 5
# On two cores: 0.98 and above where nothing else ran, 0.79 and below beside one busy process.
QUIET_SHARE = 0.9
# Work launched on a GPU between two synchronizations; the time limit is checked in between.
ROUND_MS = 200.0


class Sampler(Protocol):
    """Takes ``samples`` samples of ``calls`` calls each and returns milliseconds per call.

    Attributes:
        round_ms: how long the samples requested at once should last.
        throttled: whether the device was throttled when the last samples were taken.
    """

    round_ms: float
    throttled: bool

    def __call__(self, samples: int, calls: int) -> list[float]: ...


@dataclass(frozen=True)
class Sampling:
    """How long a step is warmed up and sampled.

    Attributes:
        min_samples: minimum number of samples, however narrow the interval is.
        max_samples: maximum number of samples.
        min_seconds: minimum time that the samples span; over a shorter time, a machine that drifts by a few percent
            within seconds looks steadier than it is.
        max_seconds: time limit for sampling; at least six samples are taken.
        warmup_seconds: time limit for warming up; at least two calls are made.
        target: target half-width of the interval, relative to the median.
        agreement: largest relative difference between two successive warm-up medians that counts as agreement.
        flush_l2: overwrite the L2 cache before each sample, outside the timed region (CUDA).
    """

    min_samples: int = 20
    max_samples: int = 2000
    min_seconds: float = 0.5
    max_seconds: float = 4.0
    warmup_seconds: float = 2.0
    target: float = 0.01
    agreement: float = 0.03
    flush_l2: bool = False


USUAL = Sampling()


def measure_latency(
    step: Step,
    device: str,
    sampling: Sampling = USUAL,
    *,
    clock: Clock = time.perf_counter_ns,
    thread_clock: Clock = time.thread_time_ns,
) -> Latency:
    """Measure the latency of ``step``.

    Calls it until the medians of two successive windows agree, then samples until the confidence interval of the median
    is narrow enough or time runs out. Garbage collection is off meanwhile.

    Args:
        step: what is timed; it runs on ``device``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        sampling: how long, and how exactly.
        clock, thread_clock: wall-clock and CPU time of this thread, in nanoseconds; for tests.

    Raises:
        ValueError: a device that cannot be timed.
    """

    def sampler(at: Device, clocks: Clocks) -> Sampler:
        if not at.asynchronous:
            return HostSampler(step, clock)
        return EventSampler(step, at, clocks, flush_l2=sampling.flush_l2)

    (latency,) = measured(sampler, device, sampling, (float,), clock=clock, thread_clock=thread_clock)
    return latency


def measured(
    sampler_of: Callable[[Device, Clocks], Sampler],
    device: str,
    sampling: Sampling,
    parts: Sequence[Callable[[Any], float]],
    *,
    clock: Clock,
    thread_clock: Clock,
) -> list[Latency]:
    """Return the latency of each of some ``parts`` of what a sampler times, as :func:`measure_latency` does.

    Args:
        sampler_of: returns the sampler; called with the device and its clocks.
        parts: functions of a sample.
    """
    at = device_of(device)
    flush_l2 = sampling.flush_l2 and at.asynchronous
    clocks = at.clocks()
    sampler = sampler_of(at, clocks)
    with _no_gc():
        call_ms, steps, warm = _warm_up(sampler, clock, sampling)
        # The cache is cold only for the first call after a flush.
        calls = 1 if flush_l2 else _calls_per_sample(call_ms)
        clocks.readings.clear()
        start, thread_start = clock(), thread_clock()
        samples, slowed = _sample(sampler, calls, call_ms, clock, sampling)
        wall, on_core = clock() - start, thread_clock() - thread_start
    share = on_core / wall if wall else 1.0
    return [
        Latency(
            **_statistics(list(map(part, samples)), list(map(part, slowed)), sampling.target),
            warmup_steps=steps,
            warm=warm,
            calls_per_sample=calls,
            host_share=share,
            disturbed=not at.asynchronous and share < QUIET_SHARE,
            l2_flushed=flush_l2,
            sm_clock_mhz=clocks.sm_mhz(),
            clock_limits=clocks.limits(),
        )
        for part in parts
    ]


def _statistics(samples: list[float], slowed: list[float], target: float) -> dict[str, Any]:
    """Summarize samples; those taken while the device was throttled count only if most were."""
    throttled = len(slowed) > len(samples)
    if throttled:
        samples = [*samples, *slowed]
    low, high = median_interval(samples)
    return {
        "samples_ms": tuple(samples),
        "median_ms": statistics.median(samples),
        "low_ms": low,
        "high_ms": high,
        "p10_ms": quantile(samples, 0.1),
        "p90_ms": quantile(samples, 0.9),
        "converged": _narrow(samples, target),
        "discarded": 0 if throttled else len(slowed),
        "throttled": throttled,
    }


def _warm_up(sampler: Sampler, clock: Clock, sampling: Sampling) -> tuple[float, int, bool]:
    """Return milliseconds per call, the number of calls, and whether the last two windows agreed."""
    end = clock() + sampling.warmup_seconds * 1e9
    sampler(1, 1)
    (call_ms,) = sampler(1, 1)
    steps = 2
    previous: float | None = None
    while clock() < end:
        calls = _calls_per_sample(call_ms)
        window: list[float] = []
        while len(window) < WARMUP_WINDOW and clock() < end:
            window += sampler(1, calls)
            steps += calls
        if len(window) < WARMUP_WINDOW:
            break
        call_ms = statistics.median(window)
        if previous is not None and abs(call_ms - previous) <= sampling.agreement * previous:
            return call_ms, steps, True
        previous = call_ms
    return call_ms, steps, False


def _sample(
    sampler: Sampler, calls: int, call_ms: float, clock: Clock, sampling: Sampling
) -> tuple[list[float], list[float]]:
    """Return the samples taken at full speed, and those taken while the device was throttled."""
    start = clock()
    end = start + sampling.max_seconds * 1e9
    per_round = max(1, int(sampler.round_ms / max(calls * call_ms, 1e-6)))
    samples: list[float] = []
    slowed: list[float] = []
    while len(samples) < sampling.max_samples:
        enough = max(sampling.min_samples, FEWEST)
        # Checking the interval after every sample would stop at a lucky moment: check after every 25 % more samples.
        goal = min(sampling.max_samples, max(enough, len(samples) * 5 // 4))
        while len(samples) < goal and (clock() < end or len(samples) + len(slowed) < FEWEST):
            taken = sampler(min(per_round, goal - len(samples)), calls)
            (slowed if sampler.throttled else samples).extend(taken)
        long_enough = clock() - start >= min(sampling.min_seconds, sampling.max_seconds) * 1e9
        if len(samples) < goal or (long_enough and _narrow(samples, sampling.target)):
            break
    return samples, slowed


def _calls_per_sample(call_ms: float) -> int:
    return max(1, math.ceil(SAMPLE_MS / max(call_ms, 1e-6)))


def _narrow(samples: Sequence[float], target: float) -> bool:
    if len(samples) < FEWEST:
        return False
    median = statistics.median(samples)
    low, high = median_interval(samples)
    return max(high - median, median - low) <= target * median


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval between two order statistics that covers the median with at least ``confidence``.

    The number of samples below the median is binomial(n, 1/2), so the k-th smallest and k-th largest enclose it with
    probability 1 - 2 P(B < k). If there are too few samples for any k, the range is returned.
    """
    ordered = sorted(samples)
    k = _rank(len(ordered), confidence)
    return ordered[k - 1], ordered[-k]


@lru_cache(maxsize=4096)
def _rank(n: int, confidence: float) -> int:
    """The largest k >= 1 with 2 P(B < k) <= 1 - confidence for B ~ binomial(n, 1/2); 1 if there is none."""
    k, below, term = 0, 0, 1
    limit = math.floor((1 - confidence) / 2 * 2**64) * (1 << n) >> 64
    while below + term <= limit:
        below += term
        term = term * (n - k) // (k + 1)
        k += 1
    return max(k, 1)


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the ``q`` quantile, interpolating linearly between order statistics."""
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    i = min(int(position), len(ordered) - 2) if len(ordered) > 1 else 0
    j = min(i + 1, len(ordered) - 1)
    return ordered[i] + (position - i) * (ordered[j] - ordered[i])


@contextlib.contextmanager
def _no_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class HostSampler:
    """Times calls that are finished when they return."""

    round_ms = 0.0
    throttled = False

    def __init__(self, step: Step, clock: Clock) -> None:
        self.step, self.clock = step, clock

    def __call__(self, samples: int, calls: int) -> list[float]:
        step, clock, times = self.step, self.clock, []
        for _ in range(samples):
            start = clock()
            for _ in range(calls):
                step()
            times.append((clock() - start) / calls / 1e6)
        return times


class EventSampler:
    """Times calls between events on the current stream of ``device``, with one synchronization for all samples."""

    round_ms = ROUND_MS
    throttled = False

    def __init__(self, step: Step, device: Device, clocks: Clocks, *, flush_l2: bool) -> None:
        self.step, self.device, self.clocks = step, device, clocks
        self.flush = device.cache_flush() if flush_l2 else None

    def __call__(self, samples: int, calls: int) -> list[float]:
        with self.device.current():
            pairs = [[self.device.event() for _ in range(2)] for _ in range(samples)]
            for start, end in pairs:
                if self.flush is not None:
                    self.flush()
                start.record()
                for _ in range(calls):
                    self.step()
                end.record()
            # Now, while the device works through its queue.
            self.throttled = self.clocks.read()
            self.device.synchronize()
        return [start.elapsed_time(end) / calls for start, end in pairs]
