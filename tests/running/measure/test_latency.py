"""The statistics of latency on simulated clocks; no test depends on real time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import chain, repeat

import numpy as np
import pytest
from scipy.stats import binom

from attn_bench.running.device.clocks import Clocks
from attn_bench.running.measure.latency import Sampling, measure_latency, median_interval, quantile


class Clock:
    """A clock that only steps move, by the milliseconds given, one after the other."""

    def __init__(self, durations_ms: Iterator[float]) -> None:
        self.now, self.durations, self.calls = 0, durations_ms, 0

    def __call__(self) -> int:
        return self.now

    def step(self) -> None:
        self.now += round(next(self.durations) * 1e6)
        self.calls += 1


def noise(scale: float) -> Iterator[float]:
    rng = np.random.default_rng(0)
    while True:
        yield float(rng.lognormal(0, scale))


def test_steady_step_takes_the_fewest_samples() -> None:
    clock = Clock(repeat(3.0))
    latency = measure_latency(clock.step, "cpu", clock=clock, sampling=Sampling(min_samples=20, min_seconds=0))
    assert latency.samples_ms == (3.0,) * 20
    assert (latency.median_ms, latency.low_ms, latency.high_ms, latency.p10_ms, latency.p90_ms) == (3.0,) * 5
    assert latency.warm
    assert latency.converged
    assert latency.warmup_steps + 20 == clock.calls


def test_samples_span_a_while_however_steady() -> None:
    clock = Clock(repeat(3.0))
    latency = measure_latency(clock.step, "cpu", clock=clock, sampling=Sampling(min_seconds=0.5))
    assert 500 <= sum(latency.samples_ms) < 500 * 1.3


def test_short_steps_are_timed_together() -> None:
    clock = Clock(repeat(0.004))
    latency = measure_latency(clock.step, "cpu", clock=clock)
    assert latency.calls_per_sample == 250
    assert latency.median_ms == pytest.approx(0.004)


def test_no_sample_is_taken_before_the_step_is_warm() -> None:
    falling = [5 * 0.9**i + 1 for i in range(60)]
    clock = Clock(chain(falling, repeat(1.0)))
    latency = measure_latency(clock.step, "cpu", clock=clock)
    assert latency.warm
    assert max(latency.samples_ms) < 1.1
    assert latency.warmup_steps > 20


def test_sampling_continues_until_the_interval_is_narrow() -> None:
    wide, narrow = (
        measure_latency(
            clock.step,
            "cpu",
            clock=clock,
            sampling=Sampling(target=target, min_seconds=0, max_seconds=1e3, max_samples=50_000),
        )
        for target, clock in ((0.05, Clock(noise(0.2))), (0.01, Clock(noise(0.2))))
    )
    for latency, target in ((wide, 0.05), (narrow, 0.01)):
        assert latency.converged
        assert latency.high_ms - latency.median_ms <= target * latency.median_ms
        assert latency.median_ms - latency.low_ms <= target * latency.median_ms
    # The width falls with the root of the number of samples.
    assert len(narrow.samples_ms) > 10 * len(wide.samples_ms)


def test_time_runs_out() -> None:
    clock = Clock(noise(1.0))
    latency = measure_latency(clock.step, "cpu", clock=clock, sampling=Sampling(max_seconds=0.2))
    assert not latency.converged
    assert 0 <= sum(latency.samples_ms) - 200 <= max(latency.samples_ms)


def test_slow_step_still_gets_an_interval() -> None:
    clock = Clock(repeat(60_000.0))
    latency = measure_latency(clock.step, "cpu", clock=clock)
    assert len(latency.samples_ms) == 6
    assert not latency.warm
    assert clock.calls == 8


@pytest.mark.parametrize("n", [*range(6, 60), 99, 100, 500, 2000])
def test_interval_is_the_narrowest_that_covers_95_percent(n: int) -> None:
    low, high = median_interval([float(i) for i in range(1, n + 1)])
    k = int(low)
    assert high == n + 1 - k
    assert 1 - 2 * binom.cdf(k - 1, n, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(k, n, 0.5) < 0.95


@pytest.mark.parametrize("n", [7, 20, 101])
def test_interval_covers_the_true_median(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.exponential(size=(3000, n))
    covered = [low <= np.log(2) <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.94 <= np.mean(covered) <= 0.99


def test_too_few_samples_give_their_range() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([2.0]) == (2.0, 2.0)


def test_quantiles_are_numpys() -> None:
    values = np.random.default_rng(0).random(37).tolist()
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))
    assert quantile([1.5], 0.9) == 1.5


def test_garbage_collection_is_off_meanwhile_and_on_again_after_an_error() -> None:
    seen = set()

    def step() -> None:
        seen.add(gc.isenabled())
        raise RuntimeError("broken step")

    with pytest.raises(RuntimeError, match="broken step"):
        measure_latency(step, "cpu")
    assert seen == {False}
    assert gc.isenabled()


def test_a_machine_shared_with_others_is_noticed() -> None:
    for share, disturbed in ((1.0, False), (0.95, False), (0.7, True)):
        clock = Clock(repeat(3.0))
        latency = measure_latency(
            clock.step, "cpu", clock=clock, thread_clock=lambda c=clock, s=share: round(c.now * s)
        )
        assert latency.host_share == pytest.approx(share)
        assert latency.disturbed is disturbed


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="'tpu' cannot be timed; use 'cpu' or 'cuda'"):
        measure_latency(lambda: None, "tpu")


class Nvml:
    """Clocks and reasons one after the other, the last for ever; None stands for an error."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, readings: list[tuple[int, int] | None]) -> None:
        self.readings, self.asked = readings, 0

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:
        self.now = self.readings[min(self.asked, len(self.readings) - 1)]
        self.asked += 1
        if self.now is None:
            raise self.NVMLError
        return self.now[0]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        assert self.now is not None
        return self.now[1]


def test_what_limits_the_clock_of_a_gpu_is_named() -> None:
    clocks = Clocks(Nvml([(1980, 0x4), (1200, 0x44), None, (1410, 0x1)]), None)
    assert [clocks.read() for _ in range(4)] == [False, True, False, False]
    assert clocks.sm_mhz() == 1410
    assert clocks.limits() == ("power cap", "hardware thermal slowdown")
    nothing = Clocks(None, None)
    assert (nothing.read(), nothing.sm_mhz(), nothing.limits()) == (False, None, ())


@pytest.mark.parametrize(("slow_of_five", "median", "throttled"), [(0, 2.0, False), (2, 2.0, False), (3, 5.0, True)])
def test_samples_of_a_hot_gpu_are_left_out_unless_they_are_most(
    monkeypatch: pytest.MonkeyPatch, slow_of_five: int, median: float, throttled: bool
) -> None:
    now = rounds = 0

    class Sampler:
        round_ms, throttled = 0.0, False

        def __init__(self, step: object, device: object, clocks: Clocks, *, flush_l2: bool) -> None:
            pass

        def __call__(self, samples: int, calls: int) -> list[float]:
            nonlocal now, rounds
            self.throttled = rounds % 5 < slow_of_five
            rounds += 1
            now += round((5e6 if self.throttled else 2e6) * samples * calls)
            return [5.0 if self.throttled else 2.0] * samples

    monkeypatch.setattr("attn_bench.running.measure.latency.EventSampler", Sampler)
    latency = measure_latency(lambda: None, "cuda", clock=lambda: now)
    assert latency.median_ms == median
    assert latency.throttled is throttled
    assert (latency.discarded > 0) is (slow_of_five == 2)
    assert not latency.disturbed
