"""The figure of the front page: error against time, one dot for each model, for light and for dark pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_bench.analysis.claims.evidence import Estimate
from attn_bench.format import for_figure

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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
            axes.set(xscale="log", yscale="log", xlabel=CLOCKS[drawn[0]["clock"]], ylabel="relative L2 error")
            _label(axes, drawn, text)
            axes.set_title(f"Darcy flow at {size} x {size}: lower and further left is better", color=text, fontsize=11)
            axes.grid(which="both", color=line, linewidth=0.6)
            axes.set_axisbelow(True)
            for axis in (axes.xaxis, axes.yaxis):
                axis.label.set_color(text)
                axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_locator(NullLocator())
            axes.tick_params(which="both", colors=text)
            for spine in axes.spines.values():
                spine.set_color(line)
            figure.savefig(folder / name, facecolor=back, metadata={"Date": None, "Description": points(found)})


def _label(axes: Any, drawn: Sequence[Mapping[str, Any]], color: str) -> None:
    """Write the name of each model beside its dot, those of close dots on different sides."""
    import math

    xs = [math.log(row["time"].value) for row in drawn]
    ys = [math.log(row["error"].value) for row in drawn]
    width, height = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1
    axes.margins(0.16, 0.14)
    sides = [(8, 5, "left"), (8, -13, "left"), (-8, 5, "right"), (-8, -13, "right")]
    taken: list[tuple[float, float, int]] = []
    for row, x, y in zip(drawn, xs, ys):
        close = [side for a, b, side in taken if abs(a - x) < 0.25 * width and abs(b - y) < 0.12 * height]
        right = (x - min(xs)) > 0.75 * width
        order = [2, 3, 0, 1] if right else [0, 1, 2, 3]
        side = next((each for each in order if each not in close), order[0])
        taken.append((x, y, side))
        dx, dy, align = sides[side]
        axes.annotate(
            for_figure(row["model"]), (row["time"].value, row["error"].value), (dx, dy), textcoords="offset points",
            ha=align, color=color, fontsize=9,
        )  # fmt: skip
