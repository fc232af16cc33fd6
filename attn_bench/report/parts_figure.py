"""The figure of the parts of a training step: stacked bars."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from attn_bench.report.entry import Entry
from attn_bench.report.points import Plot, Told, say
from attn_bench.report.style import folded, heading
from attn_bench.report.summary import Summary
from attn_bench.results.quantities import quantities

WIDTH, BAR, EDGE = 7.5, 0.27, 0.75
NAME_CHARACTERS = 28
# Of forward, backward and optimizer; told apart by lightness as well.
COLORS = ("#0173b2", "#de8f05", "#56b4e9")
# A part this share of the longest bar has its own share of the step written in it.
WRITTEN = 0.07


def train_step_parts(summary: Summary) -> Figure | None:
    """Draw a bar for each model, a panel for each resolution, with the parts of a step. None if no step has parts."""
    parts = quantities("parts")
    drawn = {
        resolution: [
            entry
            for entry in summary.entries
            if entry.resolution == resolution and all(part.column in entry.values for part in parts)
            and entry.model not in summary.references
        ]
        for resolution in summary.resolutions
    }  # fmt: skip
    drawn = {resolution: entries for resolution, entries in drawn.items() if entries}
    if not drawn:
        return None
    order = list(summary.models)
    heights = [EDGE + BAR * len(entries) for entries in drawn.values()]
    figure = Plot(figsize=(WIDTH, sum(heights) + 0.7), layout="constrained")
    grid = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)
    for axes, (resolution, entries) in zip(grid[:, 0], drawn.items()):
        entries.sort(key=lambda entry: order.index(entry.model))
        _draw(axes, summary, entries)
        if len(drawn) > 1:
            axes.set_title(f"{summary.size} {resolution}", loc="left")
    batch = summary.settings.get("batch_size", "")
    grid[-1, 0].set_xlabel(f"median time (ms{f', batch of {batch}' if batch.isdigit() else ''})")
    handles = [Patch(color=color, label=part.label) for part, color in zip(parts, COLORS)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(parts), frameon=False)
    heading(figure, summary, "parts of a training step")
    return figure


def _draw(axes: Axes, summary: Summary, entries: list[Entry]) -> None:
    parts, rows = quantities("parts"), np.arange(len(entries))
    times = np.array([[entry.values[part.column].mean for part in parts] for entry in entries])
    ends = times.cumsum(1)
    for i, color in enumerate(COLORS[: len(parts)]):
        axes.barh(rows, times[:, i], left=ends[:, i] - times[:, i], color=color, height=0.7, edgecolor="white")
        for row, (time, end, whole) in enumerate(zip(times[:, i], ends[:, i], ends[:, -1])):
            if time > WRITTEN * ends.max():
                axes.text(
                    end - time / 2, row, f"{time / whole:.0%}", ha="center", va="center", fontsize=8,
                    color="white" if np.dot(to_rgb(to_hex(color)), (0.3, 0.6, 0.1)) < 0.5 else "black",
                )  # fmt: skip
    told = Told(summary)
    for row, (entry, whole) in enumerate(zip(entries, ends[:, -1])):
        say(axes, whole, row, told.entry(entry, parts))
    axes.set_yticks(rows, [folded(summary.names[entry.model], NAME_CHARACTERS) for entry in entries], fontsize=9)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 1.03 * float(ends.max()))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
