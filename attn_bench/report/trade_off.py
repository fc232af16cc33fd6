"""The figure of error against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attn_bench.report.axes import log_axis, value_axis
from attn_bench.report.entry import Entry
from attn_bench.report.figures import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    axis_label,
    bars,
    reference_line,
    reference_values,
)
from attn_bench.report.overlap import LINE, MARKER, apart, dashes, ring_size, same_lines, together
from attn_bench.report.points import Plot, Told, say
from attn_bench.report.style import REFERENCE_COLOR, Legend, heading, looks
from attn_bench.report.summary import Summary
from attn_bench.results.quantities import Quantity, quantities

WIDTH, HEIGHT = PANEL_WIDTH * 1.25, PANEL_HEIGHT * 1.2
# Points: how much larger a marker is at the next resolution, and its largest size.
LARGER, LARGEST = 1.2, 12
# Inches of a number beside a point; with more numbers than this they would overlap.
NUMBER_WIDTH, NUMBER_HEIGHT, MOST_NUMBERS = 0.06, 0.13, 16


def error_vs_latency(summary: Summary) -> Figure | None:
    """Draw the primary metric against a cost, a line per model, and the Pareto front of each resolution.

    Errors at different resolutions are errors on different problems, so models compete only at the same one. None if
    no entry has both values.
    """
    (cost,), score, look = quantities("trade-off"), summary.primary, looks(summary)
    drawn = {
        model: [entry for entry in summary.of(model) if score.column in entry.values and (entry.mean(cost) or 0) > 0]
        for model in look
    }
    everything = [entry for entries in drawn.values() for entry in entries]
    if not everything:
        return None
    reference = reference_values(summary)
    if reference and max(reference) - min(reference) > 0.02 * max(reference):
        reference = []  # a line for each resolution would be one too many
    ring = Line2D(
        [], [], color="0.45", linestyle=":", marker="o", markersize=11, markerfacecolor="none", markeredgecolor="0.2"
    )
    competes = any(summary.front(cost, resolution) for resolution in summary.resolutions)
    extra = {"Pareto front\nof a resolution": ring} if competes else {}
    if reference:
        extra |= reference_line(summary)
    legend = Legend([look[model] for model, entries in drawn.items() if entries], extra, HEIGHT)
    figure = Plot(figsize=(WIDTH + legend.width, legend.height), layout="constrained")
    axes = figure.add_subplot()
    log_axis(axes, "x", _bounds(everything, cost))
    value_axis(axes, [*_bounds(everything, score), *reference], higher=score.higher)
    _draw(axes, summary, drawn, cost)
    numbered: list[Entry] = []
    for resolution in summary.resolutions:
        candidates = [entry for entry in everything if entry.resolution == resolution]
        front = [entry for entry in summary.front(cost, resolution) if entry in candidates]
        x, y = _points(front, cost, score)
        axes.plot(x, y, color="0.45", linewidth=1.2, linestyle=":", drawstyle="steps-post", zorder=2)
        axes.plot(
            x, y, linestyle="", marker="o", markersize=14, markerfacecolor="none", markeredgecolor="0.2", zorder=4
        )
        numbered += candidates if len(everything) <= MOST_NUMBERS else front
    for value in reference[:1]:
        axes.axhline(value, color=REFERENCE_COLOR, linestyle="--", linewidth=1, zorder=1)
    axes.set_xlabel(axis_label(summary, cost))
    axes.set_ylabel(axis_label(summary, score))
    if len(summary.resolutions) > 1:
        _number(axes, numbered, _points(numbered, cost, score))
    legend.draw(figure)
    heading(figure, summary, f"{score.axis} against {cost.axis}")
    return figure


def _draw(axes: Axes, summary: Summary, drawn: Mapping[str, Sequence[Entry]], cost: Quantity) -> None:
    score, look, told = summary.primary, looks(summary), Told(summary)
    larger = min(LARGER, LARGEST / len(summary.resolutions))
    sizes = {resolution: larger * i - 1 for i, resolution in enumerate(summary.resolutions)}
    spots = {
        (model, entry.resolution): (entry.values[cost.column].mean, entry.values[score.column].mean)
        for model, entries in drawn.items()
        for entry in entries
    }
    near = together(axes, spots, MARKER / 2 / 72 / HEIGHT)
    alike = same_lines(together(axes, spots, LINE / 72 / HEIGHT))
    for model, entries in drawn.items():
        its = look[model]
        axes.errorbar(
            *_points(entries, cost, score), xerr=bars([e.values[cost.column] for e in entries]),
            yerr=bars([e.values[score.column] for e in entries]), color=its.color, linewidth=1, elinewidth=1,
            capsize=2, linestyle=dashes(model, alike.get(model, [model])), zorder=3,
        )  # fmt: skip
        for entry in entries:
            axes.plot(
                *_points([entry], cost, score), color=its.color, marker=its.marker, markeredgecolor="white", zorder=3,
                markersize=sizes[entry.resolution] + ring_size(*near[model, entry.resolution][1:]),
            )  # fmt: skip
            say(axes, *spots[model, entry.resolution], told.entry(entry, [score, cost]))


def _number(axes: Axes, entries: Sequence[Entry], coordinates: tuple[list[float], list[float]]) -> None:
    """Write the resolution beside each point if there is room."""
    points = list(zip(*coordinates))
    places = (axes.transScale + axes.transLimits).transform(points) * (WIDTH, HEIGHT)
    width = NUMBER_WIDTH * max(len(str(entry.resolution)) for entry in entries) + 0.04
    for entry, point, fits in zip(entries, points, apart(places, width, NUMBER_HEIGHT)):
        if fits:
            axes.annotate(
                str(entry.resolution), point, xytext=(7, 7), textcoords="offset points", fontsize=7, color="0.35",
                zorder=5,
            )  # fmt: skip


def _points(entries: Sequence[Entry], cost: Quantity, score: Quantity) -> tuple[list[float], list[float]]:
    return [e.values[cost.column].mean for e in entries], [e.values[score.column].mean for e in entries]


def _bounds(entries: Sequence[Entry], quantity: Quantity) -> list[float]:
    stats = [entry.values[quantity.column] for entry in entries]
    return [bound for stat in stats for bound in (stat.low, stat.mean, stat.high)]
