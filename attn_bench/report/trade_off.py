"""The figure of error against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attn_bench.report.axes import log_axis, value_axis
from attn_bench.report.figures import PANEL_HEIGHT, PANEL_WIDTH, bars, batch
from attn_bench.report.overlap import LINE, MARKER, apart, dashes, ring_size, same_lines, together
from attn_bench.report.style import REFERENCE_COLOUR, Legend, drawable, heading, looks
from attn_bench.report.summary import Entry, Summary

WIDTH, HEIGHT = PANEL_WIDTH * 1.25, PANEL_HEIGHT * 1.2
COST = "latency_forward_ms"
# Points: how much larger a marker is at the next resolution, and at the last one at most.
LARGER, LARGEST = 1.2, 12
# Inches of a number beside a point; more numbers than this hide each other.
NUMBER_WIDTH, NUMBER_HEIGHT, MOST_NUMBERS = 0.06, 0.13, 16


def error_vs_latency(summary: Summary) -> Figure | None:
    """Draw the primary metric against forward latency, a line per model, and the Pareto front of each resolution.

    Errors at different resolutions are errors on different problems, so models compete at the same one only. None if no
    entry has both values.
    """
    score = summary.primary
    metric = summary.metrics[score]
    higher = metric.direction == "higher"
    look = looks(summary)
    drawn = {
        model: [entry for entry in summary.of(model) if score in entry.values and (entry.mean(COST) or 0) > 0]
        for model in look
    }
    everything = [entry for entries in drawn.values() for entry in entries]
    if not everything:
        return None
    reference = _reference(summary)
    ring = Line2D(
        [], [], color="0.45", linestyle=":", marker="o", markersize=11, markerfacecolor="none", markeredgecolor="0.2"
    )
    extra = {"Pareto front\nof a resolution": ring}
    if reference:
        extra["mean of the training set"] = Line2D([], [], color=REFERENCE_COLOUR, linestyle="--")
    legend = Legend([look[model] for model, entries in drawn.items() if entries], extra, HEIGHT)
    figure = Figure(figsize=(WIDTH + legend.width, legend.height), layout="constrained")
    axes = figure.add_subplot()
    log_axis(axes, "x", _bounds(everything, COST))
    value_axis(axes, [*_bounds(everything, score), *reference], higher=higher)
    _draw(axes, summary, drawn)
    numbered: list[Entry] = []
    for resolution in summary.resolutions:
        rivals = [entry for entry in everything if entry.resolution == resolution]
        front = pareto_front(rivals, COST, score, higher=higher)
        x, y = _points(front, score)
        axes.plot(x, y, color="0.45", linewidth=1.2, linestyle=":", drawstyle="steps-post", zorder=2)
        axes.plot(
            x, y, linestyle="", marker="o", markersize=14, markerfacecolor="none", markeredgecolor="0.2", zorder=4
        )
        numbered += rivals if len(everything) <= MOST_NUMBERS else front
    for value in reference:
        axes.axhline(value, color=REFERENCE_COLOUR, linestyle="--", linewidth=1, zorder=1)
    axes.set_xlabel(f"forward latency ({batch(summary, 'ms')})")
    label = score + (f" ({metric.unit})" if metric.unit else "")
    axes.set_ylabel(drawable(f"{label}, {'higher' if higher else 'lower'} is better"))
    if len(summary.resolutions) > 1:
        _number(axes, numbered, score)
    legend.draw(figure)
    heading(figure, summary, f"{score} against latency")
    return figure


def _reference(summary: Summary) -> list[float]:
    """Return the error of the constant predictor, worth a line only if it is the same at every resolution."""
    means = [entry.mean(summary.primary) for model in summary.references for entry in summary.of(model)]
    found = [value for value in means if value is not None]
    return found[:1] if found and max(found) - min(found) <= 0.02 * max(found) else []


def _draw(axes: Axes, summary: Summary, drawn: Mapping[str, Sequence[Entry]]) -> None:
    score, look = summary.primary, looks(summary)
    larger = min(LARGER, LARGEST / len(summary.resolutions))
    sizes = {resolution: larger * i - 1 for i, resolution in enumerate(summary.resolutions)}
    spots = {
        (model, entry.resolution): (entry.values[COST].mean, entry.values[score].mean)
        for model, entries in drawn.items()
        for entry in entries
    }
    near = together(axes, spots, MARKER / 2 / 72 / HEIGHT)
    alike = same_lines(together(axes, spots, LINE / 72 / HEIGHT))
    for model, entries in drawn.items():
        its = look[model]
        axes.errorbar(
            *_points(entries, score), xerr=bars([e.values[COST] for e in entries]),
            yerr=bars([e.values[score] for e in entries]), color=its.colour, linewidth=1, elinewidth=1, capsize=2,
            linestyle=dashes(model, alike.get(model, [model])), zorder=3,
        )  # fmt: skip
        for entry in entries:
            axes.plot(
                *_points([entry], score), color=its.colour, marker=its.marker, markeredgecolor="white", zorder=3,
                markersize=sizes[entry.resolution] + ring_size(*near[model, entry.resolution][1:]),
            )  # fmt: skip


def _number(axes: Axes, entries: Sequence[Entry], score: str) -> None:
    """Write its resolution beside each point where there is room."""
    points = list(zip(*_points(entries, score)))
    places = (axes.transScale + axes.transLimits).transform(points) * (WIDTH, HEIGHT)
    width = NUMBER_WIDTH * max(len(str(entry.resolution)) for entry in entries) + 0.04
    for entry, point, fits in zip(entries, points, apart(places, width, NUMBER_HEIGHT)):
        if fits:
            axes.annotate(
                str(entry.resolution), point, xytext=(7, 7), textcoords="offset points", fontsize=7, color="0.35",
                zorder=5,
            )  # fmt: skip


def _points(entries: Sequence[Entry], score: str) -> tuple[list[float], list[float]]:
    return [entry.values[COST].mean for entry in entries], [entry.values[score].mean for entry in entries]


def _bounds(entries: Sequence[Entry], column: str) -> list[float]:
    return [bound for e in entries for bound in (e.values[column].low, e.values[column].mean, e.values[column].high)]


def pareto_front(entries: Sequence[Entry], cost: str, score: str, *, higher: bool) -> list[Entry]:
    """Return the entries than which no other is both cheaper and better, cheapest first."""
    sign = -1 if higher else 1
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (e.values[cost].mean, sign * e.values[score].mean)):
        if not front or sign * entry.values[score].mean < sign * front[-1].values[score].mean:
            front.append(entry)
    return front
