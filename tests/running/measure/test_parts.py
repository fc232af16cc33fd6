"""The parts of a step on a simulated clock: each is timed in its place, and together they are the step."""

from __future__ import annotations

import itertools

import pytest
import torch

from attn_bench.running.measure.latency import Sampling
from attn_bench.running.measure.parts import measure_parts


class Clock:
    """A clock that only parts move, by milliseconds."""

    def __init__(self) -> None:
        self.now, self.called = 0, list[tuple[int, object]]()

    def __call__(self) -> int:
        return self.now

    def part(self, i: int, durations_ms):
        durations = itertools.cycle(durations_ms)

        def call(previous):
            self.called.append((i, previous))
            self.now += round(next(durations) * 1e6)
            return i

        return call


def test_each_part_is_timed_in_its_place_and_gets_what_the_one_before_returned():
    clock = Clock()
    parts = [clock.part(0, [3.0]), clock.part(1, [6.0, 8.0]), clock.part(2, [0.5])]
    first, second, third = measure_parts(parts, "cpu", Sampling(min_samples=20, min_seconds=0), clock=clock)
    assert clock.called[:6] == [(0, None), (1, 0), (2, 1), (0, None), (1, 0), (2, 1)]
    assert set(first.samples_ms) == {3.0}
    assert set(second.samples_ms) == {6.0, 8.0}
    assert third.median_ms == 0.5
    assert (second.low_ms, second.high_ms) == (6.0, 8.0)
    assert len(first.samples_ms) == len(second.samples_ms) == len(third.samples_ms)


def test_short_parts_are_timed_over_many_calls():
    clock = Clock()
    first, second = measure_parts([clock.part(0, [0.002]), clock.part(1, [0.006])], "cpu", clock=clock)
    assert first.calls_per_sample == second.calls_per_sample == 125
    assert (first.median_ms, second.median_ms) == (pytest.approx(0.002), pytest.approx(0.006))


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="cannot be timed"):
        measure_parts([lambda value: value], "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_parts_on_a_gpu_are_timed_by_its_own_clock():
    small, large = (torch.randn(n, n, device="cuda") for n in (256, 4096))
    first, second = measure_parts([lambda _: small @ small, lambda _: large @ large], "cuda")
    assert first.median_ms < second.median_ms
