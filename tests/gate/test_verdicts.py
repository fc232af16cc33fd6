"""Verdicts on samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.analysis.statistics import compare_paired, compare_runs
from attn_bench.errors import UserError
from attn_bench.gate.thresholds import Thresholds, read_thresholds
from attn_bench.gate.verdicts import exact_verdict, judge, seeds_ratio, timed_ratio


def drifting(generator: np.random.Generator, n: int = 60, level: float = 1.0) -> np.ndarray:
    """Latencies as they come: neighbors alike, now and then a sample that was held up."""
    steps = generator.normal(0, 0.004, n)
    walk = np.array([sum(steps[max(0, i - 10) : i + 1]) for i in range(n)])
    held_up = np.where(generator.random(n) < 0.05, generator.uniform(0.1, 1, n), 0)
    return level * np.exp(walk + generator.normal(0, 0.01, n) + held_up)


def processes(generator: np.random.Generator, runs: int, change: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of processes of which one in twenty is odd."""

    def level() -> float:
        odd = generator.random() < 0.05
        return math.exp(generator.normal(0, 0.015) + (generator.uniform(0.1, 0.2) if odd else 0))

    return [(drifting(generator, level=level()), drifting(generator, level=change * level())) for _ in range(runs)]


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_no_change_is_seldom_worse(runs: int) -> None:
    generator = np.random.default_rng(runs)
    verdicts = [judge(timed_ratio(processes(generator, runs, 1.0)), 0.05) for _ in range(150)]
    assert verdicts.count("worse") <= 2
    assert verdicts.count("same") > 100


def test_five_processes_find_a_change_of_ten_percent_that_one_cannot_prove() -> None:
    generator = np.random.default_rng(0)
    many = [judge(timed_ratio(processes(generator, 5, 1.1)), 0.05) for _ in range(60)]
    one = [judge(timed_ratio(processes(generator, 1, 1.1)), 0.05) for _ in range(60)]
    assert many.count("worse") > 40
    assert one.count("worse") < 6  # when the second was odd, too
    assert one.count("unclear") > 40


def test_one_process_is_enough_for_a_third() -> None:
    generator = np.random.default_rng(0)
    verdicts = [judge(timed_ratio(processes(generator, 1, 1.5)), 0.05) for _ in range(40)]
    assert verdicts.count("worse") > 36
    assert judge(timed_ratio(processes(generator, 1, 1 / 1.6)), 0.05) == "better"


def test_a_slower_machine_excuses_as_much_as_it_may_have_caused() -> None:
    generator = np.random.default_rng(1)
    runs = [(drifting(generator), drifting(generator, level=1.4)) for _ in range(3)]
    assert judge(timed_ratio(runs), 0.05) == "worse"
    assert judge(timed_ratio(runs, machine=1.4), 0.05) == "unclear"
    assert judge(timed_ratio(runs, machine=1.05), 0.05) == "worse"
    corrected = timed_ratio(runs, machine=1.4)
    assert corrected.low < 1 < 1.4 < corrected.high * 1.02


@pytest.mark.parametrize("runs", [1, 3])
def test_noise_wider_than_the_limit_decides_nothing(runs: int) -> None:
    generator = np.random.default_rng(0)
    noisy = [[tuple(np.exp(generator.normal(0, 0.5, 40)) for _ in range(2)) for _ in range(runs)] for _ in range(40)]
    assert not [1 for pairs in noisy if judge(timed_ratio(pairs), 0.05) == "same"]
    # One process that is off among several says nothing about the others.
    odd = [(drifting(generator), drifting(generator, level=level)) for level in (1.0, 1.2, 1.0)]
    assert judge(timed_ratio(odd), 0.05) == "same"


@given(st.floats(0.5, 2), st.integers(2, 6))
def test_swapping_base_and_new_inverts(change: float, runs: int) -> None:
    generator = np.random.default_rng(0)
    pairs = processes(generator, runs, change)
    there, back = compare_runs(pairs), compare_runs([(new, base) for base, new in pairs])
    assert there.value * back.value == pytest.approx(1)
    assert there.low <= there.value <= there.high
    assert there.p == pytest.approx(back.p)
    logs = [np.log(new / base) for base, new in pairs]
    paired = compare_paired(logs)
    assert paired.value == pytest.approx(1 / compare_paired([-log for log in logs]).value)
    inverse = paired.inverse()
    assert inverse.low <= inverse.value <= inverse.high


