"""Compares two results folders: which metric of which model got worse, and whether that can be chance.

Seeds of one cell are repeated runs of it. What ought to be compared and cannot be is a :class:`Gap`: nothing passes
because it has no number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attn_bench.analysis.pairing import Case, added, identity, missing, pair, said
from attn_bench.analysis.statistics import exp
from attn_bench.gate.conditions import Unlike, unlike
from attn_bench.gate.gaps import Gap, Missing, exact_of, latency_of, metric_of, said_of, unnamed
from attn_bench.gate.thresholds import Thresholds
from attn_bench.gate.verdicts import (
    Finding,
    Verdict,
    exact_verdict,
    explained,
    geometric_mean,
    judge,
    seeds_ratio,
    timed_ratio,
)
from attn_bench.plugin import Metric
from attn_bench.results.environment import Environment
from attn_bench.results.quantities import judged, quantities
from attn_bench.results.record import Evaluation, Latency, Record
from attn_bench.results.store import Store


@dataclass(frozen=True)
class Comparison:
    """Verdicts, and what could not be compared.

    Attributes:
        findings: in the order of resolution and model.
        obstacles: why something that ought to have been compared was not; one line each.
        notes: what else differs, such as versions of packages.
        failed: the cells that failed on both sides, one name per seed; obstacles say why.
    """

    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """What got worse beyond its threshold."""
        return tuple(finding for finding in self.findings if finding.fails)

    @property
    def open(self) -> tuple[Finding, ...]:
        """What may have got worse beyond its threshold, which cannot be told from chance."""
        return tuple(finding for finding in self.findings if finding.open)

    @property
    def status(self) -> int:
        """1 if anything got worse, else 2 if anything could not be compared or told from chance, else 0."""
        return 1 if self.regressions else 2 if self.obstacles or self.open or not self.findings else 0


@dataclass(frozen=True)
class _Paired:
    """A cell of both sides, and what it is judged by.

    Attributes:
        unlike: by seed that ended well on both sides: what of it does not compare.
        again: further records of new.
    """

    case: Case
    thresholds: Thresholds
    unlike: Mapping[int, Unlike]
    again: Sequence[Record] = ()
    gaps: list[Gap] = field(default_factory=list)

    def finding(self, metric: str, verdict: Verdict, seeds: Sequence[int], **values: Any) -> Finding:
        """Build a finding on this cell, by default with the threshold of ``metric``."""
        values.setdefault("threshold", self.thresholds.of(metric, self.case.label))
        values.setdefault("tested", self.case.resolution)
        return Finding(
            self.case.label, self.case.resolution, metric=metric, verdict=verdict, seeds=tuple(seeds), **values
        )

    def numbers(
        self, metric: str, read: Callable[[Record], Any], reason: Callable[[Unlike], str] = lambda apart: ""
    ) -> dict[int, tuple[Any, Any]]:
        """Return base's and new's number by seed, where both have one; keep a gap for every other seed.

        Args:
            read: returns a number of a record, or why it has none.
            reason: says why numbers of two records do not compare, or nothing.
        """
        known: dict[int, tuple[Any, Any]] = {}
        unknown: dict[tuple[str, bool], list[int]] = {}
        for seed, apart in self.unlike.items():
            before, after = read(self.case.base[seed]), read(self.case.new[seed])
            if (why := _why(before, after, reason(apart))) is None:
                known[seed] = before, after
            elif why[0]:
                unknown.setdefault(why, []).append(seed)
        for (text, lost), seeds in unknown.items():
            of = "" if len(seeds) == len(self.unlike) else f" ({said(seeds)})"
            self.gaps.append(Gap(self.case.label, self.case.resolution, metric, f"{text}{of}", lost))
        return known


def _why(before: Any, after: Any, reason: str) -> tuple[str, bool] | None:
    """Return why two numbers are not compared, and whether one was lost; None where they are.

    There is nothing to say where neither cell was to have one, or where its failure is a finding already.
    """
    old, new = (side if isinstance(side, Missing) else None for side in (before, after))
    if old and new:
        if not (old.asked or new.asked):
            return "", False
        both = (
            f"{old.reason} on both sides" if old.reason == new.reason else f"{old.reason} in base, {new.reason} in new"
        )
        return both, old.wrong or new.wrong or (old.failed and new.failed)
    if old:
        return f"{old.reason} in base", old.wrong
    if new:
        return "" if new.failed else f"{new.reason} in new", True
    return (reason, True) if reason else None


class _Environments:
    """Where the records of a folder ran, each file read once."""

    def __init__(self, store: Store) -> None:
        self.store, self.known = store, dict[str, Environment | None]()

    def of(self, record: Record) -> Environment | None:
        name = record.environment
        if not name:
            return None
        if name not in self.known:
            self.known[name] = self.store.environment(name)
        return self.known[name]


def compare(
    base: Store, new: Store, thresholds: Thresholds, again: Mapping[str, Sequence[Record]] | None = None
) -> Comparison:
    """Compare two results folders.

    Args:
        base, new: the folders.
        thresholds: how much worse a metric may get.
        again: further records of cells of new, by :attr:`Case.key`: their latencies are further runs.

    Raises:
        UserError: a folder holds no results, or a threshold names no metric or no model of them.
    """
    infos = base.run_info(), new.run_info()
    metrics = {**infos[0].metrics, **infos[1].metrics}
    if infos[0].task != infos[1].task:
        return Comparison((), (f"other task: {infos[0].task} in base, {infos[1].task} in new",))
    cases = pair(base.records(), new.records())
    thresholds = thresholds.resolved(metrics, {name for case in cases for name in (case.label, case.model)})
    environments = _Environments(base), _Environments(new)
    findings: list[Finding] = []
    gaps: list[Gap] = []
    for case in cases:
        paired = _Paired(
            case,
            thresholds,
            {seed: _unlike(case, seed, environments) for seed in case.ok()},
            (again or {}).get(case.key, ()),
        )
        findings += _statuses(paired)
        if paired.unlike:
            findings += [*_latencies(paired), *_exact(paired), *_accuracies(paired, metrics)]
        gaps += paired.gaps
    failed = [case for case in cases if thresholds.any([*judged(), *metrics], case.label) and case.failed()]
    unserved = [case for case in cases if case.unserved()]
    shared = [case for case in cases if case.base and case.new]
    obstacles = [
        *map(_failed, failed),
        *(_unserved(case) for case in unserved if thresholds.names_model(case.label)),
        *_unreadable(base, "base"),
        *_unreadable(new, "new"),
        *missing(cases),
        *said_of(gap for gap in gaps if gap.counts(thresholds)),
        *unnamed(thresholds, findings, gaps, {case.label for case in shared}),
    ]
    if not any(case.base for case in cases):
        obstacles.append("base holds no cells to compare with")
    notes = [
        *_packages(shared, environments),
        *added(cases),
        *(_unserved(case) for case in unserved if not thresholds.names_model(case.label)),
        *said_of(gap for gap in gaps if gap.watched(thresholds) and not gap.counts(thresholds)),
    ]
    each = [f"{case.title}, seed {seed}" for case in failed for seed in case.failed()]
    return Comparison(tuple(findings), tuple(dict.fromkeys(obstacles)), tuple(notes), tuple(each))


def suspects(comparison: Comparison, cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose latency is worse or unclear and has a threshold."""
    timed = {quantity.name for quantity in quantities(None, "timed")}
    doubtful = {
        (finding.model, finding.resolution)
        for finding in comparison.findings
        if finding.metric in timed and finding.threshold is not None and finding.verdict in ("worse", "unclear")
    }
    return [case for case in cases if (case.label, case.resolution) in doubtful]


