"""Judges a claim by the results of one folder, by what it says: a value, a ratio, an order, or a growth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from attn_bench.analysis.claims.checks import UNJUDGED, Check, Verdict
from attn_bench.analysis.claims.claim import RATIOS, Claim
from attn_bench.analysis.claims.deciding import what_decides
from attn_bench.analysis.claims.evidence import (
    CONFIDENCE,
    Estimate,
    Group,
    Run,
    costs,
    difference,
    failed,
    mean,
    ratio,
    runs,
)
from attn_bench.analysis.claims.published import differences_from, remark_on, short_training, unlike_preset
from attn_bench.analysis.pairing import identity
from attn_bench.analysis.scaling import BENT, EQUAL, EXPONENTS, FLAT, TOLERANCE, Fit, points_of
from attn_bench.errors import unknown
from attn_bench.plugins.registry import MODELS
from attn_bench.results.quantities import at, drawn
from attn_bench.results.store import Store

# Settings of two models that are compared with each other.
TRAINED_ALIKE = ("data", "cell.tuning")
RUN_ALIKE = ("cell.execution.precision", "batch_size")
# An interval of an exponent that is wider decides nothing: it holds half of what lies between n and n^2.
WIDEST = 0.5
# As many further sizes are worth naming.
MOST_SIZES = 8


def check(claims: Iterable[Claim], stores: Sequence[Store]) -> list[Check]:
    """Compare the results in ``stores`` with every claim; at least one check per claim, in the order of the claims.

    Results that cannot be compared are left out if others can; if none can, the closest one is kept.

    Raises:
        UserError: a folder contains no results, or invalid ones.
    """
    there, installed = [run for store in stores for run in runs(store)], MODELS.entries()
    found = []
    for claim in claims:
        kept = _kept(claim, [each for run in there for each in judge(claim, run)])
        if all(each.verdict in UNJUDGED for each in kept):
            kept = [replace(each, decided_by=what_decides(claim, there, installed)) for each in kept]
        found += kept
    return found


def _kept(claim: Claim, found: list[Check]) -> list[Check]:
    judged = [check for check in found if check.verdict not in UNJUDGED]
    others = sorted(
        (check for check in found if check not in judged),
        key=lambda check: (UNJUDGED.index(check.verdict), len(check.differences)),
    )
    return judged or others[:1] or [Check(claim, "not yet run")]


def judge(claim: Claim, run: Run) -> list[Check]:
    """Return what the results of a folder say about a claim, a check for each variant; none if they say nothing."""
    if claim.relation == "grows as":
        return judge_growth(claim, run)
    if claim.task not in (None, run.task):
        return []
    groups = run.of(claim.model, claim.options)
    there = [group for group in groups if claim.resolution in (None, group.resolution)]
    if groups and not there:
        sizes = ", ".join(map(str, sorted({group.resolution for group in groups})))
        return [Check(claim, "not yet run", note=f"run at {sizes}, claimed at {claim.resolution}", folder=run.folder)]
    if claim.relation == "improves with":
        return _judge_order(claim, run, there)
    judge_one = _judge_ratio if claim.relation in RATIOS else _judge_value
    return [check for group in there for check in judge_one(claim, run, group)]


def _judge_value(claim: Claim, run: Run, group: Group) -> list[Check]:
    values = group.values(claim.metric)
    if not values:
        return [_without_value(claim, run, group)]
    estimate, differences = mean(values), differences_from(claim, group.first)
    verdict, why = _verdict(estimate, claim, higher=run.higher(claim.metric))
    if verdict == "not reproduced":
        differences += short_training(claim, group.first)
    note = _joined(why, _trained(group, len(values)), "" if differences else remark_on(claim, group.first))
    verdict = "not comparable" if differences else verdict
    return [Check(claim, verdict, group.label, group.resolution, estimate, differences, note, run.folder)]


def _without_value(claim: Claim, run: Run, group: Group) -> Check:
    measured = costs()
    if claim.metric not in run.metrics and run.metrics and claim.metric not in measured:
        if claim.task is None:
            return Check(claim, "not yet run", folder=run.folder)
        said = str(unknown(f"metric of {run.task}", claim.metric, run.metrics))
        return Check(claim, "inconclusive", group.label, group.resolution, note=said, folder=run.folder)
    why = ", ".join(failed(group)) or ("not measured" if claim.metric in measured else "not trained")
    note = f"no {claim.metric}: {why}"
    return Check(claim, "not yet run", group.label, group.resolution, note=note, folder=run.folder)


def _judge_ratio(claim: Claim, run: Run, group: Group) -> list[Check]:
    assert claim.than is not None
    ours = group.values(claim.metric)
    if not ours:
        return [_without_value(claim, run, group)]
    found = []
    for other in run.of(claim.than, claim.than_options):
        theirs = other.values(claim.metric)
        if other.resolution != group.resolution or not theirs or other.label == group.label:
            continue
        if claim.than == claim.model and not _otherwise_equal(claim, group, other):
            continue
        names = f"{group.label} / {other.label}"
        differences = _unlike(claim, group, other)
        # Errors, scores and costs are positive; from others no ratio follows.
        if nothing := [name for name, values in ((group.label, ours), (other.label, theirs)) if min(values) <= 0]:
            differences += (f"{claim.metric} of {' and '.join(nothing)} is not positive, so there is no ratio",)
            found.append(Check(claim, "not comparable", names, group.resolution, None, differences, "", run.folder))
            continue
        estimate = (difference if claim.relation == "more by" else ratio)(ours, theirs)
        verdict, why = _verdict(estimate, claim, higher=run.higher(claim.metric))
        note = _joined(why, _trained(group, len(ours)), "" if differences else remark_on(claim, group.first))
        verdict = "not comparable" if differences else verdict
        found.append(Check(claim, verdict, names, group.resolution, estimate, differences, note, run.folder))
    note = f"{claim.than} was not run with the same settings"
    return found or [Check(claim, "not yet run", group.label, group.resolution, note=note, folder=run.folder)]


def _otherwise_equal(claim: Claim, group: Group, other: Group) -> bool:
    """Tell whether two variants of a model differ only in the options that the claim is about."""
    named = {*claim.options, *claim.than_options}
    names = {*group.first.cell.options, *other.first.cell.options} - named
    return all(group.option(name) == other.option(name) for name in names)


def _unlike(claim: Claim, group: Group, other: Group) -> tuple[str, ...]:
    """Return what makes two models incomparable: what is not the claim's, and what is not the same for both."""
    assert claim.than is not None
    cost = claim.metric in costs()
    unlike = tuple(
        f"{path}: not the same for {group.label} and {other.label}"
        for path in (*(() if cost else TRAINED_ALIKE), *RUN_ALIKE)
        if at(group.first, path) != at(other.first, path)
        and not (path == "data" and identity(group.first) == identity(other.first))
    )
    own = () if cost else (*_trained_otherwise(group, other), *short_training(claim, group.first))
    return (
        *differences_from(claim, group.first),
        *unlike_preset(other.first, claim.than, claim.than_options),
        *unlike,
        *own,
    )


