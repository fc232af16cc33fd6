"""The figure of how costs grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attn_bench.analysis.scaling import Curve, Fit, Scaling
from attn_bench.format import significant
from attn_bench.report.axes import log_axis
from attn_bench.report.overlap import LINE, MARKER, dashes, ring_size, same_lines, together
from attn_bench.report.points import Plot, Told, say
from attn_bench.report.style import Legend, Look, heading, looks
from attn_bench.report.summary import Summary
from attn_bench.results.quantities import drawn

PANEL_WIDTH, PANEL_HEIGHT, LEGEND_WIDTH = 4.0, 3.8, 2.4
# Inches: a model takes two lines of a panel's legend; title, guides and axis are above and below them.
MODEL_HEIGHT, LEGEND_HEAD = 0.37, 1.7
GUIDES = {1: ":", 2: "--"}
# With more models than this, one legend beside all panels has the names, and the table has the exponents.
MOST_EXPONENTS = 12


def figure(found: Scaling, summary: Summary) -> Figure:
    """Draw every cost against tokens, log-log, with the fitted lines, their exponents, and reference slopes."""
    look = looks(summary)
    shown = list(found.curves)
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    each = len(look) <= MOST_EXPONENTS
    height = max(PANEL_HEIGHT, LEGEND_HEAD + MODEL_HEIGHT * len(look)) if each else PANEL_HEIGHT
    legend = Legend(list(look.values()), {}, height * rows)
    width = (PANEL_WIDTH + LEGEND_WIDTH) * columns if each else PANEL_WIDTH * columns + legend.width
    drawn = Plot(figsize=(width, height * rows if each else legend.height), layout="constrained")
    for i, cost in enumerate(shown):
        axes = drawn.add_subplot(rows, columns, i + 1)
        _draw(axes, cost, found, look)
        _say(axes, cost, found, Told(summary))
        axes.set_xlabel(summary.points)
        if each:
            _legend(axes, cost, found, look)
    if not each:
        legend.draw(drawn)
    heading(drawn, summary, f"cost against {summary.points}")
    return drawn


def _draw(axes: Axes, cost: str, found: Scaling, look: Mapping[str, Look]) -> None:
    by_model = {model: curve for model, curve in found.curves[cost].items() if model in look}
    tokens = np.concatenate([curve.tokens for curve in by_model.values()])
    costs = np.concatenate([curve.cost for curve in by_model.values()])
    bounds = np.concatenate([bound for curve in by_model.values() for bound in (curve.low, curve.high)])
    log_axis(axes, "y", [*costs, *bounds])
    log_axis(axes, "x", list(tokens))
    spots = {
        (model, int(size)): (float(size), float(value))
        for model, curve in by_model.items()
        for size, value in zip(curve.tokens, curve.cost)
    }
    near = together(axes, spots, MARKER / 2 / 72 / PANEL_HEIGHT)
    alike = same_lines(together(axes, spots, LINE / 72 / PANEL_HEIGHT))
    for model, curve in by_model.items():
        its, fit = look[model], found.of(model).get(cost)
        for size, value in zip(curve.tokens, curve.cost):
            axes.plot(
                size, value, marker=its.marker, color=its.color, markeredgecolor="white",
                markersize=ring_size(*near[model, int(size)][1:]) - 1, zorder=3,
            )  # fmt: skip
        axes.errorbar(
            curve.tokens,
            curve.cost,
            yerr=_bars(curve),
            fmt="none",
            ecolor=its.color,
            elinewidth=1,
            capsize=2,
            zorder=2,
        )
        if fit is not None:
            ends = np.array([fit.first, fit.last], float)
            axes.plot(
                ends, [fit.at(end) for end in ends], color=its.color, linewidth=1.4, zorder=2,
                linestyle=dashes(model, alike[model]),
            )  # fmt: skip
    low, high = tokens.min(), tokens.max()
    for slope, line in GUIDES.items():
        # Through the middle of the cheapest size, so that every curve starts near the guides.
        start = float(np.exp(np.log(costs[tokens == low]).mean()))
        guide = [start, start * (high / low) ** slope]
        axes.plot([low, high], guide, color="0.6", linestyle=line, linewidth=1.2, label=f"slope {slope}", zorder=1)
    axes.set_ylabel(drawn()[cost].with_unit(drawn()[cost].axis))


def _say(axes: Axes, cost: str, found: Scaling, told: Told) -> None:
    """Say of each point the size and the cost, and how fast it grows."""
    quantity = drawn()[cost]
    for model, curve in found.curves[cost].items():
        if model not in told.summary.models:
            continue
        fit = found.of(model).get(cost)
        grows = [] if fit is None else [f"exponent: {_short(fit)}"]
        for size, value in zip(curve.tokens, curve.cost):
            values = [f"{quantity.axis}: {significant(value)} {quantity.unit}".rstrip(), *grows]
            say(axes, size, value, told.lines(model, f"{size:,.0f} {told.summary.points}", values))


def _legend(axes: Axes, cost: str, found: Scaling, look: Mapping[str, Look]) -> None:
    """Put names and exponents beside the axes; inside, they would hide points."""
    fits = {model: found.of(model).get(cost) for model in found.curves[cost] if model in look}
    for model, fit in fits.items():
        its = look[model]
        label = its.label if fit is None else f"{its.label}\n{_short(fit)}"
        axes.plot([], [], linestyle="", marker=its.marker, color=its.color, markeredgecolor="white", label=label)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
    title = "exponent (95 % interval)"
    if any(fit and fit.flag for fit in fits.values()):
        title += "\n† see the notes"
    handles, labels = axes.get_legend_handles_labels()
    guides = len(GUIDES)
    axes.legend(
        handles[guides:] + handles[:guides], labels[guides:] + labels[:guides], **place, title=title, fontsize=9,
        title_fontsize=9, alignment="left",
    )  # fmt: skip


def _short(fit: Fit) -> str:
    return f"{fit.exponent:.2f}{'†' if fit.flag else ''} ({fit.low:.2f} to {fit.high:.2f})"


def _bars(curve: Curve) -> list[Any]:
    """Return how far the intervals extend below and above each point."""
    return [(curve.cost - curve.low).clip(min=0), (curve.high - curve.cost).clip(min=0)]
