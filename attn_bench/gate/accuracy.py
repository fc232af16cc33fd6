"""Compares metrics of trained models over seeds, and finds evaluations that succeeded only on one side."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace

from attn_bench.analysis.pairing import identity
from attn_bench.analysis.statistics import Ratio
from attn_bench.gate.gaps import metric_of
from attn_bench.gate.paired import Paired, Sides, became
from attn_bench.gate.verdicts import Finding, Verdict, geometric_mean, said_too_wide, seeds_ratio
from attn_bench.plugin import Metric


def accuracies(paired: Paired, metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    """Yield findings on the metrics of a cell at every resolution that base was evaluated at."""
    evaluated_at = sorted(paired.case.tested("base"))
    for resolution in evaluated_at:
        yield from _statuses(paired, resolution)
    # Numbers from different data cannot be compared.
    other_data = any(identity(before) != identity(after) for before, after in map(paired.records, paired.unlike))
    for metric, about in metrics.items():
        for resolution in evaluated_at:
            pairs = paired.numbers(metric, metric_of(metric, resolution), lambda apart: apart.accuracy)
            if pairs and other_data:
                paired.gap(metric, "trained or evaluated on other data")
            elif pairs:
                found = replace(paired.finding(metric, list(pairs)), tested=resolution)
                yield _judged(paired, replace(found, higher=about.direction == "higher"), list(pairs.values()))


def _statuses(paired: Paired, resolution: int) -> Iterator[Finding]:
    """Yield findings on evaluations that succeeded only on one side; their cells are ok."""
    for seed in paired.unlike:
        before, after = (record.evaluated_at(resolution) for record in paired.records(seed))
        if before is None or after is None or (before.status == "ok") == (after.status == "ok"):
            continue
        verdict: Verdict = "better" if after.status == "ok" else "worse"
        found = paired.finding("status", [seed])
        yield replace(found, tested=resolution, verdict=verdict, threshold=0.0, note=became(before, after))


def _judged(paired: Paired, found: Finding, known: list[Sides[float]]) -> Finding:
    positive = all(value > 0 for sides in known for value in sides)
    ratio: Ratio | None = None
    note = ""
    if all(before == after for before, after in known):
        verdict: Verdict = "same"
    elif positive:
        ratio = seeds_ratio(known)
        verdict = paired.thresholds.judge(ratio, found.metric, paired.case.label, higher=found.higher)
        note = "one seed" if len(known) == 1 else said_too_wide(ratio, found.threshold, "use more seeds")
        note = note if verdict != "same" else ""
    else:
        verdict, note = _without_ratio(known, higher=found.higher), "not positive"
    # Geometric means, whose ratio is the mean of the ratios, so that the numbers shown agree with the change.
    mean = geometric_mean if positive else statistics.fmean
    base, new = mean([sides.base for sides in known]), mean([sides.new for sides in known])
    return replace(found, verdict=verdict, base=base, new=new, ratio=ratio, note=note)


def _without_ratio(known: list[Sides[float]], *, higher: bool) -> Verdict:
    """Judge changes from or to zero, which have no ratio; all seeds have to agree."""
    each = {"same" if new == base else "better" if (new > base) == higher else "worse" for base, new in known}
    if min(map(min, known)) < 0 or each not in ({"better"}, {"worse"}):
        return "unclear"
    return "worse" if each == {"worse"} else "better"
