"""What ``--dry-run`` prints: the cells of a sweep, those of one variant together where there are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.format import count, distinct, plain
from attn_bench.results.labels import Asked, labels_of
from attn_bench.running.plan import Plan, Planned, total
from attn_bench.running.tuning import TRIAL_MARK
from attn_bench.sweep.cell import Cell

if TYPE_CHECKING:
    from rich.console import Group

# More lines than this are brought together: cells of one variant, then variants of one model.
MOST_LINES = 24
NAME_WIDTH = 48
Key = tuple[str, ...]


def shown(plan: Plan, folder: Path, *, timed: bool = False) -> Group:
    """Return the plan as a table with totals below it.

    Args:
        timed: whether steps were timed for it.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    groups = _groups(plan.cells)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    several = len({each.cell.task for each in plan.cells}) > 1
    table.add_column("model", overflow="fold")
    for title in (*(["task"] if several else []), "resolutions", "seeds", "cells", "there", "to run", "time", "disk"):
        table.add_column(title, justify="right", no_wrap=title not in ("resolutions", "there"))
    for name, group in groups:
        table.add_row(
            Text(name), *([group[0].cell.task] if several else []),
            _span(each.cell.resolution for each in group), _span(each.cell.seed for each in group),
            str(len(group)), _there(group), _to_run(group), _time(group), _disk(group),
        )  # fmt: skip
    lines = [Text(line, "yellow") for line in plan.notes]
    return Group(table, *lines, Text(_totals(plan, folder, timed)))


def _groups(cells: Sequence[Planned]) -> list[tuple[str, list[Planned]]]:
    """Return cells under a name: each alone, or as many together as it takes for the lines to fit a screen."""
    labels = _labels([each.cell for each in cells])
    short = distinct(labels, NAME_WIDTH)
    names = {each.cell.id: short[label] for label, each in zip(labels, cells)}
    for level in ("cell", "label", "model"):
        groups: dict[Key, list[Planned]] = {}
        for label, each in zip(labels, cells):
            key = (each.cell.task, _model(each.cell) if level == "model" else label)
            groups.setdefault((*key, each.cell.id) if level == "cell" else key, []).append(each)
        if len(groups) <= MOST_LINES:
            break
    return [(_name({names[each.cell.id] for each in group}, _model(group[0].cell)), group) for group in groups.values()]


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Return a label for each; trials of tuning are told apart from one another only, as a table never has them."""
    labels = dict[str, str]()
    for part in ([cell for cell in cells if cell.is_trial], [cell for cell in cells if not cell.is_trial]):
        asked = [Asked(cell.model, cell.task, None, cell.kind, None, cell) for cell in part]
        labels |= {cell.id: _before(cell) + label for cell, label in zip(part, labels_of(asked))}
    return [labels[cell.id] for cell in cells]


def _model(cell: Cell) -> str:
    return _before(cell) + cell.model


def _before(cell: Cell) -> str:
    return f"{TRIAL_MARK} " if cell.is_trial else ""


def _name(names: Collection[str], model: str) -> str:
    return next(iter(names)) if len(names) == 1 else plain(f"{model} ({count(len(names), 'variant')})", NAME_WIDTH)


def _span(values: object) -> str:
    found = sorted(set(values))  # type: ignore[call-overload]
    return ", ".join(map(str, found)) if len(found) < 5 else f"{found[0]} to {found[-1]} ({len(found)})"


def _there(group: Sequence[Planned]) -> str:
    statuses = Counter(each.there for each in group if each.there is not None)
    return ", ".join(f"{number} {status}" for status, number in statuses.items()) or "-"


def _to_run(group: Sequence[Planned]) -> str:
    run = [each for each in group if each.there is None]
    measured = sum(each.only_measured for each in run)
    return (f"{len(run)}" + (f" ({measured} only measured)" if measured else "")) if run else "-"


def _time(group: Sequence[Planned]) -> str:
    run = [each for each in group if each.there is None]
    seconds, unknown = total(each.seconds for each in run)
    return "-" if not run else "unknown" if unknown == len(run) else _at_least(duration(seconds), unknown)


def _disk(group: Sequence[Planned]) -> str:
    run = [each for each in group if each.there is None]
    disk, unknown = total(each.disk for each in run)
    return "-" if not run else "unknown" if unknown == len(run) else _at_least(size(disk), unknown)


def _at_least(text: str, unknown: int) -> str:
    return f"> {text}" if unknown else text


def _totals(plan: Plan, folder: Path, timed: bool) -> str:
    run = plan.to_run
    there = Counter(each.there for each in plan.cells if each.there is not None)
    statuses = ", ".join(f"{number} {status}" for status, number in there.items())
    text = f"{count(len(plan.cells), 'cell')} into {folder}: "
    text += f"{there.total()} there already ({statuses}), " if there else ""
    text += f"{len(run)} to run."
    seconds, unknown = total(each.seconds for each in run)
    if run and unknown < len(run):
        disk, _ = total(each.disk for each in run)
        of = f" for {len(run) - unknown} of them; nothing is known of the others" if unknown else ""
        source = "earlier cells and timed steps" if timed else "earlier cells"
        beside = f" one after another ({plan.at_a_time} train side by side)" if plan.at_a_time > 1 else ""
        text += f" Estimated from {source}: {duration(seconds)}{beside}, {size(disk)}{of}."
        text += "" if timed or not unknown else " --time-steps times a few of their steps."
    elif run:
        text += " Time and disk are unknown: no cell of these models and tasks has been run in this folder"
        text += "." if timed or not plan.unknown else "; --time-steps times a few steps of each."
    return f"{text} Nothing was written to it." if timed else f"{text} Nothing was run or written."


def duration(seconds: float) -> str:
    """Return seconds in words: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for limit, factor, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / factor
            return f"{value:.1f} {unit}" if unit == "h" or value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def size(number: float) -> str:
    """Return bytes in words."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"