def _unlike(case: Case, seed: int, environments: tuple[_Environments, _Environments]) -> Unlike:
    before, after = case.base[seed], case.new[seed]
    return unlike(before, after, (environments[0].of(before), environments[1].of(after)))


def _unreadable(store: Store, side: str) -> Iterator[str]:
    """Name the files that ought to be records and hold none: what they were of cannot be compared."""
    for id in store.ids():
        if store.read(id) is None:
            yield f"cells/{id}.json of {side}: cannot be read, so its cell is not compared; run the cell again"


def _failed(case: Case) -> str:
    seeds = case.failed()
    how = dict.fromkeys(_became(case.base[seed], case.new[seed]) for seed in seeds)
    return f"{case.title}: {said(seeds)} failed on both sides ({'; '.join(how)})"


def _unserved(case: Case) -> str:
    return f"{case.title}: unsupported on both sides ({case.new[case.unserved()[0]].error})"


def _statuses(paired: _Paired) -> Iterator[Finding]:
    """Yield the cells that ended well on one side only; without a number in base, nothing of new is compared."""
    case = paired.case
    for seed in case.both():
        before, after = case.base[seed], case.new[seed]
        if (before.status == "ok") == (after.status == "ok"):
            continue
        verdict: Verdict = "better" if after.status == "ok" else "worse"
        yield paired.finding("status", verdict, [seed], threshold=0.0, note=_became(before, after))
        if verdict == "better":
            reason = f"failed in base ({said([seed])}: {before.status})"
            for metric in paired.thresholds.names_for(case.label):
                paired.gaps.append(Gap(case.label, case.resolution, metric, reason, lost=False))


