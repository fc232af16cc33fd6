"""What the HTML page shows in its tables: text, and what to sort it by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attn_bench.format import human, significant
from attn_bench.report.scaling import Scaling
from attn_bench.report.summary import Entry, Summary
from attn_bench.report.tables import NOTHING, Column, columns, failures, is_best, seeds_text, status_text
from attn_bench.results.quantities import drawn

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Value:
    """A number in a table: its text, itself, whether it is the best of its resolution, and its interval."""

    text: str = NOTHING
    number: float | None = None
    best: bool = False
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One model trained at one resolution and tested at one."""

    model: str
    resolution: int
    tested: int
    values: tuple[Value, ...]
    status: str
    failed: bool


@dataclass(frozen=True)
class Results:
    """The table of all entries; ``transfer`` where some are tested at a resolution they were not trained at."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    transfer: bool


def results(summary: Summary, names: Mapping[str, str]) -> Results:
    """Return a row per entry, by resolution and model."""
    shown = tuple(column for column in columns(summary.metrics) if summary.has(column.name))
    order = [*summary.models, *summary.references]
    entries = sorted(
        (*summary.entries, *summary.transfers),
        key=lambda e: (e.resolution, order.index(e.model), e.eval_resolution != e.resolution, e.eval_resolution),
    )
    rows = tuple(
        Row(
            model=names[entry.model],
            resolution=entry.resolution,
            tested=entry.eval_resolution,
            values=tuple(_value(summary, column, entry) for column in shown),
            status=status_text(entry),
            failed=bool(entry.failures),
        )
        for entry in entries
    )
    return Results(shown, rows, bool(summary.transfers))


def _value(summary: Summary, column: Column, entry: Entry) -> Value:
    stat = entry.values.get(column.name)
    if stat is None:
        return Value()
    wide = column.kind != "count" and stat.high > stat.low
    return Value(
        text=column.text(entry),
        number=stat.mean,
        best=entry.resolution == entry.eval_resolution and is_best(summary, column, entry),
        interval=f"{significant(stat.low)} to {significant(stat.high)}" if wide else "",
    )


@dataclass(frozen=True)
class Model:
    """What a model is: its name in tables, its whole name where that is cut, what was set, and what it claims."""

    name: str
    whole: str
    parameters: str
    claim: str
    options: str


def models(table: pd.DataFrame, summary: Summary, names: Mapping[str, str]) -> list[Model]:
    """Return every model of the table."""
    made = []
    for label in (*summary.models, *summary.references):
        rows = table[table["model"].astype(str) == label]
        counts = sorted({e.values["parameters"].mean for e in summary.of(label) if "parameters" in e.values})
        made.append(
            Model(
                name=names[label],
                whole="" if names[label] == label else label,
                parameters=" to ".join(dict.fromkeys(human(count) for count in counts[:1] + counts[-1:])) or NOTHING,
                claim=next(iter(_known(rows, "complexity")), NOTHING),
                options="; ".join(dict.fromkeys(_options(text) for text in _known(rows, "options"))) or "defaults",
            )
        )
    return made


def _known(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in rows[column].dropna()] if column in rows.columns else []


def _options(text: str) -> str:
    try:
        return ", ".join(f"{key}={value}" for key, value in json.loads(text).items())
    except (ValueError, AttributeError):
        return text


@dataclass(frozen=True)
class Fault:
    """One way in which an entry failed."""

    model: str
    where: str
    seeds: str
    status: str
    reason: str


def faults(summary: Summary, names: Mapping[str, str]) -> list[Fault]:
    """Return every way in which an entry failed, with the whole reason."""
    return [
        Fault(names[entry.model], where, seeds_text(failure), failure.status, failure.reason or "")
        for entry, where, failure in failures(summary)
    ]


def gaps(summary: Summary, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what entries lack though they are ok, with the reason, and what their models changed: who, and what."""
    found = []
    for entry in summary.entries:
        who = f"{names[entry.model]} at {entry.resolution}"
        found += [(f"{who} ({seeds_text(gap)})", f"without {gap.reason}") for gap in entry.gaps]
        found += [(who, f"the model changed {text}") for text in entry.changed]
    return found


