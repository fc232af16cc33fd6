"""Compares results with published claims.

A number is reproduced if the mean over seeds is within the claim's tolerance of it; otherwise it is better or not
reproduced. A ratio is judged in the same way, between models of one folder with the same training settings. An exponent
is judged by its confidence interval: see :func:`_judge_growth`. If a setting differs from the claim's protocol, the
verdict is "not comparable" and names the setting. If the numbers do not decide, e.g. because costs are equal at all
sizes, the verdict is "inconclusive".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attn_bench.analysis.claims.claim import LARGEST, Claim
from attn_bench.analysis.claims.published import differences_from, short_training, unlike_preset
from attn_bench.analysis.pairing import identity
from attn_bench.analysis.scaling import BENT, EQUAL, EXPONENTS, FLAT, TOLERANCE, Fit, fits, is_sequence, points_of
from attn_bench.errors import unknown
from attn_bench.results.labels import labels
from attn_bench.results.quantities import at, drawn
from attn_bench.results.record import Record
from attn_bench.results.store import Store

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "better", "not reproduced", "inconclusive", "not comparable", "not yet run"]
# With these verdicts, another folder may still decide.
UNJUDGED = ("inconclusive", "not comparable", "not yet run")
# Settings that must agree between two models that are compared.
ALIKE = ("data", "cell.training", "cell.execution.precision", "cell.execution.batch_size")


@dataclass(frozen=True)
class Check:
    """The check of one claim on one variant of its model.

    Attributes:
        model: label of the variant, empty if none was run; ``resolution`` that it was trained and evaluated at.
        mean: of our seeds: the metric, the ratio or the exponent.
        low, high: lowest and highest seed; for an exponent, its 95 % confidence interval.
        deviation: sample standard deviation over seeds; None for one seed.
        seeds: number of seeds.
        differences: settings that differ from the claim's.
        note: a note for the reader.
    """

    claim: Claim
    verdict: Verdict
    model: str = ""
    resolution: int | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    seeds: int = 0
    differences: tuple[str, ...] = ()
    note: str = ""
    folder: str = ""


@dataclass(frozen=True)
class _Group:
    """Records of one variant at one resolution, one per seed."""

    label: str
    resolution: int
    records: list[Record] = field(default_factory=list)

    @property
    def first(self) -> Record:
        return self.records[0]

    def values(self, metric: str) -> list[float]:
        """Return the metric of every seed that has it, evaluated at the resolution trained at."""
        found = (
            each.metrics.get(metric)
            for record in self.records
            for each in record.evaluations
            if each.resolution == self.resolution and each.status == "ok"
        )
        return [value for value in found if value is not None and abs(value) < LARGEST]


class _Run:
    """A results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.store = Store.open(folder)
        info = self.store.run_info()
        self.task, self.metrics = info.task, tuple(info.metrics)
        self.higher = {name for name, metric in info.metrics.items() if metric.direction == "higher"}
        groups: dict[tuple[str, int], _Group] = {}
        records = self.store.records()
        for label, record in zip(labels(records), records):
            key = (label, record.cell.resolution)
            groups.setdefault(key, _Group(*key)).records.append(record)
        self.groups = list(groups.values())

    def of(self, model: str) -> list[_Group]:
        """Return the groups of a plugin."""
        plugin = model.partition(":")[0]
        return [group for group in self.groups if group.first.cell.plugin == plugin]

    @cached_property
    def table(self) -> pd.DataFrame:
        return self.store.table()

    @cached_property
    def fits(self) -> list[Fit]:
        return fits(self.table)


def check(claims: Iterable[Claim], folders: Sequence[Path]) -> list[Check]:
    """Compare the results in ``folders`` with every claim; at least one check per claim, in the order of the claims.

    Results that cannot be compared are left out if others can; if none can, the closest one is kept.

    Raises:
        UserError: a folder contains no results, or invalid ones.
    """
    runs = [_Run(folder) for folder in folders]
    return [kept for claim in claims for kept in _kept(claim, [c for run in runs for c in _checks(claim, run)])]


def _kept(claim: Claim, found: list[Check]) -> list[Check]:
    judged = [check for check in found if check.verdict not in UNJUDGED]
    others = sorted(
        (check for check in found if check not in judged),
        key=lambda check: (UNJUDGED.index(check.verdict), len(check.differences)),
    )
    return judged or others[:1] or [Check(claim, "not yet run")]


def _checks(claim: Claim, run: _Run) -> list[Check]:
    if claim.relation == "grows as":
        return _judge_growth(claim, run)
    if claim.task != run.task:
        return []
    groups = run.of(claim.model)
    there = [group for group in groups if claim.resolution in (None, group.resolution)]
    if groups and not there:
        sizes = ", ".join(map(str, sorted({group.resolution for group in groups})))
        return [Check(claim, "not yet run", note=f"run at {sizes}, claimed at {claim.resolution}", folder=run.folder)]
    judge = _judge_value if claim.relation == "equals" else _judge_ratio
    return [check for group in there for check in judge(claim, run, group)]


