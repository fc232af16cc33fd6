"""Tables of how costs grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attn_bench.analysis.scaling import Crossover, Curve, Fit, Uncrossed, crossovers, curves, fits, uncrossed
from attn_bench.format import count, for_markdown, rounded
from attn_bench.report.summary import Summary, is_reference
from attn_bench.results.quantities import drawn

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group

SHOWN_PAIRS = 6


@dataclass(frozen=True)
class Scaling:
    """Curves, fits and crossovers of a results table, constant predictors left out.

    Attributes:
        uncrossed: pairs for which nothing can be said beyond the sizes measured.
    """

    curves: Mapping[str, Mapping[str, Curve]]
    fits: Sequence[Fit]
    crossovers: Sequence[Crossover]
    uncrossed: Sequence[Uncrossed] = ()

    def of(self, model: str) -> dict[str, Fit]:
        """Return the fits of a model by cost."""
        return {fit.cost: fit for fit in self.fits if fit.model == model}


def scaling(table: pd.DataFrame) -> Scaling | None:
    """Analyse a table; None if no model has a cost at three sizes or more."""
    rivals = table[[not is_reference(str(model)) for model in table["model"]]]
    found = fits(rivals)
    if not found:
        return None
    by_cost = {cost: curves(rivals, cost) for cost in drawn()}
    return Scaling(
        {cost: of for cost, of in by_cost.items() if of},
        found,
        [crossing for cost in drawn() for crossing in crossovers(rivals, found, cost)],
        [pair for cost in drawn() for pair in uncrossed(rivals, found, cost)],
    )


def markdown(found: Scaling, summary: Summary) -> str:
    """Return the tables of exponents and of crossovers."""
    names = summary.names
    shown = [cost for cost in drawn() if any(fit.cost == cost for fit in found.fits)]
    head = ["Model", "Claim", *(drawn()[cost].axis.capitalize() for cost in shown)]
    lines = [f"| {' | '.join(head)} |", f"|{' :-- |' * 2}{' --: |' * len(shown)}"]
    notes = []
    for model in summary.models:
        mine = found.of(model)
        if not mine:
            continue
        claim = next(iter(mine.values())).claim
        cells = [_exponent(mine[cost]) if cost in mine else "-" for cost in shown]
        lines.append(f"| {for_markdown(names[model])} | {claim or '-'} | {' | '.join(cells)} |")
        notes += [f"- {for_markdown(names[model])}, {drawn()[f.cost].axis}: {f.flag}" for f in mine.values() if f.flag]
    explained = (
        f"Slope of log cost over log number of {summary.points}, with its 95 % confidence interval (Student's t) and "
        f"the range of {summary.points} it is fitted over, above the sizes at which overhead dominates."
    )
    parts = ["\n".join(lines), explained]
    if notes:
        parts.append("† with a reservation:\n\n" + "\n".join(notes))
    if said := crossing_lines(found, names, summary.points):
        parts.append("### Crossovers\n\n" + "\n".join(f"- {for_markdown(line)}" for line in said))
    return "\n\n".join(parts)


def _exponent(fit: Fit) -> str:
    mark = " †" if fit.flag else ""
    return f"{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f}){mark}, {fit.first}-{fit.last}"


def crossing_lines(found: Scaling, names: Mapping[str, str], points: str) -> list[str]:
    """Say where models change places, and for which of them that cannot be told beyond the sizes measured."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for pair in found.uncrossed:
        said = f"{names[pair.one]} and {names[pair.other]}"
        by_reason.setdefault((pair.cost, pair.reason), []).append(said)
    lines = [crossing_text(crossing, names, points) for crossing in found.crossovers]
    for (cost, reason), pairs in by_reason.items():
        shown = "; ".join(pairs[:SHOWN_PAIRS])
        more = f"; and {count(len(pairs) - SHOWN_PAIRS, 'more pair')}" if len(pairs) > SHOWN_PAIRS else ""
        lines.append(f"{drawn()[cost].axis}: not extrapolated beyond the sizes measured, {reason}: {shown}{more}")
    return lines


def crossing_text(crossing: Crossover, names: Mapping[str, str], points: str) -> str:
    """Say from how many points on which model is cheaper, and how well that is known."""
    where = f"about {rounded(crossing.tokens)} {points} "
    if crossing.extrapolated:
        where += "(extrapolated)"
    elif crossing.low is None or crossing.high is None:
        where += "(not certain: the intervals overlap)"
    else:
        where += f"(between {crossing.low:.0f} and {crossing.high:.0f})"
    cheaper, dearer = names[crossing.cheaper], names[crossing.dearer]
    return f"{drawn()[crossing.cost].axis}: {cheaper} is cheaper than {dearer} from {where}"


def console(found: Scaling, summary: Summary) -> Group:
    """Return the exponents of latency and memory for the terminal, and notes on them, one a line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    names = summary.names
    shown = [cost for cost in drawn() if any(fit.cost == cost for fit in found.fits)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column(f"exponent in {summary.points}")
    made.add_column("claim")
    for cost in shown:
        short = drawn()[cost].axis.replace("latency", "ms").replace("peak memory", "MiB")
        made.add_column(short.replace("train-step", "train").replace("forward", "fwd"), no_wrap=True)
    flagged = []
    for model in summary.models:
        mine = found.of(model)
        if mine:
            cells = [f"{mine[c].exponent:.2f}{'†' if mine[c].flag else ''}" if c in mine else "-" for c in shown]
            made.add_row(Text(names[model]), next(iter(mine.values())).claim or "-", *cells)
            flagged += [f"† {names[model]}, {drawn()[f.cost].axis}: {f.flag}" for f in mine.values() if f.flag]
    return Group(made, *map(Text, flagged))