def _became(before: Record | Evaluation, after: Record | Evaluation) -> str:
    return f"{before.status} -> {after.status}{': ' if after.error else ''}{after.error or ''}"


def _latencies(paired: _Paired) -> Iterator[Finding]:
    for quantity in quantities(None, "timed"):
        metric, read = quantity.name, latency_of(quantity)
        pairs = paired.numbers(metric, read, lambda apart: apart.times)
        if not pairs:
            continue
        seeds = list(pairs)
        known = list(pairs.values())
        first = paired.case.new[seeds[0]]
        further = [
            (known[0][0], latency)
            for record in paired.again
            if not unlike(first, record, (None, None)).memory
            for latency in [read(record)]
            if not isinstance(latency, Missing)
        ]
        known += further
        quiet = [pair for pair in known if not any(one.unquiet for one in pair)]
        left_out, known = len(known) - len(quiet) if quiet else 0, quiet or known
        machine = statistics.median(_machine(before, after) for before, after in known)
        ratio = timed_ratio([(before.samples_ms, after.samples_ms) for before, after in known], machine)
        verdict = judge(ratio, paired.thresholds.shown(metric, paired.case.label))
        unquiet = [name for i, name in ((0, "base"), (1, "new")) if any(pair[i].unquiet for pair in known)]
        notes = [f"disturbed by other processes or heat in {' and '.join(unquiet)}"] if unquiet else []
        if left_out and verdict != "same":
            notes = [f"{left_out} of {left_out + len(known)} runs left out: disturbed by other processes or heat"]
        if paired.again and verdict != "same" and not any(pair in known for pair in further):
            notes.append(f"measured again {len(paired.again)} times, never undisturbed and in the same way")
            unquiet = ["new"]
        if unquiet and verdict != "same":
            verdict = "unclear"
        middle = [statistics.median(_middle(pair[i]) for pair in known) for i in (0, 1)]
        if abs(math.log(machine)) > math.log(1.02):
            notes.append(
                f"the same work took {machine:.2f} times as long beside new; half of that is taken off the change"
            )
        notes.append(explained(ratio.value * math.sqrt(machine), middle[0], middle[1], len(known)))
        yield paired.finding(
            metric, verdict, seeds, base=middle[0], new=middle[1], ratio=ratio, note="; ".join(filter(None, notes))
        )


def _exact(paired: _Paired) -> Iterator[Finding]:
    for quantity in quantities(None, "exact"):
        metric = quantity.name
        # What is counted of the model, and not measured of a step, is the same whatever it runs on.
        why: Callable[[Unlike], str] = (lambda apart: apart.memory) if quantity.step else (lambda apart: "")
        pairs = paired.numbers(metric, exact_of(quantity), why)
        if not pairs:
            continue
        note = ""
        # What does not vary is the same in every seed: one that differs says all, and one that is worse says most.
        verdicts = {seed: exact_verdict(*pair)[0] for seed, pair in pairs.items()}
        seed = min(verdicts, key=lambda seed: ("worse", "better", "same").index(verdicts[seed]))
        before, after = pairs[seed]
        verdict, ratio = exact_verdict(before, after)
        uncounted = [_uncounted(side[seed]) for side in (paired.case.base, paired.case.new)]
        if metric == "flops" and verdict != "same" and uncounted[0] != uncounted[1]:
            verdict = "unclear"
            note = f"not counted on one side alone: {', '.join(sorted(uncounted[0] ^ uncounted[1]))}"
        seeds = list(pairs) if verdict == "same" else [seed]
        yield paired.finding(metric, verdict, seeds, base=before, new=after, ratio=ratio, note=note)


