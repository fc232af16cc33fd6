"""Numbers compared that do not vary from run to run: parameters, FLOPs and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attn_bench.gate.conditions import Unlike
from attn_bench.gate.gaps import exact_of
from attn_bench.gate.paired import Paired, Sides
from attn_bench.gate.verdicts import Finding, exact_verdict
from attn_bench.results.quantities import quantities
from attn_bench.results.record import Record

# The verdict that says most comes first.
_ORDER = ("worse", "better", "same", "unclear")


def exact(paired: Paired) -> Iterator[Finding]:
    """Yield what became of the exact numbers of a cell."""
    for quantity in quantities(None, "exact"):
        # What is counted of the model, and not measured of a step, is the same whatever it runs on.
        why: Callable[[Unlike], str] = (lambda apart: apart.memory) if quantity.step else (lambda apart: "")
        if pairs := paired.numbers(quantity.name, exact_of(quantity), why):
            yield _finding(paired, quantity.name, pairs)


def _finding(paired: Paired, metric: str, pairs: dict[int, Sides[float]]) -> Finding:
    """Judge a number by the seed in which it got worse; every seed has the same one, or something is odd."""
    verdicts = {seed: exact_verdict(*sides)[0] for seed, sides in pairs.items()}
    seed = min(verdicts, key=lambda seed: _ORDER.index(verdicts[seed]))
    before, after = pairs[seed]
    verdict, ratio = exact_verdict(before, after)
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
        return replace(found, verdict="unclear", note=f"not counted on one side only: {names}")
    return found


def _uncounted(record: Record) -> set[str]:
    return set(record.flops.unknown) if record.flops else set()