def _trained_otherwise(group: Group, other: Group) -> tuple[str, ...]:
    """Return the settings of training that differ, but for those that were chosen for each from the same values."""
    ours, theirs = group.first.cell, other.first.cell
    chosen = ours.tuning.tune if ours.tuning is not None and ours.tuning == theirs.tuning else {}
    mine, others = (vars(each.training) if each.training else {} for each in (ours, theirs))
    return tuple(
        f"{name}: {mine.get(name)} for {group.label}, {others.get(name)} for {other.label}"
        for name in dict.fromkeys((*mine, *others))
        if name not in chosen and mine.get(name) != others.get(name)
    )


def _verdict(estimate: Estimate, claim: Claim, *, higher: bool) -> tuple[Verdict, str]:
    """Return the verdict on a number, and why it is inconclusive."""
    ours = estimate.value
    if claim.relation == "better than":
        if estimate.low is None or estimate.high is None:
            return "inconclusive", "one seed: an order needs at least two"
        if estimate.holds(1.0):
            return "inconclusive", "the interval contains equality: more seeds are needed"
        return ("reproduced" if (ours > 1) == higher else "not reproduced"), ""
    assert claim.value is not None
    if abs(ours - claim.value) <= claim.tolerance * claim.value * (1 + 1e-9):
        return "reproduced", ""
    if estimate.holds(claim.value):
        return "inconclusive", "the interval contains the published value, the mean misses it: more seeds are needed"
    # A ratio of latencies or errors that is at most something is better below it.
    more_is_better = (higher and claim.relation == "equals") or claim.relation == "more by"
    if claim.relation == "times":
        return "not reproduced", ""
    return ("better" if (ours > claim.value) == more_is_better else "not reproduced"), ""


