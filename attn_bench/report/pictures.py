"""The figures of a report as files, with what is written under each and what stands for it where it cannot be seen."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attn_bench.errors import DiskError
from attn_bench.format import clean, plain, significant
from attn_bench.report.scaling import Scaling
from attn_bench.report.summary import DISTURBED, Summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

T = TypeVar("T")
PLOTS = {
    "error_vs_resolution": "",
    "latency_vs_resolution": "latency_forward_ms",
    "memory_vs_resolution": "peak_memory_forward_mib",
    "error_vs_latency": "",
}
UNITS = {"latency_forward_ms": " ms", "peak_memory_forward_mib": " MiB"}
BEST = {"latency_forward_ms": "Fastest forward", "peak_memory_forward_mib": "Least memory forward"}
WORDS = {"latency_forward_ms": "Forward latency", "peak_memory_forward_mib": "Forward memory"}
# Heard, not skimmed: past this many a list of values helps nobody, and the table has them.
MOST_SPOKEN = 24


@dataclass(frozen=True)
class Picture:
    """A figure that lies in the report's folder as ``<name>.png`` and ``<name>.svg``.

    Attributes:
        name: of its files.
        title, caption: shown with it.
        alt: says in words what it shows.
    """

    name: str
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Drawn:
    """Everything drawn of a results folder.

    Attributes:
        plots: against resolution, and error against latency.
        growth: cost against tokens.
        panels: fields, by resolution.
        scaling: what ``growth`` is drawn from.
        notes: what could not be shown, and why.
        files: paths of all figures.
        marks: colour and marker of each model in the figures, as SVG.
    """

    plots: tuple[Picture, ...]
    growth: Picture | None
    panels: tuple[Picture, ...]
    scaling: Scaling | None
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    marks: Mapping[str, str] = field(default_factory=dict)


def draw(folder: Path, table: pd.DataFrame, summary: Summary, out: Path) -> Drawn:
    """Draw every figure that has a value and save it in ``out`` as PNG and SVG; what fails is said in ``notes``.

    Raises:
        DiskError: ``out`` cannot be written.
    """
    # matplotlib takes a second to import, which the table for the terminal need not wait for.
    from attn_bench.report import scaling as growth
    from attn_bench.report.figures import error_vs_resolution, latency_vs_resolution, memory_vs_resolution
    from attn_bench.report.panels import field_panel, read_samples
    from attn_bench.report.scaling_figure import figure as scaling_figure
    from attn_bench.report.style import marks, save, style
    from attn_bench.report.trade_off import error_vs_latency

    plots: list[Picture] = []
    panels: list[Picture] = []
    notes: list[str] = []
    files: list[Path] = []
    grown = None

    def drawn(name: str, make: Callable[[], Figure | None]) -> bool:
        found = attempt(name, notes, lambda: None if (figure := make()) is None else save(figure, out, name))
        files.extend(found or ())
        return bool(found)

    with style():
        for figure in (error_vs_resolution, latency_vs_resolution, memory_vs_resolution, error_vs_latency):
            if drawn(figure.__name__, partial(figure, summary)):
                plots.append(_plot(summary, figure.__name__))
        found = attempt("scaling", notes, lambda: growth.scaling(table))
        if found is not None and drawn("scaling", lambda: scaling_figure(found, summary)):
            grown = _growth(summary, flagged=any(fit.flag for fit in found.fits))
        for resolution in summary.resolutions:
            samples, unread = read_samples(folder, summary, resolution)
            notes += unread
            name = f"{file_name(plain(summary.settings.get('task', 'field')))}_panel_{resolution}"
            if samples and drawn(name, partial(field_panel, samples, summary.names)):
                panels.append(_panel(summary, name, resolution, {model: s.rel_l2 for model, s in samples.items()}))
        looks = attempt("the marks of models", notes, lambda: marks(summary)) or {}
    return Drawn(tuple(plots), grown, tuple(panels), found, tuple(notes), tuple(files), looks)


def attempt(what: str, notes: list[str], make: Callable[[], T]) -> T | None:
    """Return what ``make`` returns, or None and a note where it fails: nothing else of a report is lost with it.

    Raises:
        DiskError: the report cannot be written.
    """
    try:
        return make()
    except DiskError:
        raise
    except Exception as error:
        reason = clean("".join(traceback.format_exception_only(error)), 200)
        notes.append(f"{what}: {reason}")
        logging.getLogger(__name__).warning("left out of the report: %s: %s", what, reason)
        return None


def file_name(text: str) -> str:
    """Return ``text`` with nothing in it that a file system or an address could read as more than a letter."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text)