def _uncounted(record: Record) -> set[str]:
    return set(record.flops.unknown) if record.flops else set()


def _accuracies(paired: _Paired, metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    case = paired.case
    tested_at = sorted(case.tested("base"))
    for tested in tested_at:
        yield from _tested_elsewhere(paired, tested)
    # A number that was found on other data is another number.
    other_data = any(identity(case.base[seed]) != identity(case.new[seed]) for seed in paired.unlike)
    for metric, about in metrics.items():
        for tested in tested_at:
            pairs = paired.numbers(metric, metric_of(metric, tested), lambda apart: apart.accuracy)
            if pairs and other_data:
                paired.gaps.append(Gap(case.label, case.resolution, metric, "trained or tested on other data"))
            elif pairs:
                yield _accuracy(paired, metric, tested, pairs, higher=about.direction == "higher")


def _tested_elsewhere(paired: _Paired, tested: int) -> Iterator[Finding]:
    """Yield the evaluations at a resolution that end well on one side only; their cells are ok."""
    for seed in paired.unlike:
        before, after = (side[seed].evaluated_at(tested) for side in (paired.case.base, paired.case.new))
        if before is None or after is None or (before.status == "ok") == (after.status == "ok"):
            continue
        verdict: Verdict = "better" if after.status == "ok" else "worse"
        yield paired.finding("status", verdict, [seed], tested=tested, threshold=0.0, note=_became(before, after))


def _accuracy(
    paired: _Paired, metric: str, tested: int, by_seed: Mapping[int, tuple[float, float]], *, higher: bool
) -> Finding:
    known, ratio, note = list(by_seed.values()), None, ""
    positive = all(value > 0 for each in known for value in each)
    if all(before == after for before, after in known):
        verdict: Verdict = "same"
    elif positive:
        ratio = seeds_ratio(known)
        verdict = judge(ratio, paired.thresholds.shown(metric, paired.case.label), higher=higher)
        note = "one seed" if len(known) == 1 and verdict != "same" else ""
    else:
        # From or to zero there is no ratio to hold against a share: what every seed says decides.
        verdict, note = "unclear", "not positive"
        said = {"same" if n == b else "better" if (n > b) == higher else "worse" for b, n in known}
        if min(map(min, known)) >= 0 and said in ({"better"}, {"worse"}):
            verdict = "worse" if said == {"worse"} else "better"
    # The mean whose ratio is the mean of the ratios: what is shown agrees with the change.
    mean = geometric_mean if positive else statistics.fmean
    before, after = (mean([each[i] for each in known]) for i in (0, 1))
    return paired.finding(
        metric, verdict, list(by_seed), tested=tested, base=before, new=after, ratio=ratio, note=note, higher=higher
    )


def _middle(latency: Latency) -> float:
    return statistics.median(latency.samples_ms)


def _machine(before: Latency, after: Latency) -> float:
    """How much slower the calibration workload was beside ``after``; 1 where it was not timed."""
    if not before.calibration_ms or not after.calibration_ms:
        return 1.0
    return exp(math.log(after.calibration_ms) - math.log(before.calibration_ms))


def _packages(cases: Sequence[Case], environments: tuple[_Environments, _Environments]) -> Iterator[str]:
    """Say which packages differ where something was measured; the project itself is what is compared."""
    sides = []
    for environment, name in zip(environments, ("base", "new")):
        records = [record for case in cases for record in getattr(case, name).values() if record.latency]
        where = [found for record in records if (found := environment.of(record)) is not None]
        sides.append({item for each in where for item in each.versions.items()})
    before, after = sides
    names = sorted({name for name, _ in before ^ after} - {"attn-bench"})
    for name in names if before and after else ():
        old, new = (", ".join(sorted(str(v) for k, v in side if k == name)) or "none" for side in (before, after))
        yield f"{name}: {old} -> {new}"
