"""Figures of a results folder: error, latency and memory against resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from attn_bench.report.axes import log_axis, resolution_axis, value_axis
from attn_bench.report.entry import Entry, Stat
from attn_bench.report.overlap import LINE, MARKER, dashes, ring_size, same_lines, together
from attn_bench.report.points import Plot, Told, say
from attn_bench.report.style import REFERENCE_COLOR, Legend, Look, drawable, heading, looks
from attn_bench.report.summary import Summary
from attn_bench.results.quantities import Group, Quantity, quantities

PANEL_WIDTH, PANEL_HEIGHT, ROW_HEIGHT = 4.3, 3.6, 0.3
ROW_LABEL_WIDTH = 0.7
RESOLUTION_WIDTH, WIDEST_PANEL = 0.55, 6.0
# Inches of a character of a status, and of the box around it.
STATUS_CHARACTER, STATUS_EDGE = 0.075, 0.16
# Characters of a label that fit beside a panel.
LONGEST_LABEL = 34
# How far apart the outermost models are drawn at a single resolution, so that they do not hide each other.
APART = 1.3


def error_vs_resolution(summary: Summary) -> Figure | None:
    """Draw the primary metric against resolution; a constant predictor is a dashed line. None if no value."""
    return _against_resolution(summary, summary.primary.axis, [summary.primary])


def cost_vs_resolution(summary: Summary, group: Group) -> Figure | None:
    """Draw the costs of a group against resolution, log-log, a panel for each. None if there is no value."""
    return _against_resolution(summary, group.words, [each for each in quantities("figures") if each.group == group])


def axis_label(summary: Summary, quantity: Quantity) -> str:
    """Return the label of an axis, with the better direction of a metric or the batch size of a cost."""
    if quantity.rule == "accuracy":
        return drawable(f"{quantity.with_unit(quantity.axis)}, {quantity.group.better} is better")
    batch = summary.settings.get("batch_size", "")
    return drawable(f"{quantity.axis} ({quantity.unit}{f', batch of {batch}' if batch.isdigit() else ''})")


def _against_resolution(summary: Summary, what: str, panels: Sequence[Quantity]) -> Figure | None:
    if not any(map(summary.has, panels)):
        return None
    look = looks(summary)
    failing = [model for model in summary.models if any(entry.failures for entry in summary.of(model))]
    extra: dict[str, Line2D] = {}
    if panels == [summary.primary] and reference_values(summary):
        extra |= reference_line(summary)
    strip = sum(ROW_HEIGHT * (1 + look[model].row.count("\n")) for model in failing)
    width = min(max(PANEL_WIDTH, RESOLUTION_WIDTH * len(summary.resolutions)), WIDEST_PANEL)
    legend = Legend(list(look.values()), extra, PANEL_HEIGHT + (strip + 0.2 if failing else 0))
    size = (width * len(panels) + legend.width + (ROW_LABEL_WIDTH if failing else 0), legend.height)
    figure, told = Plot(figsize=size, layout="constrained"), Told(summary)
    rows = 2 if failing else 1
    grid = GridSpec(rows, len(panels), figure=figure, height_ratios=[strip, max(PANEL_HEIGHT, size[1] - strip)][-rows:])
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(grid[rows - 1, i])
        _draw(axes, told, panel, look, (width, PANEL_HEIGHT))
        if failing:
            strip_axes = figure.add_subplot(grid[0, i], sharex=axes)
            _draw_failures(strip_axes, summary, failing, look, labelled=i == 0, width=width)
    legend.draw(figure)
    heading(figure, summary, what)
    return figure


def _draw(axes: Axes, told: Told, quantity: Quantity, look: dict[str, Look], size: tuple[float, float]) -> None:
    summary = told.summary
    single = len(summary.resolutions) == 1
    places = dict(zip(look, np.geomspace(1 / APART, APART, len(look)) if single and len(look) > 1 else ()))
    drawn = {m: [e for e in summary.of(m) if quantity.column in e.values] for m in look}
    stats = [entry.values[quantity.column] for entries in drawn.values() for entry in entries]
    seen = [bound for stat in stats for bound in (stat.low, stat.mean, stat.high)]
    metric = quantity.rule == "accuracy"
    if metric:
        seen += _draw_references(axes, summary, quantity.column)
    label = axis_label(summary, quantity)
    axes.set_ylabel(label if len(label) <= LONGEST_LABEL else label.replace(" (", "\n(", 1))
    resolution_axis(axes, summary.resolutions, summary.axis, size[0])
    if not seen:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return
    if metric:
        value_axis(axes, seen, higher=quantity.higher)
    elif min(seen) > 0:
        log_axis(axes, "y", seen)
    else:
        axes.set_ylim(min(0, 1.1 * min(seen)), 1.1 * max(seen) if max(seen) > 0 else 1)
    spots = {
        (model, entry.resolution): (float(entry.resolution), entry.values[quantity.column].mean)
        for model, entries in drawn.items()
        for entry in entries
    }
    near = together(axes, spots, MARKER / 2 / 72 / size[1])
    alike = same_lines(together(axes, spots, LINE / 72 / size[1]))
    for model, entries in drawn.items():
        its = look[model]
        stats = [entry.values[quantity.column] for entry in entries]
        x = [entry.resolution * places.get(model, 1.0) for entry in entries]
        axes.errorbar(
            x, [s.mean for s in stats], yerr=bars(stats), color=its.color, capsize=3, elinewidth=1.2, zorder=3,
            linestyle=dashes(model, alike.get(model, [model])),
        )  # fmt: skip
        for place, entry, stat in zip(x, entries, stats):
            size_of = MARKER if single else ring_size(*near[model, entry.resolution][1:])
            axes.plot(
                place, stat.mean, color=its.color, marker=its.marker, markersize=size_of, markeredgecolor="white",
                zorder=3,
            )  # fmt: skip
            say(axes, place, stat.mean, told.entry(entry, [quantity]))


def bars(stats: Sequence[Stat]) -> list[list[float]]:
    """Return how far the intervals extend below and above each mean."""
    return [[max(s.mean - s.low, 0) for s in stats], [max(s.high - s.mean, 0) for s in stats]]


def reference_values(summary: Summary) -> list[float]:
    """Return the primary metric of the references, at every resolution."""
    means = [entry.mean(summary.primary) for model in summary.references for entry in summary.of(model)]
    return [value for value in means if value is not None]


def reference_line(summary: Summary) -> dict[str, Line2D]:
    """Return the line of the references for a legend."""
    names = ", ".join(drawable(summary.names[model]) for model in summary.references)
    return {f"{names} (constant)": Line2D([], [], color=REFERENCE_COLOR, linestyle="--")}


def _draw_references(axes: Axes, summary: Summary, column: str) -> list[float]:
    seen: list[float] = []
    for model in summary.references:
        points = [
            (entry.resolution, entry.values[column].mean) for entry in summary.of(model) if column in entry.values
        ]
        if len(points) == 1:
            axes.axhline(points[0][1], color=REFERENCE_COLOR, linestyle="--", zorder=2)
        elif points:
            axes.plot(*zip(*points), color=REFERENCE_COLOR, linestyle="--", zorder=2)
        seen += [value for _, value in points]
    return seen


def _draw_failures(
    axes: Axes, summary: Summary, failing: list[str], look: dict[str, Look], *, labelled: bool, width: float
) -> None:
    """Draw one row per failing model, with the status at each resolution at which it failed, if there is room."""
    inch = width / np.ptp(np.log(axes.get_xlim()))
    for row, model in enumerate(failing):
        end = -np.inf
        for entry in summary.of(model):
            if entry.failures:
                place, status = float(np.log(entry.resolution)) * inch, _short_status(entry)
                half = (STATUS_CHARACTER * len(status) + STATUS_EDGE) / 2
                text, half = (status, half) if place - half >= end else ("×", STATUS_EDGE / 2)  # noqa: RUF001
                if place - half < end:
                    continue
                end = place + half
                axes.text(
                    entry.resolution, row, text, fontsize=9, color="0.15", ha="center", va="center",
                    bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": look[model].color},
                )  # fmt: skip
    axes.set_ylim(len(failing) - 0.5, -0.5)
    axes.set_yticks(range(len(failing)), [look[model].row if labelled else "" for model in failing], fontsize=9)
    axes.tick_params(axis="y", pad=20)
    axes.tick_params(axis="x", which="both", labelbottom=False, bottom=False)
    axes.grid(axis="y", visible=False)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _short_status(entry: Entry) -> str:
    """Return the status in few letters; the table distinguishes several statuses at one resolution."""
    statuses = {failure.status for failure in entry.failures}
    failed = sum(len(failure.seeds) for failure in entry.failures)
    status = statuses.pop() if len(statuses) == 1 else "failed"
    return status if failed == entry.seeds else f"{status} {failed}/{entry.seeds}"
