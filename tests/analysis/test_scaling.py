"""Exponents and crossovers of costs that are known."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import METRICS, Folder

from attn_bench.analysis.scaling import EQUAL, FARTHEST, Curve, crossovers, curves, fit, fits, knee, scaling, uncrossed
from attn_bench.report import summarise, write_report
from attn_bench.report.scaling_table import crossing_lines
from attn_bench.results.store import load

TOKENS = np.array([4.0**k for k in range(4, 10)])
COST = "latency_forward_ms"


def curve(cost, tokens=TOKENS, spread=0.01):
    cost = np.asarray(cost, float)
    return Curve(tokens, cost, cost * (1 - spread), cost * (1 + spread))


def table(costs, **columns):
    rows = []
    for model, law in costs.items():
        for n in TOKENS:
            value = law(n)
            rows.append(
                {
                    "model": model,
                    "status": "ok" if value else "oom",
                    "tokens": n,
                    "complexity": None,
                    COST: value,
                    "latency_forward_low_ms": value and value * 0.99,
                    "latency_forward_high_ms": value and value * 1.01,
                }
                | columns
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_a_power_law_is_found_exactly(exponent):
    found = fit("m", COST, curve(3e-6 * TOKENS**exponent))
    assert found.exponent == pytest.approx(exponent)
    assert found.at(1e6) == pytest.approx(3e-6 * 1e6**exponent)
    assert found.points == 6
    assert found.flag is None


def test_no_growth_is_fitted_to_batches_of_different_sizes():
    rows = table({"m": lambda n: n, "other": lambda n: n}, batch_size=8)
    assert {found.model for found in fits(rows)} == {"m", "other"}
    rows.loc[(rows.model == "m") & (rows.tokens == TOKENS[0]), "batch_size"] = 4
    assert {found.model for found in fits(rows)} == {"other"}
    # Where nothing was measured, no batch counts.
    rows.loc[(rows.model == "m") & (rows.tokens == TOKENS[0]), "status"] = "oom"
    assert {found.model for found in fits(rows)} == {"m", "other"}


def test_sizes_that_are_all_overhead_are_left_out():
    found = fit("m", COST, curve(np.maximum(5.0, 5 * (TOKENS / TOKENS[2]))))
    assert found.first == TOKENS[2]
    assert found.exponent == pytest.approx(1)


def test_a_bend_at_the_large_end_is_flagged_and_not_averaged_away():
    cost = 1e-3 * TOKENS
    cost[-1] *= 8
    found = fit("m", COST, curve(cost))
    assert "not a straight line" in found.flag
    assert found.points == 3


def test_the_interval_covers_the_exponent_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered, trials = 0, 400
    for _ in range(trials):
        noisy = 1e-3 * TOKENS**1.2 * np.exp(generator.normal(0, 0.02, len(TOKENS)))
        found = fit("m", COST, curve(noisy))
        covered += found.low <= 1.2 <= found.high
    assert 0.92 <= covered / trials <= 0.98


def test_fewer_than_three_sizes_are_not_fitted():
    assert fit("m", COST, curve(TOKENS[:2], TOKENS[:2])) is None


@pytest.mark.parametrize(
    ("exponent", "claim", "flag"),
    [
        (1.0, "n", None),
        (1.2, "n log n", None),
        (2.0, "n^2", None),
        (0.3, "n", "too flat"),
        (0.3, None, "too flat"),
        (1.6, "n", "grows faster than the n it claims"),
        (1.3, "n^2", "grows more slowly than the n^2"),
        (3.0, None, None),
    ],
)
def test_what_is_implausible_is_flagged(exponent, claim, flag):
    found = fit("m", COST, curve(TOKENS**exponent), claim)
    assert (found.flag is None) if flag is None else flag in found.flag


def test_memory_may_grow_more_slowly_than_claimed():
    assert fit("m", "peak_memory_forward_mib", curve(TOKENS), "n^2").flag is None
    assert "faster" in fit("m", "peak_memory_forward_mib", curve(TOKENS**2), "n").flag


def test_noise_does_not_contradict():
    noisy = TOKENS ** np.array([1.4, 1.1, 1.35, 1.2, 1.3, 1.25])
    found = fit("m", COST, curve(noisy), "n")
    assert found.high - found.low > 0.2
    assert found.flag is None or "faster" not in found.flag


def test_the_knee_is_where_the_law_begins():
    assert knee(TOKENS, TOKENS) == 0
    assert knee(TOKENS, np.array([1, 1, 1, 4, 16, 64.0])) == 2


def test_only_rows_that_are_ok_count_and_seeds_are_summed_up():
    rows = table({"m": lambda n: n if n < 4**8 else None})
    twice = pd.concat([rows, rows.assign(**{COST: rows[COST] * 3})])
    found = curves(twice, COST)["m"]
    assert (found.tokens == TOKENS[:4]).all()
    assert (found.cost == 2 * TOKENS[:4]).all()
    assert curves(rows.iloc[:0], COST) == {}
    assert fits(rows.drop(columns="tokens")) == []


def test_fits_know_what_is_claimed():
    found = fits(table({"m": lambda n: n**2}, complexity="n"))
    assert [f.complexity for f in found] == ["n"]
    assert "faster" in found[0].flag


def test_curves_that_cross_between_sizes():
    rows = table({"flat": lambda n: 10 * n, "steep": lambda n: n**2 / 200})
    (crossing,) = crossovers(curves(rows, COST), fits(rows), COST)
    assert (crossing.cheaper, crossing.costlier) == ("flat", "steep")
    assert crossing.tokens == pytest.approx(2000)
    assert not crossing.extrapolated
    # However well the medians are known, between measured sizes nothing is.
    assert (crossing.low, crossing.high) == (1024, 4096)


def test_a_crossing_is_as_uncertain_as_the_intervals_make_it():
    rows = table({"flat": lambda n: 10 * n, "steep": lambda n: n**2 / 200})
    rows["latency_forward_high_ms"] *= 2
    rows["latency_forward_low_ms"] /= 2
    (crossing,) = crossovers(curves(rows, COST), fits(rows), COST)
    # A factor of four either way: 500 to 8000.
    assert (crossing.low, crossing.high) == (256, 16384)


def test_curves_that_would_cross_beyond_the_last_size():
    rows = table({"flat": lambda n: 1e6 * n, "steep": lambda n: n**2})
    (crossing,) = crossovers(curves(rows, COST), fits(rows), COST)
    assert crossing.extrapolated
    assert crossing.cheaper == "flat"
    assert crossing.tokens == pytest.approx(1e6)
    assert crossing.low is None


@pytest.mark.parametrize(
    "laws", [(lambda n: n, lambda n: 3 * n), (lambda n: n, lambda n: n**1.001 * 4), (lambda n: n,)]
)
def test_curves_that_do_not_cross(laws):
    rows = table({f"m{i}": law for i, law in enumerate(laws)})
    assert crossovers(curves(rows, COST), fits(rows), COST) == []


def test_nothing_is_extrapolated_from_a_fit_that_is_not_believed():
    rows = table({"flat": lambda n: 1e3 * n**0.2, "steep": lambda n: 1e-2 * n})
    found = fits(rows)
    assert any(f.flag for f in found)
    assert all(not c.extrapolated for c in crossovers(curves(rows, COST), found, COST))


def test_a_crossing_too_far_away_is_not_named():
    rows = table({"flat": lambda n: 1e12 * n, "steep": lambda n: n**2})
    assert crossovers(curves(rows, COST), fits(rows), COST) == []
    assert math.isfinite(fits(rows)[0].exponent)


def test_lines_that_are_nearly_parallel_cross_nowhere() -> None:
    # All four have no noise at all, so the intervals of their exponents have no width.
    rows = table({"a": lambda n: n, "b": lambda n: 3.7 * n, "c": lambda n: 4 * n**1.0005, "d": lambda n: n**1.2})
    found = fits(rows)
    crossed = crossovers(curves(rows, COST), found, COST)
    assert all("d" in (crossing.cheaper, crossing.costlier) for crossing in crossed)
    reasons = {(pair.one, pair.other): pair.reason for pair in uncrossed(curves(rows, COST), found, COST)}
    assert reasons == {("a", "b"): "the intervals of their exponents overlap"}
    rows = table({"flat": lambda n: 4 * n, "steep": lambda n: n**1.001})
    (pair,) = uncrossed(curves(rows, COST), fits(rows), COST)
    assert pair.reason == f"they would cross beyond {FARTHEST} times the largest size"


def test_limits_of_extrapolation_are_stated() -> None:
    rows = table({name: lambda n, by=by: by * n for by, name in enumerate("abcdefgh", 1)})
    found = scaling(rows)
    (line,) = crossing_lines(found, {name: name for name in "abcdefgh"}, "grid points")
    said = "not extrapolated beyond the sizes measured, the intervals of their exponents overlap: a and b; a and c"
    assert said in line
    assert line.endswith("and 22 more pairs")


@pytest.mark.parametrize("value", [1.0, 3.7, 1e-290, 1e290])
def test_equal_costs_tell_no_exponent(value: float) -> None:
    found = fit("m", COST, curve(np.full(len(TOKENS), value)), "n^2")
    assert found.flag == EQUAL
    assert found.low <= found.exponent <= found.high
    assert found.exponent == pytest.approx(0, abs=1e-9)


def test_a_crossing_at_a_measured_size_is_one() -> None:
    rows = table({"flat": lambda n: 1024 * n, "steep": lambda n: n**2})
    (crossing,) = crossovers(curves(rows, COST), fits(rows), COST)
    assert (crossing.cheaper, crossing.tokens, crossing.extrapolated) == ("flat", pytest.approx(1024), False)
    # Equal only at the last size: who is cheaper beyond it is not known from there.
    rows = table({"flat": lambda n: 1e3 * n if n < 4**9 else n**1.5, "steep": lambda n: n**1.5})
    for crossing in crossovers(curves(rows, COST), fits(rows), COST):
        assert crossing.cheaper == "flat"


ODD = st.sampled_from([None, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e-308, 1.7e308, "x"])
COSTS_OF_SIZES = st.lists(st.one_of(ODD, st.floats(1e-3, 1e3), st.just(5.0)), min_size=1, max_size=5)


@pytest.mark.filterwarnings("error")
@given(st.lists(st.tuples(COSTS_OF_SIZES, st.sampled_from([None, "n", "n^2", "n!"])), min_size=1, max_size=4))
def test_degenerate_costs_give_no_traceback_and_only_finite_numbers(models) -> None:
    rows = pd.DataFrame(
        {"model": f"m{i}", "status": "ok", "resolution": 4**k, "tokens": tokens, "complexity": claim}
        | {COST: cost, "peak_memory_train_mib": cost}
        | {"latency_forward_low_ms": low, "latency_forward_high_ms": low}
        for i, (costs, claim) in enumerate(models)
        for k, cost in enumerate(costs)
        for tokens, low in ((4.0**k, cost), (0.0, cost), (4.0**k, None))
    )
    found = fits(rows)
    for each in found:
        assert math.isfinite(each.exponent)
        assert each.low <= each.exponent <= each.high
        costs = [cost for cost in models[int(each.model[1:])][0] if isinstance(cost, float) and 0 < cost < 1e300]
        assert each.flag == EQUAL or len(set(costs)) > 1
    result = scaling(rows)
    if result is None:
        assert not found
        return
    for crossing in result.crossovers:
        assert math.isfinite(crossing.tokens)
        assert crossing.tokens <= FARTHEST * max(rows["tokens"])
    names = {f"m{i}": f"m{i}" for i in range(len(models))}
    assert not [line for line in crossing_lines(result, names, "grid points") if "nan" in line or "inf" in line]


@pytest.mark.parametrize("power", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_report_of_costs_without_noise_is_written(tmp_path, power: float) -> None:
    folder = Folder(tmp_path / "x")
    for resolution in (16, 32, 64):
        for i, model in enumerate(("mano", "fno", "vit")):
            # Costs of made results are scale * tokens / 64.
            folder.add(model, resolution, scale=(1 + 0.37 * i) * float(resolution**2) ** (power - 1))
    written = write_report(tmp_path / "x", summarise(load(tmp_path / "x"), METRICS))
    said = "\n".join(path.read_text() for path in written if path.suffix in (".md", ".html"))
    assert "not extrapolated" in said
    assert not re.search(r"\b(nan|inf)\b", said)