def _judge_value(claim: Claim, run: _Run, group: _Group) -> list[Check]:
    assert claim.value is not None
    values = group.values(claim.metric)
    if not values:
        return [_without_value(claim, run, group)]
    differences = differences_from(claim, group.first)
    mean = statistics.fmean(values)
    verdict = _verdict(mean, claim, higher=claim.metric in run.higher)
    if verdict == "not reproduced":
        differences += short_training(claim, group.first)
    return [
        Check(
            claim,
            "not comparable" if differences else verdict,
            group.label,
            group.resolution,
            mean,
            min(values),
            max(values),
            statistics.stdev(values) if len(values) > 1 else None,
            len(values),
            differences,
            _trained(group, len(values)),
            run.folder,
        )
    ]


def _without_value(claim: Claim, run: _Run, group: _Group) -> Check:
    if claim.metric not in run.metrics and run.metrics:
        said = str(unknown(f"metric of {run.task}", claim.metric, run.metrics))
        return Check(claim, "inconclusive", group.label, group.resolution, note=said, folder=run.folder)
    failed = dict.fromkeys(record.status for record in group.records if record.status != "ok")
    note = f"no {claim.metric}: {', '.join(failed) or 'not trained'}"
    return Check(claim, "not yet run", group.label, group.resolution, note=note, folder=run.folder)


def _judge_ratio(claim: Claim, run: _Run, group: _Group) -> list[Check]:
    assert claim.than is not None
    ours = group.values(claim.metric)
    if not ours:
        return [_without_value(claim, run, group)]
    found = []
    for other in run.of(claim.than):
        theirs = other.values(claim.metric)
        if other.resolution != group.resolution or not theirs:
            continue
        unlike = tuple(
            f"{path}: not the same for {group.label} and {other.label}"
            for path in ALIKE
            if at(group.first, path) != at(other.first, path)
            and not (path == "data" and identity(group.first) == identity(other.first))
        )
        differences = (
            *differences_from(claim, group.first),
            *unlike_preset(other.first, claim.than),
            *unlike,
            *short_training(claim, group.first),
        )
        # Errors and scores are positive; other numbers have no meaningful ratio.
        if nothing := [name for name, values in ((group.label, ours), (other.label, theirs)) if min(values) <= 0]:
            why = f"{claim.metric} of {' and '.join(nothing)} is not positive, so there is no ratio"
            found.append(
                Check(claim, "not comparable", f"{group.label} / {other.label}", group.resolution,
                      differences=(*differences, why), folder=run.folder)
            )  # fmt: skip
            continue
        ratio = statistics.fmean(ours) / statistics.fmean(theirs)
        spread = None
        if len(ours) > 1 and len(theirs) > 1:
            shares = [statistics.stdev(values) / statistics.fmean(values) for values in (ours, theirs)]
            spread = ratio * math.hypot(*shares)
        found.append(
            Check(
                claim,
                "not comparable" if differences else _verdict(ratio, claim, higher=False),
                f"{group.label} / {other.label}",
                group.resolution,
                ratio,
                min(ours) / max(theirs),
                max(ours) / min(theirs),
                spread,
                min(len(ours), len(theirs)),
                differences,
                _trained(group, len(ours)),
                run.folder,
            )
        )
    note = f"{claim.than} was not run with the same settings"
    return found or [Check(claim, "not yet run", group.label, group.resolution, note=note, folder=run.folder)]


def _verdict(ours: float, claim: Claim, *, higher: bool) -> Verdict:
    assert claim.value is not None
    if abs(ours - claim.value) <= claim.tolerance * claim.value * (1 + 1e-9):
        return "reproduced"
    return "better" if (ours > claim.value) == higher else "not reproduced"


def _judge_growth(claim: Claim, run: _Run) -> list[Check]:
    """Judge exponents: a claim holds if the interval reaches the claimed power and excludes the next one.

    A logarithm counts as part of the tolerance of the fits (:data:`attn_bench.analysis.scaling.TOLERANCE`).
    """
    assert claim.growth is not None
    claimed = EXPONENTS[claim.growth]
    groups = {group.label: group for group in run.of(claim.model)}
    points = points_of(is_sequence(run.table))
    found = []
    for fit in run.fits:
        if fit.cost != claim.metric or fit.model not in groups:
            continue
        verdict: Verdict = "reproduced"
        note = f"{fit.points} sizes, {fit.first} to {fit.last} {points}"
        differences = differences_from(claim, groups[fit.model].first)
        if fit.flag == EQUAL:
            verdict, note = "inconclusive", f"{note}: {EQUAL}"
        elif fit.flag == BENT or fit.high < FLAT:
            differences += ("sizes are too small: the growing part does not dominate yet",)
        elif fit.low > claimed + TOLERANCE:
            verdict = "not reproduced"
        elif fit.high >= claimed + 1 - TOLERANCE:
            differences += ("the interval reaches the next power: measure more sizes",)
        elif fit.high < claimed - TOLERANCE:
            verdict = "better"
        found.append(
            Check(
                claim,
                "not comparable" if differences else verdict,
                fit.model,
                None,
                fit.exponent,
                fit.low,
                fit.high,
                differences=differences,
                note=note,
                folder=run.folder,
            )
        )
    if groups and not found:
        note = f"{drawn()[claim.metric].axis} is needed at three or more sizes"
        found.append(Check(claim, "not yet run", next(iter(groups)), note=note, folder=run.folder))
    return found


def _trained(group: _Group, seeds: int) -> str:
    training = group.first.cell.training
    said = f"trained for {training.budget:g} {training.budget_unit}" if training else "not trained"
    failed = len(group.records) - seeds
    return f"{said}; {failed} of {len(group.records)} seeds failed" if failed else said