def _judge_order(claim: Claim, run: Run, groups: Sequence[Group]) -> list[Check]:
    """Judge that a metric improves with every step of an option, all else equal."""
    assert claim.option is not None
    found = []
    series: dict[object, list[Group]] = {}
    for group in groups:
        if isinstance(group.option(claim.option), int | float) and group.values(claim.metric):
            cell = group.first.cell
            others = {name: value for name, value in cell.options.items() if name != claim.option}
            alike = (repr(sorted(others.items())), cell.training, cell.execution, group.resolution, cell.regime)
            series.setdefault(repr(alike), []).append(group)
    for each in series.values():
        each.sort(key=lambda group: group.option(claim.option or ""))
        if len(each) < 3:
            continue
        estimates = [ratio(b.values(claim.metric), a.values(claim.metric)) for a, b in itertools.pairwise(each)]
        whole = ratio(each[-1].values(claim.metric), each[0].values(claim.metric))
        higher = run.higher(claim.metric)
        worse = [estimate for estimate in estimates if (estimate.value > 1) != higher]
        surely = [estimate for estimate in worse if estimate.low is not None and not estimate.holds(1.0)]
        steps = ", ".join(
            f"{group.option(claim.option)}: {mean(group.values(claim.metric)).value:.4g}" for group in each
        )
        verdict: Verdict = "inconclusive"
        if surely:
            verdict = "not reproduced"
        elif not worse and whole.low is not None and not whole.holds(1.0):
            verdict = "reproduced"
        differences = differences_from(claim, each[0].first)
        names, note = f"{each[-1].label} / {each[0].label}", f"by {claim.option}: {steps}"
        check = Check(claim, verdict, names, each[0].resolution, whole, differences, note, run.folder)
        found.append(replace(check, verdict="not comparable") if differences else check)
    return found


def judge_growth(claim: Claim, run: Run) -> list[Check]:
    """Judge exponents: a claim holds if the interval reaches the claimed power and leaves out the next one.

    An interval wider than :data:`WIDEST` decides nothing. A logarithm counts as part of the tolerance of the fits
    (:data:`attn_bench.analysis.scaling.TOLERANCE`).
    """
    assert claim.growth is not None
    claimed = EXPONENTS[claim.growth]
    groups = {group.label: group for group in run.of(claim.model, claim.options)}
    points = points_of(run.table) if groups else ""
    found = []
    for fit in run.fits if groups else ():
        if fit.cost != claim.metric or fit.model not in groups:
            continue
        verdict: Verdict = "reproduced"
        note = f"{fit.points} sizes, {fit.first} to {fit.last} {points}"
        differences = differences_from(claim, groups[fit.model].first)
        if fit.flag == EQUAL:
            verdict, note = "inconclusive", f"{note}: {EQUAL}"
        elif fit.flag == BENT or fit.high < FLAT:
            verdict, note = "inconclusive", f"{note}: too small, the growing part does not dominate yet"
        elif fit.high - fit.low > WIDEST:
            verdict, note = "inconclusive", f"{note}: {_too_wide(fit, points)}"
        elif fit.low > claimed + TOLERANCE:
            verdict = "not reproduced"
        elif fit.high >= claimed + 1 - TOLERANCE:
            verdict, note = "inconclusive", f"{note}: the interval reaches the next power"
        elif fit.high < claimed - TOLERANCE:
            verdict = "better"
        estimate = Estimate(fit.exponent, 0, fit.low, fit.high)
        check = Check(claim, verdict, fit.model, None, estimate, differences, note, run.folder)
        found.append(replace(check, verdict="not comparable") if differences else check)
    if groups and not found:
        note = f"{drawn()[claim.metric].axis} is needed at three or more sizes"
        found.append(Check(claim, "not yet run", next(iter(groups)), note=note, folder=run.folder))
    return found


def _too_wide(fit: Fit, points: str) -> str:
    """Return how many more sizes would make the interval of an exponent narrow enough, if the costs vary as they do."""
    from scipy import stats

    def half(x: Sequence[float], noise: float) -> float:
        middle = sum(x) / len(x)
        spread = math.sqrt(sum((each - middle) ** 2 for each in x))
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2)) * noise / spread

    step = math.log(fit.last / fit.first) / (fit.points - 1)
    sizes = [step * i for i in range(fit.points)]
    noise = (fit.high - fit.low) / 2 / half(sizes, 1.0)
    wide = f"the interval is {fit.high - fit.low:.2g} wide, more than {WIDEST}"
    for more in range(1, MOST_SIZES + 1):
        if 2 * half([step * i for i in range(fit.points + more)], noise) <= WIDEST:
            largest = round(fit.last * math.exp(step * more))
            return f"{wide}; about {more} more, up to {largest} {points}, would decide"
    return f"{wide}; measure it on a quieter machine"


def _trained(group: Group, seeds: int) -> str:
    training = group.first.cell.training
    said = f"trained for {training.budget:g} {training.budget_unit}" if training else "not trained"
    lost = len(group.records) - seeds
    return f"{said}; {lost} of {len(group.records)} seeds failed" if lost else said


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
