"""The history of a store as text, and its steps for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.errors import UserError
from attn_bench.format import count, human, plain
from attn_bench.history.commits import SHORT, Commit, Commits, measured
from attn_bench.history.kept import History, of_results
from attn_bench.history.series import Curve, Level, Series, Step, curves
from attn_bench.results.quantities import Quantity
from attn_bench.results.store import Store

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Change:
    """A step of a curve, with the commits that it can be due to.

    Attributes:
        before, after: the levels around it.
        commits: that the revision after it has and the one before does not.
    """

    curve: Curve
    series: Series
    step: Step
    before: Level
    after: Level
    commits: tuple[Commit, ...]

    @property
    def range(self) -> str:
        """The commits as git takes them, ``before..after``."""
        return f"{self.step.before.short}..{self.step.after.short}"

    @property
    def worse(self) -> bool:
        """Whether the cost rose."""
        return (self.step.change.ratio > 1) != self.curve.quantity.higher

    @property
    def percent(self) -> str:
        """The change in percent, with its confidence interval."""
        change = self.step.change
        size = f"{100 * (change.ratio - 1):+.1f} %"
        if change.low == change.high:
            return size
        return f"{size} [{100 * (change.low - 1):+.1f}, {100 * (change.high - 1):+.1f}]"


@dataclass(frozen=True)
class Told:
    """The history of a branch.

    Attributes:
        name: of the repository's folder.
        commits: the revisions measured, in git's order.
        changes: the newest first.
        notes: what was left out.
    """

    name: str
    commits: Sequence[Commit]
    curves: Sequence[Curve]
    changes: Sequence[Change]
    notes: Sequence[str]

    @property
    def passages(self) -> list[tuple[Commit, str]]:
        """Where curves go on under other conditions: the first revision there, and what changed; each once."""
        found = {(mark.place, mark.text) for curve in self.curves for mark in curve.marks}
        return [(self.commits[place], text) for place, text in sorted(found, reverse=True)]

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        steps = count(len(self.changes), "step") if self.changes else "no step"
        return f"{steps} in {count(len(self.curves), 'curve')} over {count(len(self.commits), 'revision')}"


def add(
    results: Sequence[Path], repo: Path, store: Path, revision: str | None, *, dirty: bool
) -> tuple[list[Path], int, str]:
    """Add results folders of a revision to a store; return the files written, how many cells, and the commit.

    Raises:
        UserError: as of :func:`.kept.of_results`, :func:`.commits.measured` and :class:`.kept.History`.
    """
    history = History(store)
    kept = [each for folder in results for each in of_results(Store.open(folder))]
    commit, dirty = measured(repo, revision, {each.environment.git for each in kept}, dirty=dirty)
    return history.add([replace(each, revision=commit, dirty=dirty) for each in kept]), len(kept), commit


def tell(repo: Path, store: Path, branch: str = "HEAD") -> Told:
    """Return the history in a store of the commits that lead to ``branch``.

    Raises:
        UserError: no repository, no such revision, no history, or none of these commits was measured.
    """
    kept = History(store).read()
    commits = Commits(repo, branch)
    revisions = {each.revision for each in kept}
    order = commits.ordered(revisions)
    unknown = commits.unknown(revisions)
    if not order:
        raise UserError(f"--store {store}: nothing to show; {unknown}")
    found = curves(kept, order)
    changes = [_change(curve, series, step, commits) for curve in found for series, step in curve.steps]
    changes.sort(key=lambda each: (-each.step.place, each.curve.task, each.curve.resolution, each.curve.label))
    dirty = len({each.revision for each in kept if each.dirty and each.revision in {c.hash for c in order}})
    notes = [
        unknown,
        f"{count(dirty, 'revision')} measured with uncommitted changes: shown, but not judged" if dirty else "",
    ]
    return Told(commits.repository.root.name, order, found, changes, [note for note in notes if note])


def _change(curve: Curve, series: Series, step: Step, commits: Commits) -> Change:
    i = series.steps.index(step)
    between = commits.between(step.before.hash, step.after.hash)
    return Change(curve, series, step, series.levels[i], series.levels[i + 1], tuple(between))


def value_text(value: float, quantity: Quantity) -> str:
    """Return a value with its unit."""
    return f"{human(value)} {quantity.unit}".strip()


def console(told: Told) -> RenderableType:
    """Return the steps as a table for the terminal, then what was left out, and the outcome."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if told.changes:
        table = Table(box=None, pad_edge=False)
        for name in ("Model", "Task", "at", "Metric", "Before", "After", "Change [95 %]", "Commits", "Machine"):
            right = name in ("at", "Before", "After")
            table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "Machine")
        for each in told.changes:
            quantity = each.curve.quantity
            number = f" ({count(len(each.commits), 'commit')})"
            cells = (
                plain(each.curve.label), plain(each.curve.task), str(each.curve.resolution), quantity.name,
                value_text(each.before.value, quantity), value_text(each.after.value, quantity), each.percent,
                each.range + number, plain(each.series.device_name),
            )  # fmt: skip
            table.add_row(*(Text(cell, "red" if i == 6 and each.worse else "") for i, cell in enumerate(cells)))
        parts.append(table)
    parts += [Text(f"  {line}", "dim") for line in _remarks(told)]
    parts += [Text(note, "yellow") for note in told.notes]
    parts.append(Text(told.headline, "bold"))
    return Group(*parts)


def _remarks(told: Told) -> list[str]:
    found = [
        f"{each.range}: packages changed as well: {', '.join(each.step.packages)}"
        for each in told.changes
        if each.step.packages
    ]
    marks = [f"from {commit.short} on {text}; not compared across" for commit, text in told.passages]
    return list(dict.fromkeys(plain(line, 200) for line in (*found, *marks)))


def plain_data(told: Told) -> Mapping[str, Any]:
    """Return steps, curves and revisions for other programs."""
    return {
        "headline": told.headline,
        "notes": told.notes,
        "revisions": told.commits,
        "steps": [
            {
                **_names(each.curve), "machine": each.series.device_name, "conditions": each.series.conditions,
                "before": each.before.value, "after": each.after.value, "ratio": each.step.change.ratio,
                "low": each.step.change.low, "high": each.step.change.high, "range": each.range,
                "commits": [commit.hash for commit in each.commits], "packages": each.step.packages,
            }
            for each in told.changes
        ],
        "curves": [
            {**_names(curve), "series": [_plain_series(series) for series in curve.series], "marks": curve.marks}
            for curve in told.curves
        ],
    }  # fmt: skip


def _names(curve: Curve) -> dict[str, Any]:
    quantity = curve.quantity
    return {
        "model": curve.label, "task": curve.task, "resolution": curve.resolution, "metric": quantity.name,
        "unit": quantity.unit,
    }  # fmt: skip


def _plain_series(series: Series) -> dict[str, Any]:
    points = [
        {
            "revision": point.commit.hash[:SHORT], "place": point.place, "values": point.values,
            "dirty": point.dirty, "disturbed": point.disturbed,
        }
        for point in series.points
    ]  # fmt: skip
    return {"machine": series.device_name, "conditions": series.conditions, "points": points, "levels": series.levels}
