"""Series of one cost of one cell over revisions, their levels and their steps.

A curve has a series for each set of conditions (:func:`attn_bench.gate.conditions.of_times`): machine, version of
torch, threads and others. Steps are looked for within a series, so that none is blamed on the code that another machine
or another torch makes; where a curve passes from one series to another is marked.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from attn_bench.analysis.pairing import settings_of
from attn_bench.gate.conditions import of_times
from attn_bench.history.changepoints import Change, changes
from attn_bench.history.commits import Commit
from attn_bench.history.kept import Kept
from attn_bench.results.labels import Asked, labels_of
from attn_bench.results.quantities import Quantity, at, quantities
from attn_bench.running.measure.latency import median_interval


@dataclass(frozen=True)
class Point:
    """What a revision measured, in processes that ran under the same conditions.

    Attributes:
        place: index of the revision among those measured.
        values: one per process; those that were not disturbed, if there are any.
        dirty: the work tree had uncommitted changes: shown, but no part of a level or a step.
        disturbed: all processes were.
        versions: of packages, by name.
    """

    place: int
    commit: Commit
    values: tuple[float, ...]
    dirty: bool = False
    disturbed: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Their median."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Step:
    """A change of the level of a series.

    Attributes:
        before, after: the last revision before it and the first one after it; with the revisions that are as plausible.
        place: index of the first revision after the most plausible step.
        change: its size.
        packages: whose versions changed with it, ``timm 1.0.20 -> 1.0.21``.
    """

    before: Commit
    after: Commit
    place: int
    change: Change
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """The median of revisions between two steps, and its 95 % confidence interval (the range of fewer than six)."""

    first: int
    last: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """The measurements of a curve under the same conditions.

    Attributes:
        points: in git's order.
    """

    device_name: str
    conditions: Mapping[str, str]
    points: tuple[Point, ...]
    levels: tuple[Level, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Mark:
    """Where a curve goes on under other conditions: index of the first revision there, and what changed."""

    place: int
    text: str


@dataclass(frozen=True)
class Curve:
    """One cost of one cell over revisions.

    Attributes:
        label: of the model.
    """

    label: str
    task: str
    resolution: int
    quantity: Quantity
    series: tuple[Series, ...]
    marks: tuple[Mark, ...]

    @property
    def steps(self) -> list[tuple[Series, Step]]:
        """Every step, in git's order."""
        return sorted(((each, step) for each in self.series for step in each.steps), key=lambda pair: pair[1].place)


def curves(kept: Sequence[Kept], commits: Sequence[Commit]) -> list[Curve]:
    """Return a curve for each cell and judged cost, by task, resolution, model and cost.

    Args:
        kept: what revisions measured; those that are not in ``commits`` are left out.
        commits: the revisions measured, in git's order.
    """
    places = {commit.hash: i for i, commit in enumerate(commits)}
    kept = [each for each in kept if each.revision in places]
    cells = settings_of([each.record for each in kept])
    named = labels_of([Asked.of(each.record, cell) for each, cell in zip(kept, cells)])
    groups: dict[tuple[str, int, str, str], list[Kept]] = defaultdict(list)
    for each, cell, label in zip(kept, cells, named):
        groups[cell.task, cell.resolution, label, cell.id].append(each)
    found = []
    for (task, resolution, label, _), own in sorted(groups.items()):
        for quantity in quantities(None, "timed", "exact"):
            series = tuple(_series(own, quantity, places, commits))
            if series:
                found.append(Curve(label, task, resolution, quantity, series, tuple(_marks(series))))
    return found


def _series(
    kept: Sequence[Kept], quantity: Quantity, places: Mapping[str, int], commits: Sequence[Commit]
) -> Iterator[Series]:
    groups: dict[tuple[tuple[str, str], ...], list[Kept]] = defaultdict(list)
    for each in kept:
        value = at(each.record, str(quantity.where))
        if value is not None and math.isfinite(value) and value > 0:
            groups[tuple(of_times(each.record, each.environment).items())].append(each)
    for conditions, own in groups.items():
        by_place: dict[tuple[int, bool], list[Kept]] = defaultdict(list)
        for each in own:
            by_place[places[each.revision], each.dirty].append(each)
        points = tuple(
            _point(commits[place], place, by_place[place, dirty], quantity) for place, dirty in sorted(by_place)
        )
        yield _judged(Series(own[0].environment.device_name, dict(conditions), points), quantity)


def _point(commit: Commit, place: int, kept: Sequence[Kept], quantity: Quantity) -> Point:
    timed = quantity.rule == "timed"
    quiet = [each for each in kept if not (timed and each.record.latency[str(quantity.step)].unquiet)]
    used = quiet or kept
    values = tuple(float(at(each.record, str(quantity.where))) for each in used)
    versions = {**used[0].environment.versions, **used[0].record.packages}
    return Point(place, commit, values, kept[0].dirty, not quiet, versions)


def _judged(series: Series, quantity: Quantity) -> Series:
    """Return a series with its steps and the levels between them."""
    points = [point for point in series.points if not point.dirty]
    if not points:
        return series
    logs = [math.log(point.value) for point in points]
    if quantity.rule == "timed":
        found = changes(logs, statistics.median_low(len(point.values) for point in points))
    else:
        found = _differences(logs, quantity.group.allowed)
    steps = tuple(_step(points, change) for change in found)
    ends = [0, *(change.at for change in found), len(points)]
    levels = tuple(_level(points[start:end]) for start, end in pairwise(ends))
    return replace(series, steps=steps, levels=levels)


def _differences(logs: Sequence[float], allowed: float) -> list[Change]:
    """Return the steps of a number that does not vary between runs: wherever it changes by more than is allowed."""
    found = []
    for i in range(1, len(logs)):
        if abs(math.expm1(logs[i] - logs[i - 1])) > allowed + 1e-9:
            ratio = math.exp(logs[i] - logs[i - 1])
            found.append(Change(i, i, i, ratio, ratio, ratio))
    return found


def _step(points: Sequence[Point], change: Change) -> Step:
    old, new = points[change.at - 1], points[change.at]
    packages = tuple(
        f"{name} {old.versions.get(name, 'none')} -> {new.versions.get(name, 'none')}"
        for name in sorted(old.versions.keys() | new.versions.keys())
        if name != "attn-bench" and old.versions.get(name) != new.versions.get(name)
    )
    return Step(points[change.first - 1].commit, points[change.last].commit, new.place, change, packages)


def _level(points: Sequence[Point]) -> Level:
    values = [point.value for point in points]
    return Level(points[0].place, points[-1].place, statistics.median(values), *median_interval(values))


def _marks(series: Sequence[Series]) -> Iterator[Mark]:
    """Yield where a curve passes from one series to another; only the first time that a series is met."""
    starts = sorted(series, key=lambda each: each.points[0].place)
    for old, new in pairwise(starts):
        yield Mark(new.points[0].place, _passage(old, new))


def _passage(old: Series, new: Series) -> str:
    """Say what differs between the conditions of two series."""
    found: list[str] = []
    for name in sorted(old.conditions.keys() | new.conditions.keys()):
        before, after = (each.conditions.get(name, "not set") for each in (old, new))
        if before == after:
            continue
        if name == "machine":
            alike = old.device_name == new.device_name
            sides = (before, after) if alike else (old.device_name, new.device_name)
            found.insert(0, f"machine: {sides[0]} -> {sides[1]}")
        else:
            found.append(f"{name.replace('_', ' ')}: {before} -> {after}")
    return "; ".join(found)