def _plot(summary: Summary, name: str) -> Picture:
    primary = summary.primary
    metric = summary.metrics[primary]
    seeds = summary.max_seeds > 1
    bars = " Bars: 95 % confidence interval of the median"
    bars += ", from the lowest to the highest of the seeds." if seeds else "."
    bars += f" Some latencies were disturbed: {DISTURBED} in the table." if summary.disturbed else ""
    title, caption = {
        "error_vs_resolution": (
            f"{primary} against resolution",
            f"{plain(metric.summary, 200) or primary}; {metric.direction} is better."
            + (f" Mean over up to {summary.max_seeds} seeds; bars from the lowest to the highest." if seeds else ""),
        ),
        "latency_vs_resolution": (
            "Latency against resolution",
            f"Median latency; both axes logarithmic.{bars}",
        ),
        "memory_vs_resolution": (
            "Peak memory against resolution",
            "Peak memory of the step above what weights and inputs occupy; both axes logarithmic.",
        ),
        "error_vs_latency": (
            f"{primary} against latency",
            "A point per model and resolution, the larger the higher. Rings and dotted steps: the Pareto front, "
            "where no other model at that resolution is both faster and better."
            + bars.replace("median", "median latency")
            + (" Upright: errors from the lowest to the highest seed." if seeds else ""),
        ),
    }[name]
    column = PLOTS[name] or primary
    best = finding(summary, column)
    caption = f"{caption} {best}".strip()
    return Picture(name, title, caption, f"{title}. {best} {_spoken(summary, name, column)}".replace("  ", " ").strip())


def _spoken(summary: Summary, name: str, column: str) -> str:
    """Say the values that a plot shows, or where they stand if they are many."""
    also = "latency_forward_ms" if name == "error_vs_latency" else None
    parts, total = [], 0
    for model in summary.models:
        entries = [e for e in summary.of(model) if column in e.values and (also is None or also in e.values)]
        total += len(entries)
        said = [
            f"{significant(e.values[column].mean)}{_unit(summary, column)} at {e.resolution}"
            + (f" in {significant(e.values[also].mean)} ms" if also else "")
            for e in entries
        ]
        if said:
            parts.append(f"{summary.names[model]} {', '.join(said)}")
    what = {"latency_forward_ms": "Forward: ", "peak_memory_forward_mib": "Forward: "}.get(column, "")
    return f"{what}{'; '.join(parts)}." if 0 < total <= MOST_SPOKEN else "The table has the values."


def finding(summary: Summary, column: str) -> str:
    """Say who is best in a column at the highest resolution that several reached."""
    metric = summary.metrics.get(column)
    for resolution in reversed(summary.resolutions):
        best = summary.best(column, resolution, higher=metric is not None and metric.direction == "higher")
        if best is not None:
            rivals = summary.rivals(column, resolution)
            value = significant(best)
            # What reads the same is as good.
            winners = [summary.names[e.model] for e in rivals if significant(e.values[column].mean) == value]
            said = f"{value}{_unit(summary, column)}"
            if len(winners) == len(rivals):
                return f"{WORDS.get(column, column)} at {resolution}: the same for all {len(rivals)} models ({said})."
            lead = BEST.get(column, f"Best {column}")
            return f"{lead} at {resolution}: {' and '.join(winners)}{' alike' if len(winners) > 1 else ''} ({said})."
    return ""


def _unit(summary: Summary, column: str) -> str:
    metric = summary.metrics.get(column)
    return UNITS.get(column, "") if metric is None else f" {metric.unit}".rstrip()


def _growth(summary: Summary, *, flagged: bool) -> Picture:
    title = f"Cost against the number of {summary.points}"
    caption = (
        "Points are measured, with the confidence interval of a latency; lines are fitted, and the table below gives "
        "their slopes with intervals. Grey: slopes to compare with, 1 dotted and 2 dashed."
        + (" †: with a reservation, which the notes below the table give." if flagged else "")
    )
    return Picture("scaling", title, caption, f"{title}, with fitted exponents; the table below has them.")


def _panel(summary: Summary, name: str, resolution: int, errors: Mapping[str, float]) -> Picture:
    listed = ", ".join(f"{summary.names[model]} {significant(error)}" for model, error in errors.items())
    title = f"Fields at resolution {resolution}"
    caption = (
        "First test sample: coefficient and truth on the left, then each prediction above its absolute error. "
        "Predictions share the truth's colour scale; the errors share one."
    )
    return Picture(name, title, caption, f"{title}. Relative L2 error of the sample: {listed}.")
