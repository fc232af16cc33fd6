"""Compares numbers that do not vary between runs: parameters, FLOPs and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attn_bench.gate.conditions import Unlike
from attn_bench.gate.gaps import exact_of
from attn_bench.gate.paired import Paired, Sides
from attn_bench.gate.verdicts import Finding, exact_verdict
from attn_bench.results.quantities import Quantity, quantities
from attn_bench.results.record import Record

# The most significant verdict comes first.
_ORDER = ("worse", "better", "same", "unclear")


def exact(paired: Paired) -> Iterator[Finding]:
    """Yield findings on the exact numbers of a cell."""
    for quantity in quantities(None, "exact"):
        # Counts of the model, unlike measurements of a step, are the same on any machine.
        why: Callable[[Unlike], str] = (lambda apart: apart.memory) if quantity.step else (lambda apart: "")
        if pairs := paired.numbers(quantity.name, exact_of(quantity), why):
            yield _finding(paired, quantity, pairs)


def _finding(paired: Paired, quantity: Quantity, pairs: dict[int, Sides[float]]) -> Finding:
    """Judge a number by the seed in which it got worse; normally all seeds have the same number."""
    metric = quantity.name
    negligible = paired.thresholds.negligible(quantity, paired.case.label)
    verdicts = {seed: exact_verdict(*sides, negligible)[0] for seed, sides in pairs.items()}
    seed = min(verdicts, key=lambda seed: _ORDER.index(verdicts[seed]))
    before, after = pairs[seed]
    verdict, ratio = exact_verdict(before, after, negligible)
    found = replace(
        paired.finding(metric, list(pairs) if verdict == "same" else [seed]),
        verdict=verdict,
        base=before,
        new=after,
        ratio=ratio,
    )
    uncounted = Sides(*map(_uncounted, paired.records(seed)))
    if metric == "flops" and verdict != "same" and uncounted.base != uncounted.new:
        names = ", ".join(sorted(uncounted.base ^ uncounted.new))
        return replace(found, verdict="unclear", note=f"not counted only on one side: {names}")
    return found


def _uncounted(record: Record) -> set[str]:
    return set(record.flops.unknown) if record.flops else set()