@dataclass(frozen=True)
class Reach:
    """How far up in resolution a model goes.

    Attributes:
        fits: the largest resolution at which every seed is ok.
        above: what became of it at the next one, if it was run there.
        by_resolution: peak memory or status at each resolution.
    """

    model: str
    fits: str
    above: str
    by_resolution: tuple[Value, ...]


def reaches(summary: Summary, names: Mapping[str, str]) -> list[Reach]:
    """Return the reach of every model; empty if all were ok wherever they were run."""
    if not any(entry.failures for entry in summary.entries):
        return []
    column = next((c for c in ("peak_memory_train_mib", "peak_memory_forward_mib") if summary.has(c)), "")
    found = []
    for model in summary.models:
        entries = {entry.resolution: entry for entry in summary.of(model)}
        fits = max((r for r, entry in entries.items() if not entry.failures), default=0)
        next_one = min((r for r in entries if r > fits), default=0)
        above = f"{status_text(entries[next_one])} at {next_one}" if next_one else NOTHING
        cells = tuple(_memory(entries.get(resolution), column) for resolution in summary.resolutions)
        found.append(Reach(names[model], str(fits) if fits else NOTHING, above, cells))
    return found


def _memory(entry: Entry | None, column: str) -> Value:
    if entry is None:
        return Value()
    stat = entry.values.get(column)
    if entry.failures or stat is None:
        return Value(status_text(entry))
    return Value(f"{significant(stat.mean)} MiB", stat.mean)


def fronts(summary: Summary, names: Mapping[str, str]) -> list[tuple[int, list[str]]]:
    """Return, for each resolution, what no other model there is both faster and better than, fastest first."""
    from attn_bench.report.trade_off import pareto_front

    cost, score = "latency_forward_ms", summary.primary
    higher = summary.metrics[score].direction == "higher"
    found = []
    for resolution in summary.resolutions:
        rivals = [
            e for e in summary.entries
            if e.resolution == resolution and e.model in summary.models and cost in e.values and score in e.values
        ]  # fmt: skip
        front = pareto_front(rivals, cost, score, higher=higher)
        if front:
            said = [
                f"{names[e.model]} ({significant(e.values[cost].mean)}{e.sign(cost)} ms, "
                f"{score} {significant(e.values[score].mean)})"
                for e in front
            ]
            found.append((resolution, said))
    return found


@dataclass(frozen=True)
class Exponents:
    """Fitted exponents of one model: a cell per cost, and what is to be said about them."""

    model: str
    claim: str
    values: tuple[Value, ...]
    flags: tuple[str, ...]


def exponents(found: Scaling, summary: Summary, names: Mapping[str, str]) -> tuple[list[str], list[Exponents]]:
    """Return the costs fitted, and a row per model."""
    shown = [cost for cost in drawn() if any(fit.cost == cost for fit in found.fits)]
    rows = []
    for model in summary.models:
        mine = found.of(model)
        if mine:
            values = tuple(
                Value(
                    f"{mine[cost].exponent:.2f}{' †' if mine[cost].flag else ''}",
                    mine[cost].exponent,
                    interval=f"{mine[cost].low:.2f} to {mine[cost].high:.2f}; {mine[cost].first} to {mine[cost].last}",
                )
                if cost in mine
                else Value()
                for cost in shown
            )
            flags = tuple(f"{drawn()[fit.cost].axis}: {fit.flag}" for fit in mine.values() if fit.flag)
            rows.append(Exponents(names[model], next(iter(mine.values())).claim or NOTHING, values, flags))
    return [drawn()[cost].axis.capitalize() for cost in shown], rows
