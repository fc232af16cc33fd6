"""The figure of the front page: error against time, one dot for each model, for light and for dark pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from attn_bench.analysis.claims.evidence import Estimate
from attn_bench.format import for_figure
from attn_bench.report.axes import log_axis

# Pixels of half a dot, and where a name may be beside it, in points.
DOT = 6
SIDES = (
    (8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"),
    (6, 5, "left", "bottom"), (6, -5, "left", "top"), (-6, 5, "right", "bottom"), (-6, -5, "right", "top"),
)  # fmt: skip
ALT = "Error against time of each model on Darcy flow at {size} x {size}"
CLOCKS = {
    "latency_train_step_ms": "time of a training step (ms)",
    "train_seconds": "training time (s), two cores shared with other work",
}
# Background, text, lines, dots, and the dot of MANO.
COLORS = {
    "answer.svg": ("white", "#24292f", "#d0d7de", "#0969da", "#cf222e"),
    "answer-dark.svg": ("#0d1117", "#e6edf3", "#30363d", "#58a6ff", "#ff7b72"),
}


def points(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what is drawn, as text that the figure holds: a test compares it with the results."""
    return json.dumps([
        [row["model"], f"{row['error'].value:.4g}", f"{row['time'].value:.4g}"]
        for row in found if isinstance(row["time"], Estimate)
    ])  # fmt: skip


def draw(found: Sequence[Mapping[str, Any]], size: int, folder: Path) -> None:
    """Draw ``answer.svg`` and ``answer-dark.svg``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = [row for row in found if isinstance(row["time"], Estimate)]
    for name, (back, text, line, dot, ours) in COLORS.items():
        with mpl.rc_context({"svg.hashsalt": "answer", "svg.fonttype": "path", "font.size": 10}):
            figure = Figure((7.2, 4.2), facecolor=back, layout="constrained")
            axes = figure.subplots()
            axes.set_facecolor(back)
            for row in drawn:
                x, y, error = row["time"].value, row["error"].value, row["error"].deviation
                color = ours if row["model"].startswith("mano") else dot
                axes.errorbar(x, y, yerr=error, fmt="o", color=color, markersize=7, capsize=3, elinewidth=1)
            axes.set(xlabel=CLOCKS[drawn[0]["clock"]], ylabel="relative L2 error")
            log_axis(axes, "x", [row["time"].value for row in drawn])
            log_axis(axes, "y", [row["error"].value for row in drawn])
            axes.set_title(f"Darcy flow at {size} x {size}: lower and further left is better", color=text, fontsize=11)
            axes.grid(which="both", color=line, linewidth=0.6)
            axes.set_axisbelow(True)
            for axis in (axes.xaxis, axes.yaxis):
                axis.label.set_color(text)
            axes.tick_params(which="both", colors=text)
            for spine in axes.spines.values():
                spine.set_color(line)
            _label(axes, drawn, text)
            figure.savefig(folder / name, facecolor=back, metadata={"Date": None, "Description": points(found)})


def _label(axes: Axes, drawn: Sequence[Mapping[str, Any]], color: str) -> None:
    """Write the name of each model beside its dot, where it hides no dot and no other name if there is such a place."""
    axes.figure.draw_without_rendering()
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    at = [axes.transData.transform((row["time"].value, row["error"].value)) for row in drawn]
    dots = [Bbox.from_bounds(x - DOT, y - DOT, 2 * DOT, 2 * DOT) for x, y in at]
    taken: list[Bbox] = []
    for row, dot in zip(drawn, dots):
        hidden: list[tuple[int, Any]] = []
        for dx, dy, ha, va in SIDES:
            text = axes.annotate(
                for_figure(row["model"]), (row["time"].value, row["error"].value), (dx, dy),
                textcoords="offset points", ha=ha, va=va, color=color, fontsize=9,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            others = [*taken, *(each for each in dots if each is not dot)]
            outside = not axes.bbox.contains(box.x0, box.y0) or not axes.bbox.contains(box.x1, box.y1)
            hidden.append((sum(map(box.overlaps, others)) + 2 * outside, text))
        best = min(hidden, key=lambda each: each[0])[1]
        for _, text in hidden:
            if text is not best:
                text.remove()
        taken.append(best.get_window_extent(renderer))
