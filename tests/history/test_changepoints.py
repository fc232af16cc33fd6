"""Steps in simulated series: found where they are, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from attn_bench.history.changepoints import FEWEST, changes


def noise(seed: int, revisions: int = 60, odd: float = 0.05) -> np.ndarray:
    """Logarithms of times as of processes: 1.5 % apart, and one in twenty 15 % slower."""
    generator = np.random.default_rng(seed)
    return generator.normal(0, 0.015, revisions) + 0.15 * (generator.random(revisions) < odd)


def test_noise_and_single_slow_processes_are_no_step():
    assert sum(bool(changes(noise(seed))) for seed in range(200)) <= 2


def test_what_does_not_vary_at_all_has_no_step():
    assert changes([1.0] * 60) == []


@pytest.mark.parametrize("size", [0.1, -0.1, 0.05])
def test_a_planted_step_is_found_where_it_is(size: float):
    found = 0
    for seed in range(40):
        values = noise(seed)
        values[30:] += np.log1p(size)
        steps = changes(values)
        near = [step for step in steps if abs(step.at - 30) <= 2]
        found += len(near) == 1 and near[0].first <= 30 <= near[0].last
    assert found >= 37


def test_a_step_has_the_ratio_of_the_levels_and_an_interval_around_it():
    values = noise(1)
    values[20:] += np.log(1.1)
    (step,) = changes(values)
    assert step.low <= step.ratio <= step.high
    assert step.low < 1.1 < step.high
    assert step.ratio == pytest.approx(np.exp(np.median(values[step.at :]) - np.median(values[: step.at])))


def test_steps_up_and_down_are_both_found_in_order():
    values = noise(2, odd=0)
    values[20:40] += 0.2
    assert [step.at for step in changes(values)] == [20, 40]
    assert [step.ratio > 1 for step in changes(values)] == [True, False]


def test_a_revision_that_is_far_off_is_no_step_however_far():
    values = noise(3, odd=0)
    values[30] += 3.0
    assert changes(values) == []


def test_a_step_that_is_too_small_to_matter_is_left_out():
    values = np.zeros(60)
    values[30:] = 0.015
    assert changes(values) == []


def test_few_revisions_have_no_step():
    assert changes([]) == []
    assert changes([0.0, 1.0, 0.0, 1.0, 1.0][: FEWEST - 1]) == []
