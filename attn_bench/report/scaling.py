"""Figure and tables of how costs grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attn_bench.analysis.scaling import COSTS, Crossover, Curve, Fit, crossovers, curves, fits
from attn_bench.report.summary import Summary, is_reference
from attn_bench.report.text import distinct, for_figure, for_markdown, significant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from attn_bench.report.style import Look

PANEL_WIDTH, PANEL_HEIGHT, LEGEND_WIDTH = 4.9, 4.0, 2.4


@dataclass(frozen=True)
class Scaling:
    """Curves, fits and crossovers of a results table, constant predictors left out."""

    curves: Mapping[str, Mapping[str, Curve]]
    fits: Sequence[Fit]
    crossovers: Sequence[Crossover]

    def of(self, model: str) -> dict[str, Fit]:
        """Return the fits of a model by cost."""
        return {fit.cost: fit for fit in self.fits if fit.model == model}


def scaling(table: pd.DataFrame) -> Scaling | None:
    """Analyse a table; None if no model has a cost at three sizes or more."""
    rivals = table[[not is_reference(str(model)) for model in table["model"]]]
    found = fits(rivals)
    if not found:
        return None
    by_cost = {cost: curves(rivals, cost) for cost in COSTS}
    return Scaling(
        {cost: of for cost, of in by_cost.items() if of},
        found,
        [crossing for cost in COSTS for crossing in crossovers(rivals, found, cost)],
    )


def markdown(found: Scaling, summary: Summary) -> str:
    """Return the tables of exponents and of crossovers."""
    names = distinct(summary.models, 60)
    shown = [cost for cost in COSTS if any(fit.cost == cost for fit in found.fits)]
    head = ["Model", "Claim", *(COSTS[cost].capitalize() for cost in shown)]
    lines = [f"| {' | '.join(head)} |", f"|{' :-- |' * 2}{' --: |' * len(shown)}"]
    notes = []
    for model in summary.models:
        mine = found.of(model)
        if not mine:
            continue
        claim = next(iter(mine.values())).claim
        cells = [_exponent(mine[cost]) if cost in mine else "-" for cost in shown]
        lines.append(f"| {for_markdown(names[model])} | {claim or '-'} | {' | '.join(cells)} |")
        notes += [f"- {for_markdown(names[model])}, {COSTS[f.cost]}: {f.flag}" for f in mine.values() if f.flag]
    parts = [
        "\n".join(lines),
        "Slope of log cost over log tokens, with its 95 % confidence interval (Student's t) and the range of tokens it "
        "is fitted over, above the sizes at which overhead dominates. † is explained below the table.",
    ]
    if notes:
        parts.append("\n".join(notes))
    if found.crossovers:
        lines = [f"- {for_markdown(crossing_text(crossing, names))}" for crossing in found.crossovers]
        parts.append("### Crossovers\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _exponent(fit: Fit) -> str:
    mark = " †" if fit.flag else ""
    return f"{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f}){mark}, {fit.first}-{fit.last}"


def crossing_text(crossing: Crossover, names: Mapping[str, str]) -> str:
    """Say from where on which model is cheaper, with the interval of that size."""
    if crossing.extrapolated:
        where = f"about {significant(crossing.tokens, 2)} tokens (extrapolated)"
    elif crossing.low is None or crossing.high is None:
        where = f"{crossing.tokens:.0f} tokens"
    else:
        where = f"{crossing.tokens:.0f} tokens ({crossing.low:.0f} to {crossing.high:.0f})"
    cheaper, dearer = names[crossing.cheaper], names[crossing.dearer]
    return f"{COSTS[crossing.cost]}: {cheaper} is cheaper than {dearer} from {where}"


def console(found: Scaling, summary: Summary) -> Table:
    """Return the exponents of latency and memory for the terminal."""
    from rich.table import Table
    from rich.text import Text

    names = distinct(summary.models, 24)
    shown = [cost for cost in COSTS if any(fit.cost == cost for fit in found.fits)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("exponent in tokens")
    made.add_column("claim")
    for cost in shown:
        short = COSTS[cost].replace("latency", "ms").replace("peak memory", "MiB").replace("train-step", "train")
        made.add_column(short, no_wrap=True)
    flagged = []
    for model in summary.models:
        mine = found.of(model)
        if mine:
            cells = [f"{mine[c].exponent:.2f}{'†' if mine[c].flag else ''}" if c in mine else "-" for c in shown]
            made.add_row(Text(names[model]), next(iter(mine.values())).claim or "-", *cells)
            flagged += [f"† {names[model]}, {COSTS[f.cost]}: {f.flag}" for f in mine.values() if f.flag]
    if flagged:
        made.caption = Text("\n".join(flagged))
        made.caption_justify = "left"
    return made


def figure(found: Scaling, summary: Summary) -> Figure:
    """Draw every cost against tokens, log-log, with the fitted lines, their exponents, and slopes to compare with."""
    from matplotlib.figure import Figure

    from attn_bench.report.style import looks

    look = looks(summary)
    shown = list(found.curves)
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    drawn = Figure(figsize=((PANEL_WIDTH + LEGEND_WIDTH) * columns, PANEL_HEIGHT * rows), layout="constrained")
    for i, cost in enumerate(shown):
        axes = drawn.add_subplot(rows, columns, i + 1)
        _draw(axes, cost, found, look)
    return drawn


def _draw(axes: Axes, cost: str, found: Scaling, look: Mapping[str, Look]) -> None:
    import numpy as np

    from attn_bench.report.style import log_axis

    by_model = {model: curve for model, curve in found.curves[cost].items() if model in look}
    tokens = np.concatenate([curve.tokens for curve in by_model.values()])
    costs = np.concatenate([curve.cost for curve in by_model.values()])
    log_axis(axes, "y", list(costs))
    log_axis(axes, "x", list(tokens))
    for model, curve in by_model.items():
        its, fit = look[model], found.of(model).get(cost)
        label = its.label if fit is None else f"{its.label}  {_short(fit)}"
        axes.plot(
            curve.tokens, curve.cost, linestyle="", marker=its.marker, color=its.colour, markeredgecolor="white",
            markersize=6, label=label, zorder=3,
        )  # fmt: skip
        axes.errorbar(
            curve.tokens,
            curve.cost,
            yerr=_bars(curve),
            fmt="none",
            ecolor=its.colour,
            elinewidth=1,
            capsize=2,
            zorder=2,
        )
        if fit is not None:
            ends = np.array([fit.first, fit.last], float)
            axes.plot(ends, [fit.at(end) for end in ends], color=its.colour, linewidth=1.4, zorder=2)
    low, high = tokens.min(), tokens.max()
    for slope in (1, 2):
        # Through the middle of the cheapest size, so that every curve starts near the guides.
        start = float(np.exp(np.log(costs[tokens == low]).mean()))
        axes.plot([low, high], [start, start * (high / low) ** slope], color="0.75", linestyle=":", zorder=1)
        reach = min(high, low * (axes.get_ylim()[1] / start) ** (1 / slope))
        axes.annotate(
            f"slope {slope}", (reach, start * (reach / low) ** slope), xytext=(-4, -2), textcoords="offset points",
            fontsize=7, color="0.5", ha="right", va="top",
        )  # fmt: skip
    unit = "ms" if cost.endswith("_ms") else "MiB"
    axes.set_title(COSTS[cost], loc="left")
    axes.set_xlabel("tokens")
    axes.set_ylabel(for_figure(unit))
    # Beside the axes: inside it would hide points.
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
    axes.legend(**place, title="exponent (95 % interval)", fontsize=7.5, title_fontsize=7.5)


def _short(fit: Fit) -> str:
    return f"{fit.exponent:.2f}{'†' if fit.flag else ''} ({fit.low:.2f} to {fit.high:.2f})"


def _bars(curve: Curve) -> list[Any]:
    """Return how far the intervals reach below and above each point."""
    return [(curve.cost - curve.low).clip(min=0), (curve.high - curve.cost).clip(min=0)]
