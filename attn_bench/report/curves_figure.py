"""The figure of training curves: loss and error, by step and by second, a row of panels for each resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attn_bench.format import significant
from attn_bench.report.axes import value_axis
from attn_bench.report.curves import Curve
from attn_bench.report.points import Plot, Told, say
from attn_bench.report.style import Legend, Look, drawable, heading, looks
from attn_bench.report.summary import Summary
from attn_bench.results.record import Series

PANEL_WIDTH, PANEL_HEIGHT, ROW_EDGE = 2.9, 2.5, 0.35
MARKER, RING = 4, 9
# Curves with more points have no markers.
POINTS_MARKED = 40
# Points of the figure that a page says something of; of longer curves, some and the last.
MOST_SAID = 600

Of = Callable[[Curve], Series]


def training_curves(curves: Sequence[Curve], summary: Summary) -> Figure | None:
    """Draw the loss and the error of each training, by step on the left and by second on the right.

    None if nothing was recorded along a training.
    """
    look = looks(summary)
    curves = [curve for curve in curves if curve.model in look and curve.loss.values]
    if not curves:
        return None
    drawn: list[tuple[str, Of]] = [("training loss", lambda curve: curve.loss)]
    if any(known(curve.error) for curve in curves):
        parts = " and ".join(dict.fromkeys(curve.part for curve in curves if curve.part is not None))
        drawn.append((f"{summary.primary.axis}, {parts}", lambda curve: curve.error))
    resolutions = sorted({curve.resolution for curve in curves})
    models = [look[model] for model in look if any(curve.model == model for curve in curves)]
    legend = Legend(models, {}, (PANEL_HEIGHT + ROW_EDGE) * len(resolutions))
    size = (
        2 * PANEL_WIDTH * len(drawn) + legend.width,
        max(legend.height, (PANEL_HEIGHT + ROW_EDGE) * len(resolutions)),
    )
    figure, told = Plot(figsize=size, layout="constrained"), Told(summary)
    grid = figure.subplots(len(resolutions), 2 * len(drawn), squeeze=False)
    for row, resolution in zip(grid, resolutions):
        own = [curve for curve in curves if curve.resolution == resolution]
        for i, (title, series) in enumerate(drawn):
            _draw(row[2 * i : 2 * i + 2], own, series, look, higher=i == 1 and summary.primary.higher)
            _say(row[2 * i : 2 * i + 2], own, series, told, title, most=MOST_SAID // grid.size)
            row[2 * i].set_ylabel(drawable(title))
        if len(resolutions) > 1:
            row[0].set_title(f"{summary.size} {resolution}", loc="left")
    for i, axes in enumerate(grid[-1]):
        axes.set_xlabel("seconds of training" if i % 2 else "step")
    legend.draw(figure)
    heading(figure, summary, "loss and error along the training")
    return figure


def _say(panels: Sequence[Axes], curves: Sequence[Curve], of: Of, told: Told, what: str, most: int) -> None:
    """Say of points of each curve when they were reached, and the value there."""
    each = max(1, most // len(curves)) if curves else 0
    for axes, by_second in zip(panels, (False, True)):
        for curve in curves:
            series, where = of(curve), f"{told.summary.size} {curve.resolution}, seed {curve.seed}"
            each_point = zip(series.steps, series.seconds, series.values)
            points = [(at, seconds, value) for at, seconds, value in each_point if value is not None]
            step = -(-len(points) // each)
            for steps, seconds, value in points[::-1][:: step or 1][::-1]:
                values = [f"{what}: {significant(value)}", f"step {steps}, after {significant(seconds)} s of training"]
                say(axes, seconds if by_second else steps, value, told.lines(curve.model, where, values))


def known(series: Series) -> list[float]:
    """Return the values of a series that are numbers."""
    return [value for value in series.values if value is not None]


def _draw(
    panels: Sequence[Axes],
    curves: Sequence[Curve],
    of: Callable[[Curve], Series],
    look: dict[str, Look],
    *,
    higher: bool,
) -> None:
    """Draw one quantity of trainings by step and by second, on axes that share their values."""
    by_step, by_second = panels
    by_second.sharey(by_step)
    by_second.tick_params(axis="y", labelleft=False)
    seen = [value for curve in curves for value in known(of(curve))]
    if not seen:
        by_step.text(0.5, 0.5, "no value", transform=by_step.transAxes, ha="center", va="center", color="0.4")
        return
    value_axis(by_step, seen, higher=higher)
    several = len({curve.seed for curve in curves}) > 1
    for axes, places in ((by_step, "steps"), (by_second, "seconds")):
        for curve in curves:
            series, its = of(curve), look[curve.model]
            few = len(series.values) <= POINTS_MARKED
            axes.plot(
                getattr(series, places), [float("nan") if value is None else value for value in series.values],
                color=its.color, linewidth=1.2, alpha=0.6 if several else 0.9,
                marker=its.marker if few else "", markersize=MARKER, markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
            kept = [
                (where, value)
                for where, step, value in zip(getattr(series, places), series.steps, series.values)
                if series is curve.error and step == curve.selected and value is not None
            ]
            if kept:
                axes.plot(
                    *zip(*kept), linestyle="", marker="o", markersize=RING, markerfacecolor="none",
                    markeredgecolor=its.color, markeredgewidth=1.2,
                )  # fmt: skip
        axes.set_xlim(left=0)
        axes.margins(x=0.03)
