"""What the HTML page says about each model besides the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from attn_bench.format import human, significant
from attn_bench.report.entry import Entry, Stat
from attn_bench.report.summary import Summary
from attn_bench.report.tables import NOTHING
from attn_bench.results.quantities import Quantity, quantities


def interval(quantity: Quantity, stat: Stat) -> str:
    """Return the lowest and highest value, if they differ."""
    wide = stat.high > stat.low and (quantity.unit or quantity.rule != "exact")
    return f"{significant(stat.low)} to {significant(stat.high)}" if wide else ""


@dataclass(frozen=True)
class About:
    """A model: its label, its package, the complexity that it claims, and the options that were set."""

    label: str
    package: str
    parameters: str
    complexity: str
    options: str


def models(summary: Summary) -> list[About]:
    """Return the description of every model."""
    found, options = [], options_of(summary)
    for label in (*summary.models, *summary.references):
        counts = sorted({e.values["parameters"].mean for e in summary.of(label) if "parameters" in e.values})
        about = About(
            label,
            package="; ".join(map(_package, _known(summary, label, "model_version"))) or NOTHING,
            parameters=" to ".join(dict.fromkeys(human(count) for count in counts[:1] + counts[-1:])) or NOTHING,
            complexity=next(iter(_known(summary, label, "complexity")), NOTHING),
            options=options.get(label, "defaults"),
        )
        found.append(about)
    return found


def options_of(summary: Summary) -> dict[str, str]:
    """Return the options that were set, by the label of the model; models with defaults only have none."""
    if "options" not in summary.table.columns:
        return {}
    found: dict[str, list[str]] = {}
    for label, options in summary.table[["model", "options"]].dropna().drop_duplicates().to_numpy(dtype=str):
        found.setdefault(label, []).append(options_in_words(options))
    return {label: "; ".join(texts) for label, texts in found.items()}


def _known(summary: Summary, label: str, column: str) -> list[str]:
    if column not in summary.table.columns:
        return []
    values = summary.table.loc[summary.table["model"].astype(str) == label, column].dropna()
    return list(dict.fromkeys(map(str, values)))


def _package(version: str) -> str:
    """Return package, version and source digest in words."""
    package, _, digest = version.partition("+")
    return package.replace("==", " ") + (f", code {digest}" if digest else "")


def options_in_words(text: str) -> str:
    """Return the JSON of options in words."""
    try:
        return ", ".join(f"{key}={value}" for key, value in json.loads(text).items())
    except (ValueError, AttributeError):
        return text


@dataclass(frozen=True)
class Reach:
    """The largest resolution that a model reaches.

    Attributes:
        largest: the largest resolution at which every seed is ok; 0 if there is none.
        next_size: its status at the next resolution, if it was run there.
        entries: by resolution.
    """

    model: str
    largest: int
    next_size: str
    entries: dict[int, Entry]


def reaches(summary: Summary) -> Iterator[Reach]:
    """Yield the reach of every model; nothing if all of them were ok everywhere."""
    if not any(entry.failures for entry in summary.entries):
        return
    for model in summary.models:
        entries = {entry.resolution: entry for entry in summary.of(model)}
        largest = max((r for r, entry in entries.items() if not entry.failures), default=0)
        above = min((r for r in entries if r > largest), default=0)
        next_size = f"{entries[above].status} at {above}" if above else NOTHING
        yield Reach(summary.names[model], largest, next_size, entries)


def fronts(summary: Summary) -> list[tuple[int, list[str]]]:
    """Return the Pareto front of each resolution: models that no other one beats in both values, fastest first."""
    (cost,), score = quantities("trade-off"), summary.primary
    found = []
    for resolution in summary.resolutions:
        texts = [
            f"{summary.names[e.model]} ({significant(e.values[cost.column].mean)} {cost.unit}, "
            f"{score.label} {significant(e.values[score.column].mean)})"
            for e in summary.front(cost, resolution)
        ]
        if texts:
            found.append((resolution, texts))
    return found
