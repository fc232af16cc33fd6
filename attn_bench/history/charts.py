"""The page of a history: one self-contained file that makes no requests, with a chart for each curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_bench.format import count, human
from attn_bench.history.series import Curve, Point, Series
from attn_bench.history.told import Told, value_text
from attn_bench.report import html

TEMPLATES = Path(__file__).parent / "templates"
# Of a chart, in units of its view box.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 220, 52, 10, 14, 24
TICKS, HASHES = 5, 4
# Series are told apart by color and shape; further ones look like the last.
LOOKS = 6
# Commits that are named for a step.
NAMED = 12


@dataclass(frozen=True)
class Scale:
    """Where revisions and values are in a chart."""

    revisions: int
    low: float
    high: float

    def x(self, place: float) -> float:
        """Return the x coordinate of a revision: the middle of its share of the width, which levels and marks use."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / self.revisions, 1)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low), 1)


def html_page(told: Told) -> str:
    """Return the page."""
    from markupsafe import Markup

    environment = html.templates(TEMPLATES)
    environment.globals |= {"value_text": value_text, "named": NAMED}
    environment.globals |= {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP}
    environment.globals |= {"bottom": BOTTOM}
    css = (html.TEMPLATES / "page.css").read_text(encoding="utf-8")
    css += (TEMPLATES / "history.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "history.js").read_text(encoding="utf-8")
    return environment.get_template("history.html.j2").render(
        css=Markup(css), script=Markup(script), policy=html.policy(css, script), told=told, groups=groups(told)
    )


def groups(told: Told) -> list[dict[str, Any]]:
    """Return the charts of each task and resolution: of times, and of other costs that stepped."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for curve in told.curves:
        if curve.quantity.rule == "timed" or curve.steps:
            found.setdefault((curve.task, curve.resolution), []).append(chart(curve, told))
    return [{"task": task, "resolution": resolution, "charts": charts} for (task, resolution), charts in found.items()]


def chart(curve: Curve, told: Told) -> dict[str, Any]:
    """Return what the template draws of a curve."""
    scale = _scale(curve, len(told.commits))
    ticks = _ticks(scale)
    last = len(told.commits) - 1
    places = sorted({round(i * last / max(HASHES - 1, 1)) for i in range(HASHES)})
    return {
        "curve": curve,
        "title": f"{curve.label}, {curve.quantity.axis} at {curve.resolution}",
        "says": _says(curve),
        "ticks": [(scale.y(value), human(value)) for value in ticks],
        "hashes": [(scale.x(place), told.commits[place].short[:7]) for place in places],
        "series": [_drawn(series, curve, scale, min(i, LOOKS - 1)) for i, series in enumerate(curve.series)],
        "marks": [(scale.x(mark.place - 0.5), mark.text) for mark in curve.marks],
        "steps": [
            {
                "x": scale.x(step.place - 0.5),
                "text": f"step of {100 * (step.change.ratio - 1):+.1f} % in {step.before.short}..{step.after.short}",
                "worse": step.change.ratio > 1,
            }
            for _, step in curve.steps
        ],
    }


def _scale(curve: Curve, revisions: int) -> Scale:
    values = [point.value for series in curve.series for point in series.points]
    values += [end for series in curve.series for level in series.levels for end in (level.low, level.high)]
    low, high = min(values), max(values)
    # A flat curve is drawn as one: no noise of 1 % fills the height.
    room = max(0.08 * (high - low), 0.03 * high)
    return Scale(revisions, max(low - room, 0.0), high + room)


def _ticks(scale: Scale) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(scale.low, scale.high)
    return [float(value) for value in found if scale.low <= value <= scale.high]


def _drawn(series: Series, curve: Curve, scale: Scale, look: int) -> dict[str, Any]:
    judged = [point for point in series.points if not point.dirty]
    return {
        "look": look,
        "line": " ".join(f"{scale.x(point.place)},{scale.y(point.value)}" for point in judged),
        "levels": [
            {
                "x": scale.x(level.first - 0.4),
                "width": round(scale.x(level.last + 0.4) - scale.x(level.first - 0.4), 1),
                "y": scale.y(level.value),
                "top": scale.y(level.high),
                "height": round(scale.y(level.low) - scale.y(level.high), 1),
            }
            for level in series.levels
        ],
        "points": [
            {
                "x": scale.x(point.place),
                "y": scale.y(point.value),
                "open": point.dirty or point.disturbed,
                "text": _point_text(point, series, curve),
            }
            for point in series.points
        ],
    }


def _point_text(point: Point, series: Series, curve: Curve) -> str:
    lines = [
        f"{point.commit.short} {point.commit.date} {point.commit.subject}",
        f"{value_text(point.value, curve.quantity)}"
        + (f", median of {count(len(point.values), 'process', 'processes')}" if len(point.values) > 1 else ""),
        f"{series.device_name}, torch {series.conditions.get('torch', 'unknown')}",
        *(["uncommitted changes: not judged"] if point.dirty else []),
        *(["disturbed by other processes or heat"] if point.disturbed else []),
    ]
    return "\n".join(lines)


def _says(curve: Curve) -> str:
    """Say the curve in a sentence, for readers who do not see it."""
    points: Sequence[Point] = sorted((p for series in curve.series for p in series.points), key=lambda p: p.place)
    first, last = (value_text(point.value, curve.quantity) for point in (points[0], points[-1]))
    steps = count(len(curve.steps), "step") if curve.steps else "no step"
    return f"{count(len(points), 'point')}, from {first} to {last}; {steps}"
