"""Compares two results folders: which metric of which model got worse, and whether that may be due to chance.

Seeds of a cell are repeated runs of it. A number that should be compared but cannot be is a :class:`Gap`, so that
nothing passes because a number is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attn_bench.analysis.pairing import Case, added, missing, pair, said
from attn_bench.gate.accuracy import accuracies
from attn_bench.gate.conditions import Unlike, unlike
from attn_bench.gate.exact import exact
from attn_bench.gate.gaps import Gap, said_of, unnamed
from attn_bench.gate.paired import Paired, Sides, became
from attn_bench.gate.thresholds import Thresholds
from attn_bench.gate.timed import timed
from attn_bench.gate.verdicts import Finding, Verdict, few
from attn_bench.plugin import Metric
from attn_bench.results.environment import Environment
from attn_bench.results.quantities import judged, quantities
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store


@dataclass(frozen=True)
class Comparison:
    """The findings, and what could not be compared.

    Attributes:
        findings: in the order of resolution and model.
        obstacles: why something that should have been compared was not; one line each.
        notes: other differences, such as versions of packages.
        failed: the cells that failed on both sides, one name per seed; the obstacles give the reasons.
        allow_unclear: whether a result passes in which all that can fail was compared, but some of it is unclear.
    """

    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    allow_unclear: bool = False

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """Findings that got worse beyond their threshold."""
        return tuple(finding for finding in self.findings if finding.fails)

    @property
    def open(self) -> tuple[Finding, ...]:
        """Findings that may have got worse beyond their threshold, or may be due to chance."""
        return tuple(finding for finding in self.findings if finding.open)

    @property
    def status(self) -> int:
        """1 if anything got worse, else 2 if anything could not be compared or is inconclusive, else 0."""
        if self.regressions:
            return 1
        return 2 if self.obstacles or not self.findings or (self.open and not self.allow_unclear) else 0


class _Environments:
    """The environments of the records of a folder; each file is read once."""

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
        again: further records of cells of new, by :attr:`Case.key`; their latencies count as further runs.

    Raises:
        UserError: a folder contains no results, or a threshold names a metric or model that they do not have.
    """
    infos = Sides(base.run_info(), new.run_info())
    metrics = {**infos.base.metrics, **infos.new.metrics}
    if not infos.base.tasks.keys() & infos.new.tasks.keys():
        names = [", ".join(info.tasks) or "none" for info in (infos.base, infos.new)]
        return Comparison((), (f"other task: {names[0]} in base, {names[1]} in new",))
    cases = pair(base.records(), new.records())
    thresholds = thresholds.resolved(metrics, {name for case in cases for name in (case.label, case.model)})
    metrics = {n: about for n, about in metrics.items() if not about.detail or thresholds.names_metric(n)}
    environments = Sides(_Environments(base), _Environments(new))
    findings: list[Finding] = []
    gaps: list[Gap] = []
    for case in cases:
        apart = {seed: _unlike(case, seed, environments) for seed in case.ok()}
        paired = Paired(case, thresholds, apart, (again or {}).get(case.key, ()))
        findings += _statuses(paired)
        if paired.unlike:
            of_task = {n: about for n, about in _metrics(infos, case.cell.task).items() if n in metrics}
            findings += [*timed(paired), *exact(paired), *accuracies(paired, of_task)]
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
        obstacles.append("base contains no cells to compare with")
    notes = [
        *_packages(shared, environments),
        *added(cases),
        *(_unserved(case) for case in unserved if not thresholds.names_model(case.label)),
        *said_of(gap for gap in gaps if gap.watched(thresholds) and not gap.counts(thresholds)),
        *few(findings),
    ]
    each = [f"{case.title}, seed {seed}" for case in failed for seed in case.failed()]
    return Comparison(tuple(findings), tuple(dict.fromkeys(obstacles)), tuple(notes), tuple(each))


def _metrics(infos: Sides[RunInfo], task: str) -> dict[str, Metric]:
    return {**infos.base.tasks.get(task, {}), **infos.new.tasks.get(task, {})}


def suspects(comparison: Comparison, cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose latency is worse or unclear and has a threshold."""
    timed = {quantity.name for quantity in quantities(None, "timed")}
    doubtful = {
        (finding.model, finding.resolution)
        for finding in comparison.findings
        if finding.metric in timed and finding.threshold is not None and finding.verdict in ("worse", "unclear")
    }
    return [case for case in cases if (case.label, case.resolution) in doubtful]


def _unlike(case: Case, seed: int, environments: Sides[_Environments]) -> Unlike:
    before, after = case.base[seed], case.new[seed]
    return unlike(before, after, (environments.base.of(before), environments.new.of(after)))


def _unreadable(store: Store, side: str) -> Iterator[str]:
    """Yield lines on unreadable record files, whose cells are not compared."""
    valid = store.each_by_id()
    for id in store.ids():
        if id not in valid:
            yield f"cells/{id}.json of {side}: cannot be read, so its cell is not compared; rerun the cell"


def _failed(case: Case) -> str:
    seeds = case.failed()
    how = dict.fromkeys(became(case.base[seed], case.new[seed]) for seed in seeds)
    return f"{case.title}: {said(seeds)} failed on both sides ({'; '.join(how)})"


def _unserved(case: Case) -> str:
    return f"{case.title}: unsupported on both sides ({case.new[case.unserved()[0]].error})"


def _statuses(paired: Paired) -> Iterator[Finding]:
    """Yield findings on cells that succeeded only on one side; without a number in base, new is not compared."""
    case = paired.case
    for seed in case.both():
        before, after = paired.records(seed)
        if (before.status == "ok") == (after.status == "ok"):
            continue
        verdict: Verdict = "better" if after.status == "ok" else "worse"
        found = paired.finding("status", [seed])
        yield replace(found, verdict=verdict, threshold=0.0, note=became(before, after))
        if verdict == "better":
            reason = f"failed in base ({said([seed])}: {before.status})"
            for metric in paired.thresholds.names_for(case.label):
                paired.gap(metric, reason, lost=False)


def _packages(cases: Sequence[Case], environments: Sides[_Environments]) -> Iterator[str]:
    """Yield lines on packages that differ between the measurements, except the compared project."""
    before = _versions((record for case in cases for record in case.base.values()), environments.base)
    after = _versions((record for case in cases for record in case.new.values()), environments.new)
    names = sorted({name for name, _ in before ^ after} - {"attn-bench"})
    for name in names if before and after else ():
        old, new = (", ".join(sorted(v for k, v in side if k == name)) or "none" for side in (before, after))
        yield f"{name}: {old} -> {new}"


def _versions(records: Iterable[Record], environments: _Environments) -> set[tuple[str, str]]:
    """Return the packages, including those of plugins, and their versions in records."""
    found: set[tuple[str, str]] = set()
    for record in records:
        if record.latency and (environment := environments.of(record)) is not None:
            found |= environment.versions.items() | record.packages.items()
    return found
