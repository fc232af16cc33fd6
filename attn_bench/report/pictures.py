"""The figures of a report as files, each with its caption and its alternative text."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attn_bench.analysis.scaling import Scaling
from attn_bench.errors import DiskError
from attn_bench.format import clean, plain, significant
from attn_bench.report.curves import Curve, EqualTime, beside_others, equal_times, read_curves
from attn_bench.report.entry import DISTURBED, ON_TEST, Entry
from attn_bench.report.summary import Summary
from attn_bench.report.trainings import Trainings, read_trainings
from attn_bench.results.quantities import PARTS, Group, Quantity, quantities
from attn_bench.results.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attn_bench.report.panels import Sample
    from attn_bench.report.points import Point

T = TypeVar("T")
# A longer list of values is of no help when read aloud; the table has them.
MOST_SPOKEN = 24


@dataclass(frozen=True)
class Picture:
    """A figure in the report's folder, as ``<name>.png`` and ``<name>.svg``.

    Attributes:
        name: of its files.
        title, caption: shown with it.
        alt: what it shows, in words (alternative text).
        points: where its points are, and what they are about.
    """

    name: str
    title: str
    caption: str
    alt: str
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """All figures of a results folder.

    Attributes:
        id: begins the names of the figures and the anchors of the page, where there are several tasks.
        plots: against resolution.
        trade_off: error against latency.
        growth: cost against tokens.
        panels: fields, by resolution; of rollouts the error by step as well.
        parts: of a training step.
        training: curves along the training.
        equal_times: errors after equal times of training, from these curves.
        trainings: how models were trained, where not all were trained alike.
        scaling: the fits shown in ``growth``.
        notes: what could not be shown, and why.
        files: paths of all figures.
        marks: color and marker of each model in the figures, as SVG.
    """

    plots: tuple[Picture, ...]
    trade_off: Picture | None
    growth: Picture | None
    panels: tuple[Picture, ...]
    scaling: Scaling | None
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    marks: Mapping[str, str] = field(default_factory=dict)
    parts: Picture | None = None
    training: Picture | None = None
    equal_times: tuple[EqualTime, ...] = ()
    trainings: Trainings | None = None
    id: str = ""

    @property
    def pictures(self) -> list[Picture]:
        """Every figure."""
        return [*self.plots, *filter(None, (self.trade_off, self.growth, self.parts, self.training)), *self.panels]


def draw(store: Store, summary: Summary, out: Path, id: str = "") -> Drawn:
    """Draw every figure that has a value and save it in ``out`` as PNG and SVG; ``notes`` name what fails.

    Args:
        id: begins the names of the files, where a report has several tasks.

    Raises:
        DiskError: ``out`` cannot be written.
    """
    # matplotlib takes a second to import; the table for the terminal does not need it.
    from attn_bench.report.curves_figure import training_curves
    from attn_bench.report.figures import cost_vs_resolution, error_vs_resolution
    from attn_bench.report.panels import shown_at
    from attn_bench.report.parts_figure import train_step_parts
    from attn_bench.report.scaling_figure import figure as scaling_figure
    from attn_bench.report.style import marks, style
    from attn_bench.report.trade_off import error_vs_latency

    notes: list[str] = []
    files: list[Path] = []
    shown = _Saved(out, id, notes, files)
    with style():
        plots = [shown("error_vs_resolution", partial(error_vs_resolution, summary), partial(_errors, summary))]
        for group in dict.fromkeys(quantity.group for quantity in quantities("figures")):
            drawing = partial(cost_vs_resolution, summary, group)
            plots.append(shown(group.figure, drawing, partial(_costs, summary, group)))
        trade_off = shown("error_vs_latency", partial(error_vs_latency, summary), partial(_trade_off, summary))
        parts = shown("train_step_parts", partial(train_step_parts, summary), partial(_parts, summary))
        trainings = attempt("how models were trained", notes, lambda: read_trainings(store, summary))
        curves = attempt("training curves", notes, lambda: read_curves(store, summary)) or []
        drawing = partial(training_curves, curves, summary)
        training = shown("training_curves", drawing, partial(_training, summary, curves))
        found = attempt("scaling", notes, lambda: summary.scaling)
        grown = None
        if found is not None:
            flagged = any(fit.flag for fit in found.fits)
            describe = partial(_growth, summary, flagged=flagged)
            grown = shown("scaling", partial(scaling_figure, found, summary), describe)
        panels = [each for at in shown_at(summary) for each in _of_samples(store, summary, shown, *at)]
        looks = attempt("the marks of models", notes, lambda: marks(summary)) or {}
    return Drawn(
        tuple(filter(None, plots)), trade_off, grown, tuple(filter(None, panels)), found, tuple(notes), tuple(files),
        looks, parts, training, tuple(equal_times(curves, higher=summary.primary.higher)), trainings, id,
    )  # fmt: skip


@dataclass(frozen=True)
class _Saved:
    """Draws figures and saves them; ``notes`` and ``files`` grow."""

    out: Path
    id: str
    notes: list[str]
    files: list[Path]

    def __call__(self, name: str, make: Callable[[], Figure | None], describe: Callable[[], Picture]) -> Picture | None:
        from attn_bench.report.points import points
        from attn_bench.report.style import save

        def saved() -> tuple[list[Path], tuple[Point, ...]] | None:
            figure = make()
            return None if figure is None else (save(figure, self.out, self.id + name), points(figure))

        found = attempt(name, self.notes, saved)
        if found is None:
            return None
        self.files.extend(found[0])
        return dataclasses.replace(describe(), name=self.id + name, points=found[1])


def _of_samples(store: Store, summary: Summary, shown: _Saved, resolution: int, evaluated: int) -> list[Picture | None]:
    """Draw a test sample and its predictions, or of rollouts the error by step, the last spectrum and some states."""
    from attn_bench.report.lines import sample_panel
    from attn_bench.report.panels import read_samples
    from attn_bench.report.rollouts import error_by_step, spectra, strips

    samples, unread = read_samples(store.folder, summary, resolution, evaluated)
    shown.notes.extend(unread)
    if not samples:
        return []
    at = f"{resolution}" if evaluated == resolution else f"{resolution}_at_{evaluated}"
    name = f"{'' if shown.id else file_name(summary.task) + '_'}panel_{at}"
    if rollouts := {model: sample.rollout for model, sample in samples.items() if sample.rollout is not None}:
        by_step = partial(_by_step, summary, at, {m: float(each.errors[-1]) for m, each in rollouts.items()})
        channels = next(iter(rollouts.values())).channels
        return [
            shown(f"error_by_step_{at}", partial(error_by_step, rollouts, summary), by_step),
            shown(f"spectrum_{at}", partial(spectra, rollouts, summary), partial(_spectra, at, channels)),
            shown(name, partial(strips, rollouts, summary.names), partial(_strips, at, channels)),
        ]
    return [shown(name, partial(sample_panel, samples, summary), partial(_panel, summary, at, samples))]


def attempt(what: str, notes: list[str], make: Callable[[], T]) -> T | None:
    """Return what ``make`` returns, or None and add a note if it fails; the rest of the report is still written.

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
    """Return ``text`` without characters that have a special meaning in paths or addresses."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text)


def _errors(summary: Summary) -> Picture:
    metric = summary.primary
    caption = f"{plain(metric.summary, 200) or metric.label}; {metric.group.better} is better."
    if summary.max_seeds > 1:
        caption += f" Mean over up to {summary.max_seeds} seeds."
    if summary.metric_bars:
        caption += f" Bars: {summary.metric_bars}."
    return _picture(summary, "error_vs_resolution", f"{metric.axis} against resolution", caption, metric)


def _costs(summary: Summary, group: Group) -> Picture:
    first = next(quantity for quantity in quantities("figures") if quantity.group == group)
    bars = _bars(summary) if group.rule == "timed" else ""
    caption = f"{group.definition[:1].upper()}{group.definition[1:]}. Both axes are logarithmic.{bars}"
    return _picture(summary, group.figure, f"{group.words.capitalize()} against resolution", caption, first)


def _trade_off(summary: Summary) -> Picture:
    (cost,) = quantities("trade-off")
    caption = (
        "A point per model and resolution; larger points are higher resolutions. Rings and dotted steps: the Pareto "
        "front, where no other model at that resolution is both faster and better." + _bars(summary)
    )
    if summary.metric_bars:
        caption += f" Vertical bars: {summary.metric_bars}."
    title = f"{summary.primary.axis} against {cost.axis}"
    return _picture(summary, "error_vs_latency", title, caption, summary.primary, cost)


def _bars(summary: Summary) -> str:
    text = " Bars: 95 % confidence interval of the median latency"
    text += ", from the lowest to the highest of the seeds." if summary.max_seeds > 1 else "."
    return text + (f" Some latencies were disturbed: {DISTURBED} in the table." if summary.disturbed else "")


def _picture(
    summary: Summary, name: str, title: str, caption: str, shown: Quantity, cost: Quantity | None = None
) -> Picture:
    """Return a figure whose caption names the best model, with its values in words unless they are too many."""
    best = finding(summary, shown)
    parts, total = [], 0
    for model in summary.models:
        entries = [
            e for e in summary.of(model) if shown.column in e.values and (cost is None or cost.column in e.values)
        ]
        total += len(entries)
        values = [f"{_value(e, shown)} at {e.resolution}" + (f" in {_value(e, cost)}" if cost else "") for e in entries]
        if values:
            parts.append(f"{summary.names[model]} {', '.join(values)}")
    spoken = f"{shown.axis}: {'; '.join(parts)}." if 0 < total <= MOST_SPOKEN else "The table has the values."
    return Picture(name, title, f"{caption} {best}".strip(), " ".join(filter(None, (f"{title}.", best, spoken))))


def _value(entry: Entry, quantity: Quantity) -> str:
    return f"{significant(entry.values[quantity.column].mean)} {quantity.unit}".rstrip()


def finding(summary: Summary, quantity: Quantity) -> str:
    """Return which model is best in a quantity at the highest resolution that several models reached."""
    for resolution in reversed(summary.resolutions):
        best = summary.best(quantity, resolution)
        if best:
            value, names = _value(best[0], quantity), [summary.names[entry.model] for entry in best]
            if len(best) == len(summary.candidates(quantity, resolution)):
                return f"{quantity.axis} at {resolution}: the same for all {len(best)} models ({value})."
            lead = f"Best {quantity.axis}" if quantity.rule == "accuracy" else f"Lowest {quantity.axis}"
            named = f"{', '.join(names[:-1])} and {names[-1]} alike" if len(names) > 1 else names[0]
            return f"{lead} at {resolution}: {named} ({value})."
    return ""


def findings(summary: Summary) -> list[str]:
    """Return what is best in accuracy, and in the first cost of each kind that figures show."""
    firsts = {quantity.group: quantity for quantity in reversed(quantities("figures"))}
    each = (summary.primary, *reversed(firsts.values()))
    return [text for quantity in each if (text := finding(summary, quantity))]


def _parts(summary: Summary) -> Picture:
    title = "Parts of a training step"
    definition = PARTS.definition
    caption = (
        f"{definition[:1].upper()}{definition[1:]}. Percentages are shares of the sum of the medians, which "
        "need not be the median of the whole step."
    )
    backward = next(quantity for quantity in quantities("parts") if quantity.step == "backward")
    said = [
        f"{summary.names[entry.model]} at {entry.resolution} {_value(entry, backward)}"
        for entry in summary.entries
        if backward.column in entry.values
    ]
    spoken = f" Backward pass: {', '.join(said)}." if len(said) <= MOST_SPOKEN else ""
    return Picture("train_step_parts", title, caption, f"{title}: forward and loss, backward, optimizer.{spoken}")


def _training(summary: Summary, curves: Sequence[Curve]) -> Picture:
    title = "Loss and error along the training"
    caption = (
        "By step and by second, a curve for each training. The seconds are those of training, without the evaluations "
        "along it. The loss is a mean over the steps since the point before"
    )
    parts = dict.fromkeys(curve.part for curve in curves if curve.part)
    if parts:
        caption += f"; {summary.primary.axis} is that of the {' or '.join(parts)} set"
    if any(curve.selected is not None for curve in curves):
        caption += "; rings are around the weights that were kept"
    if "test" in parts:
        caption += f" ({ON_TEST}: chosen by the test error)"
    caption = " ".join(filter(None, (f"{caption}.", beside_others(curve.under for curve in curves))))
    return Picture("training_curves", title, caption, f"{title}; the table below has errors after equal times.")


def _growth(summary: Summary, *, flagged: bool) -> Picture:
    title = f"Cost against the number of {summary.points}"
    caption = (
        "Points are measured, latencies with their confidence intervals; lines are fitted, and the table below gives "
        "their slopes with intervals. Gray: reference slopes, 1 dotted and 2 dashed."
        + (" †: see the notes below the table." if flagged else "")
    )
    return Picture("scaling", title, caption, f"{title}, with fitted exponents; the table below has them.")


def _by_step(summary: Summary, at: str, last: Mapping[str, float]) -> Picture:
    listed = ", ".join(f"{summary.names[model]} {significant(error)}" for model, error in last.items())
    title = f"Error along the rollout at resolution {_trained_and_at(at)}"
    caption = "Mean over the test set of the relative L2 error of each state, predicted from the model's own states."
    return Picture("error_by_step", title, caption, f"{title}. Last state: {listed}.")


def _spectra(at: str, channels: int) -> Picture:
    title = f"Spectrum of the last state at resolution {_trained_and_at(at)}"
    caption = (
        "First test trajectory: squared Fourier coefficients of the last predicted state, summed over the waves of a "
        "length. Below the truth a model has lost structure of that size, above it has made some up."
        + _of_channels(channels)
    )
    return Picture("spectrum", title, caption, f"{title}: the truth, and the prediction of each model.")


def _strips(at: str, channels: int) -> Picture:
    title = f"States at resolution {_trained_and_at(at)}"
    caption = "First test trajectory: states of the truth, and those that each model predicts; one color scale for all."
    caption += _of_channels(channels)
    return Picture("panel", title, caption, f"{title}: the truth, and the prediction of each model.")


def _of_channels(count: int) -> str:
    return f" The first of {count} channels." if count > 1 else ""


def _trained_and_at(at: str) -> str:
    resolution, _, evaluated = at.partition("_at_")
    return f"{evaluated}, trained at {resolution}" if evaluated else resolution


def _panel(summary: Summary, at: str, samples: Mapping[str, Sample]) -> Picture:
    listed = ", ".join(f"{summary.names[model]} {significant(sample.rel_l2)}" for model, sample in samples.items())
    title = f"Fields at resolution {_trained_and_at(at)}"
    first = next(iter(samples.values()))
    if first.target.ndim == 1:
        caption = "First test sample: the truth, dotted, and each prediction; below, their absolute errors."
    else:
        caption = (
            "First test sample: input and truth on the left, then each prediction above its absolute error. "
            "Predictions share the truth's color scale; the errors share one."
        )
    if first.channels > 1:
        caption += f" The first of {first.channels} channels, to which the errors belong."
    return Picture("panel", title, caption, f"{title}. Relative L2 error of the sample: {listed}.")
