"""Compares two results folders: which metric of which model got worse, and whether that can be chance.

Cells are paired by what they are: model, options, task, resolution, budget and the rest of a cell, but not by the
versions of the code, which are what is compared. Seeds of one cell are repeated runs of it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attn_bench.analysis.thresholds import EXACT, STEPS, TIMED, Thresholds
from attn_bench.analysis.verdicts import Finding, Verdict, exact_verdict, judge, seeds_ratio, timed_ratio
from attn_bench.measure.environment import fingerprint
from attn_bench.results import Store
from attn_bench.table import disturbed, labels

Record = Mapping[str, Any]
_VERSIONS = ("model_version", "task_version", "training_version")


@dataclass(frozen=True)
class Comparison:
    """Verdicts, and what could not be compared.

    Attributes:
        findings: in the order of resolution and model.
        obstacles: why something that ought to have been compared was not; one line each.
        notes: what else differs, such as versions of packages.
    """

    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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


@dataclass
class Case:
    """One cell over its seeds, in base and in new.

    Attributes:
        twice: the sides that hold a seed of it more than once, of several versions of the code.
    """

    key: str
    label: str
    base: dict[int, Record] = field(default_factory=dict)
    new: dict[int, Record] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    @property
    def model(self) -> str:
        """The model's name; ``label`` adds the settings in which cells of one name differ."""
        return self._cell["model"]

    @property
    def resolution(self) -> int:
        """Where it was trained and measured."""
        return self._cell["resolution"]

    @property
    def _cell(self) -> Mapping[str, Any]:
        return next(iter((self.base or self.new).values()))["cell"]

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.label} at {self.resolution}"

    def ok(self) -> list[int]:
        """Seeds that ended well on both sides."""
        return [s for s in self.base if s in self.new and self.base[s]["status"] == self.new[s]["status"] == "ok"]


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
    metrics = infos[0].get("metrics", {}) | infos[1].get("metrics", {})
    if infos[0]["task"] != infos[1]["task"]:
        return Comparison((), (f"other task: {infos[0]['task']} in base, {infos[1]['task']} in new",))
    cases = list(pair(base.records(), new.records()))
    thresholds.check(metrics, {name for case in cases for name in (case.label, case.model)})
    environments = _environments(base, cases, "base"), _environments(new, cases, "new")
    obstacles = list(_missing(cases))
    obstacle = _other_hardware(environments)
    timed = any(side[seed]["latency"] for case in cases for side in (case.base, case.new) for seed in case.ok())
    if obstacle and timed and thresholds.any(TIMED):
        obstacles.append(f"latency: {obstacle}; leave latency out of --fail-on, or measure both on one machine")
    findings: list[Finding] = []
    for case in cases:
        findings += _statuses(case)
        seeds = case.ok()
        if not seeds:
            continue
        if not obstacle:
            findings += _latencies(case, seeds, thresholds, (again or {}).get(case.key, ()))
        findings += _exact(case, seeds, thresholds)
        findings += _tested_elsewhere(case, seeds)
        found, other_data = _accuracies(case, seeds, thresholds, metrics)
        findings += found
        obstacles += other_data
    if not any(case.base for case in cases):
        obstacles.append("base holds no cells to compare with")
    return Comparison(tuple(findings), tuple(obstacles), tuple(_notes(environments)))


def pair(base: Sequence[Record], new: Sequence[Record]) -> Iterator[Case]:
    """Yield every cell of base and new, whether or not the other side has it."""
    cases: dict[str, Case] = {}
    records = [*base, *new]
    for i, (record, label) in enumerate(zip(records, labels([_without_versions(record) for record in records]))):
        key = json.dumps(_without_versions(record)["cell"] | {"seed": None}, sort_keys=True)
        case = cases.setdefault(key, Case(key, label))
        side, name = (case.base, "base") if i < len(base) else (case.new, "new")
        if record["cell"]["seed"] in side:
            case.twice.add(name)
        side[record["cell"]["seed"]] = record
    yield from sorted(cases.values(), key=lambda case: (case.resolution, case.label))