def test_nothing_to_compare_is_an_error() -> None:
    for call in (lambda: compare_runs([]), lambda: compare_runs([([], [1.0])]), lambda: compare_paired([[]])):
        with pytest.raises(ValueError):
            call()


def test_seeds() -> None:
    same = [(0.1, 0.1), (0.11, 0.11), (0.09, 0.09)]
    assert judge(seeds_ratio(same), 0.03) == "same"
    assert judge(seeds_ratio([(0.10, 0.13), (0.11, 0.14), (0.09, 0.12)]), 0.03) == "worse"
    # The mean is 10 % up, but one seed says otherwise.
    assert judge(seeds_ratio([(0.10, 0.14), (0.11, 0.10), (0.09, 0.10)]), 0.03) == "unclear"
    assert judge(seeds_ratio([(0.1, 0.105)]), 0.03) == "unclear"
    assert judge(seeds_ratio([(0.1, 0.101)]), 0.03) == "same"
    # They differ too much to say that the mean did not move by 3 %.
    assert judge(seeds_ratio([(0.10, 0.12), (0.11, 0.11), (0.12, 0.10)]), 0.03) == "unclear"
    assert judge(seeds_ratio([(0.1, 0.16)]), 0.03) == "worse"
    assert judge(seeds_ratio([(0.8, 0.6), (0.82, 0.61), (0.79, 0.6)]), 0.03, higher=True) == "worse"


def test_exact_numbers_may_not_differ_at_all() -> None:
    assert exact_verdict(100, 100)[0] == "same"
    assert exact_verdict(100, 100.001)[0] == "worse"
    assert exact_verdict(100, 99)[0] == "better"
    assert exact_verdict(0, 1) == ("worse", None)
    assert exact_verdict(100, 100.001, 1e-4)[0] == "same"
    assert exact_verdict(100, 100.02, 1e-4)[0] == "worse"
    assert exact_verdict(0, 0, 1e-4)[0] == "same"


def test_thresholds(tmp_path) -> None:
    given = read_thresholds("latency=5%, mano.latency_forward=0.1,rel_l2=3%")
    assert given.of("latency_train_step", "mano") == 0.05
    assert given.of("latency_forward", "mano") == 0.1
    assert given.of("latency_forward", "fno") == 0.05
    assert given.of("peak_memory_train", "mano") is None
    assert Thresholds().of("peak_memory_train", "mano") == 0.005
    assert Thresholds().of("accuracy", "mano") == 0.03
    yaml, toml = tmp_path / "gate.yaml", tmp_path / "gate.toml"
    yaml.write_text("latency: 5%\nrel_l2: 3%\nmodels: {mano: {latency_forward: 0.1}}")
    toml.write_text("latency = '5%'\nrel_l2 = 0.03\n[models.mano]\nlatency_forward = '10%'")
    assert read_thresholds(str(yaml)) == read_thresholds(str(toml)) == given
    given.check(["rel_l2"], ["mano"])
    with pytest.raises(UserError, match="rel_l2"):
        given.check([], ["mano"])
    with pytest.raises(UserError, match="unknown model in --fail-on 'mano'"):
        given.check(["rel_l2"], ["fno"])
    by_label = Thresholds({}, {"mano": {"latency": 0.1}, "mano [dim=64]": {"latency": 0.2}})
    assert by_label.of("latency_forward", "mano [dim=32]") == 0.1
    assert by_label.of("latency_forward", "mano [dim=64]") == 0.2
    assert by_label.of("latency_forward", "fno [dim=64]") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "latency", "latency=", "latency=-1", "latency=nan", "latency=2000%", "missing.yaml"),
        *("latency=5", "latency=5%,latency=3%", "mano.latency=5%,mano.latency=3%"),
    ],
)
def test_wrong_thresholds_are_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--fail-on") as error:
        read_thresholds(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["- latency", "latency: [1]", "models: 3", "models: {mano: 3}", "{", "!!python/name:os"]
)
def test_wrong_threshold_files_are_one_line(text: str, tmp_path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="--fail-on"):
        read_thresholds(str(path))
