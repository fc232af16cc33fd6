"""Tables of how costs grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attn_bench.analysis.scaling import Crossover, Fit, Scaling
from attn_bench.format import count, for_markdown, rounded
from attn_bench.report.summary import Summary
from attn_bench.report.tables import NOTHING, lines
from attn_bench.results.quantities import drawn

if TYPE_CHECKING:
    from rich.console import Group

SHOWN_PAIRS = 6


def fitted(found: Scaling, summary: Summary) -> list[tuple[str, str, list[Fit | None]]]:
    """Return the name of each model with a fit, the complexity that it claims, and its fit of each cost."""
    rows = []
    for model in summary.models:
        if own := found.of(model):
            claimed = next(iter(own.values())).complexity or NOTHING
            rows.append((summary.names[model], claimed, [own.get(cost.column) for cost in found.costs]))
    return rows


def flags(found: Scaling, summary: Summary) -> list[str]:
    """Return why some exponents are unreliable or differ from the claim."""
    each = (fit for model in summary.models for fit in found.of(model).values())
    return [f"{summary.names[fit.model]}, {drawn()[fit.cost].axis}: {fit.flag}" for fit in each if fit.flag]


def exponent(fit: Fit | None) -> str:
    """Return an exponent, with a sign if it is flagged."""
    return NOTHING if fit is None else f"{fit.exponent:.2f}{' †' if fit.flag else ''}"


def markdown(found: Scaling, summary: Summary) -> str:
    """Return the tables of exponents and of crossovers."""
    heads = ["Model", "Claimed complexity", *(cost.axis.capitalize() for cost in found.costs)]
    rows = [
        [for_markdown(name), claimed, *map(_interval, fits)] for name, claimed, fits in fitted(found, summary)
    ]  # fmt: skip
    parts = [
        lines(heads, range(2, len(heads)), rows),
        f"Slope of log cost over log number of {summary.points}, with its 95 % confidence interval (Student's t) and "
        f"the range of {summary.points} it is fitted over, above the sizes at which overhead dominates.",
    ]
    if flagged := flags(found, summary):
        parts.append("† Notes:\n\n" + "\n".join(f"- {for_markdown(line)}" for line in flagged))
    if crossings := crossing_lines(found, summary.names, summary.points):
        parts.append("### Crossovers\n\n" + "\n".join(f"- {for_markdown(line)}" for line in crossings))
    return "\n\n".join(parts)


def _interval(fit: Fit | None) -> str:
    if fit is None:
        return NOTHING
    mark = " †" if fit.flag else ""
    return f"{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f}){mark}, {fit.first}-{fit.last}"


def crossing_lines(found: Scaling, names: Mapping[str, str], points: str) -> list[str]:
    """Return lines on where two models' costs cross, and for which pairs that is unknown beyond the sizes measured."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for pair in found.uncrossed:
        by_reason.setdefault((pair.cost, pair.reason), []).append(f"{names[pair.one]} and {names[pair.other]}")
    texts = [crossing_text(crossing, names, points) for crossing in found.crossovers]
    for (cost, reason), pairs in by_reason.items():
        shown = "; ".join(pairs[:SHOWN_PAIRS])
        more = f"; and {count(len(pairs) - SHOWN_PAIRS, 'more pair')}" if len(pairs) > SHOWN_PAIRS else ""
        texts.append(f"{drawn()[cost].axis}: not extrapolated beyond the sizes measured, {reason}: {shown}{more}")
    return texts


def crossing_text(crossing: Crossover, names: Mapping[str, str], points: str) -> str:
    """Return a line on which model becomes cheaper from how many points on, and how certain that is."""
    where = f"about {rounded(crossing.tokens)} {points} "
    if crossing.extrapolated:
        where += "(extrapolated)"
    elif crossing.low is None or crossing.high is None:
        where += "(uncertain: the intervals overlap)"
    else:
        where += f"(between {crossing.low:.0f} and {crossing.high:.0f})"
    cheaper, costlier = names[crossing.cheaper], names[crossing.costlier]
    return f"{drawn()[crossing.cost].axis}: {cheaper} is cheaper than {costlier} from {where}"


def console(found: Scaling, summary: Summary) -> Group:
    """Return the exponents of latency and memory for the terminal, with one note per line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"exponent in {summary.points}")
    table.add_column("claimed")
    for cost in found.costs:
        table.add_column(cost.axis, overflow="fold")
    for name, claimed, fits in fitted(found, summary):
        table.add_row(Text(name), claimed, *map(exponent, fits))
    return Group(table, *(Text(f"† {line}") for line in flags(found, summary)))