def suspects(comparison: Comparison, cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose latency is worse or unclear and has a threshold."""
    doubtful = {
        (finding.model, finding.resolution)
        for finding in comparison.findings
        if finding.metric in TIMED and finding.threshold is not None and finding.verdict in ("worse", "unclear")
    }
    return [case for case in cases if (case.label, case.resolution) in doubtful]


def _without_versions(record: Record) -> dict[str, Any]:
    return {**record, "cell": {key: value for key, value in record["cell"].items() if key not in _VERSIONS}}


def _missing(cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        for side in sorted(case.twice) if case.base else ():
            yield f"{case.title}: {side} holds it of several versions of the code; give each version its own folder"
        if not case.new:
            yield f"{case.title}: not in new{_otherwise(case, cases)}"
        elif case.base and (seeds := sorted(set(case.base) - set(case.new))):
            yield f"{case.title}: seed {', '.join(map(str, seeds))} not in new"


def _otherwise(case: Case, cases: Sequence[Case]) -> str:
    """Name the settings with which new has the model of ``case``, if it does."""
    own = json.loads(case.key)
    for other in cases:
        if other.new and not other.base and (other.model, other.resolution) == (case.model, case.resolution):
            theirs = json.loads(other.key)
            return f"; there with other {', '.join(k for k in own if own[k] != theirs.get(k))}"
    return ""


def _statuses(case: Case) -> Iterator[Finding]:
    for seed in case.base:
        if seed not in case.new:
            continue
        before, after = case.base[seed], case.new[seed]
        if before["status"] == after["status"] == "ok":
            continue
        verdict: Verdict = "same"
        if "ok" in (before["status"], after["status"]):
            verdict = "better" if after["status"] == "ok" else "worse"
        elif before["status"] != after["status"]:
            verdict = "unclear"
        threshold = None if verdict == "unclear" else 0.0  # it fails in another way now, no less than before
        note = _became(before, after)
        yield Finding(case.label, case.resolution, case.resolution, "status", verdict, threshold=threshold, note=note)


def _tested_elsewhere(case: Case, seeds: Sequence[int]) -> Iterator[Finding]:
    """Yield the evaluations at further resolutions that end well on one side alone; their cells are ok."""
    for seed in seeds:
        base, new = (
            {entry["resolution"]: entry for entry in side[seed]["evaluations"]} for side in (case.base, case.new)
        )
        for tested in sorted(base.keys() & new.keys()):
            before, after = base[tested], new[tested]
            if before["status"] == after["status"] or "ok" not in (before["status"], after["status"]):
                continue
            verdict: Verdict = "better" if after["status"] == "ok" else "worse"
            note = _became(before, after)
            yield Finding(case.label, case.resolution, tested, "status", verdict, threshold=0.0, note=note)


def _became(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    return f"{before['status']} -> {after['status']}{': ' if after['error'] else ''}{after['error'] or ''}"


def _latencies(case: Case, seeds: Sequence[int], thresholds: Thresholds, again: Sequence[Record]) -> Iterator[Finding]:
    for metric in TIMED:
        step = STEPS[metric]
        pairs = [(case.base[seed]["latency"].get(step), case.new[seed]["latency"].get(step)) for seed in seeds]
        pairs += [(pairs[0][0], record["latency"].get(step)) for record in again]
        known = [(before, after) for before, after in pairs if _has_samples(before) and _has_samples(after)]
        if not known:
            continue
        quiet = [pair for pair in known if not any(map(disturbed, pair))]
        left_out, known = len(known) - len(quiet) if quiet else 0, quiet or known
        machine = statistics.median(_machine(before, after) for before, after in known)
        ratio = timed_ratio([(before["samples_ms"], after["samples_ms"]) for before, after in known], machine)
        threshold = thresholds.of(metric, case.label)
        verdict = judge(ratio, thresholds.shown(metric, case.label))
        unquiet = [name for i, name in ((0, "base"), (1, "new")) if any(disturbed(pair[i]) for pair in known)]
        note = f"disturbed by other processes or heat in {' and '.join(unquiet)}" if unquiet else ""
        if left_out and verdict != "same":
            note = f"{left_out} of {left_out + len(known)} runs left out: disturbed by other processes or heat"
        if unquiet and verdict != "same":
            verdict = "unclear"
        if verdict != "same" and abs(math.log(machine)) > math.log(1.02):
            said = f"the same work took {machine:.2f} times as long beside new; half of that is taken off the change"
            note = f"{note}; {said}" if note else said
        middle = [statistics.median(pair[i]["median_ms"] for pair in known) for i in (0, 1)]
        yield Finding(
            case.label, case.resolution, case.resolution, metric, verdict,
            middle[0], middle[1], ratio, threshold, note,
        )  # fmt: skip


def _exact(case: Case, seeds: Sequence[int], thresholds: Thresholds) -> Iterator[Finding]:
    for metric in EXACT:
        pairs = [(_number(case.base[seed], metric), _number(case.new[seed], metric)) for seed in seeds]
        known = [(before, after) for before, after in pairs if before is not None and after is not None]
        if not known:
            continue
        note = ""
        # What does not vary is the same in every seed: the first that differs says all.
        before, after = next((each for each in known if each[0] != each[1]), known[0])
        verdict, ratio = exact_verdict(before, after)
        uncounted = [set((side[seeds[0]]["flops"] or {}).get("unknown", ())) for side in (case.base, case.new)]
        if metric == "flops" and verdict != "same" and uncounted[0] != uncounted[1]:
            verdict = "unclear"
            note = f"not counted on one side alone: {', '.join(sorted(uncounted[0] ^ uncounted[1]))}"
        threshold = thresholds.of(metric, case.label)
        yield Finding(
            case.label, case.resolution, case.resolution, metric, verdict, before, after, ratio, threshold, note
        )


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the data of a record are, without how that was said in words."""
    return {name: value for name, value in (record["data"] or {}).items() if name != "read"}


def _accuracies(
    case: Case, seeds: Sequence[int], thresholds: Thresholds, metrics: Mapping[str, Any]
) -> tuple[list[Finding], list[str]]:
    findings: list[Finding] = []
    if any(_identity(case.base[seed]) != _identity(case.new[seed]) for seed in seeds):
        watched = [name for name in metrics if thresholds.of(name, case.label) is not None]
        return [], [f"{case.title}: trained or tested on other data ({', '.join(watched)})"] if watched else []
    for metric, about in metrics.items():
        threshold = thresholds.of(metric, case.label)
        for tested in sorted({entry["resolution"] for seed in seeds for entry in case.base[seed]["evaluations"]}):
            pairs = [tuple(_evaluated(r[seed], tested, metric) for r in (case.base, case.new)) for seed in seeds]
            known = [(b, n) for b, n in pairs if b is not None and n is not None]
            if not known:
                continue
            ratio, note, higher = None, "", about["direction"] == "higher"
            if all(b == n for b, n in known):
                verdict: Verdict = "same"
            elif all(value > 0 for each in known for value in each):
                ratio = seeds_ratio(known)
                verdict = judge(ratio, thresholds.shown(metric, case.label), higher=higher)
                note = "one seed" if len(known) == 1 and verdict != "same" else ""
            else:
                # From or to zero there is no ratio to hold against a share: what every seed says decides.
                verdict, note = "unclear", "not positive"
                said = {"same" if n == b else "better" if (n > b) == higher else "worse" for b, n in known}
                if min(map(min, known)) >= 0 and said in ({"better"}, {"worse"}):
                    verdict = "worse" if said == {"worse"} else "better"
            before, after = (_mean([each[i] for each in known]) for i in (0, 1))
            findings.append(
                Finding(
                    case.label, case.resolution, tested, metric, verdict, before, after, ratio, threshold, note, higher
                )
            )
    return findings, []


def _number(record: Record, metric: str) -> float | None:
    if metric == "parameters":
        return record["parameters"]
    if metric == "flops":
        return (record["flops"] or {}).get("total")
    return record["memory"].get(STEPS[metric], {}).get("peak_mib")


def _evaluated(record: Record, tested: int, metric: str) -> float | None:
    entries = (entry for entry in record["evaluations"] if entry["resolution"] == tested)
    return next((entry.get("metrics", {}).get(metric) for entry in entries), None)


def _has_samples(latency: Mapping[str, Any] | None) -> bool:
    return bool(latency and latency.get("samples_ms"))


def _machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """How much slower the reference workload was beside ``after``; 1 where it was not timed."""
    both = before.get("reference_ms"), after.get("reference_ms")
    return both[1] / both[0] if both[0] and both[1] else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _environments(store: Store, cases: Sequence[Case], side: str) -> list[Mapping[str, Any]]:
    """Return the environments in which the paired cells of one side ran."""
    names = {
        record.get("environment")
        for case in cases
        if case.base and case.new
        for record in getattr(case, side).values()
        if record["latency"]
    }
    return [found for name in sorted(filter(None, names)) if (found := store.environment(name)) is not None]


def _other_hardware(environments: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Say why times of base and new do not compare, or return an empty line."""
    hardware = {fingerprint(each): each["device_name"] for side in environments for each in side}
    if len(hardware) > 1:
        return f"other hardware, {' and '.join(sorted(f'{name} ({print_})' for print_, name in hardware.items()))}"
    return "" if all(environments) else "no record says on what hardware it was measured"


def _notes(environments: Collection[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Say which packages differ; the project itself is what is compared."""
    before, after = ({(k, v) for e in side for k, v in e["versions"].items()} for side in environments)
    names = sorted({name for name, _ in before ^ after} - {"attn-bench"})
    for name in names if before and after else ():
        old, new = (", ".join(sorted(v for k, v in side if k == name)) or "none" for side in (before, after))
        yield f"{name}: {old} -> {new}"
