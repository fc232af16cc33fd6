"""Figures of rollouts: the error of each state, the spectrum of the last one, and a strip of states of each model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from attn_bench.report.axes import value_axis
from attn_bench.report.overlap import MARKER
from attn_bench.report.panels import Field, Rollout
from attn_bench.report.style import Legend, folded, heading, looks
from attn_bench.report.summary import Summary

WIDTH, HEIGHT = 6.0, 3.6
TILE, NAME_WIDTH, NAME_LETTERS = 1.25, 1.3, 16
# States in a strip, and curves with more of them have no markers.
MOST_STATES, MOST_MARKED = 6, 40
# The least power that is drawn, as a share of the largest.
DEEPEST = 1e-10


def error_by_step(rollouts: Mapping[str, Rollout], summary: Summary) -> Figure | None:
    """Draw the mean relative L2 error of each predicted state, a curve for each model."""
    look = {model: each for model, each in looks(summary).items() if model in rollouts}
    seen = [value for model in look for value in rollouts[model].errors.tolist()]
    if not seen:
        return None
    legend = Legend(list(look.values()), {}, HEIGHT)
    figure = Figure(figsize=(WIDTH + legend.width, legend.height), layout="constrained")
    axes = figure.subplots()
    value_axis(axes, seen, higher=False)
    for model, its in look.items():
        errors = rollouts[model].errors
        marker = its.marker if len(errors) <= MOST_MARKED else ""
        states = np.arange(1, len(errors) + 1)
        axes.plot(states, errors, color=its.color, marker=marker, markersize=MARKER, markeredgecolor="white")
    axes.set_xlabel("predicted state")
    axes.set_ylabel("rel. L2 of the state, lower is better")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend.draw(figure)
    heading(figure, summary, "error along the rollout")
    return figure


def spectra(rollouts: Mapping[str, Rollout], summary: Summary) -> Figure | None:
    """Draw the spectrum of the last state of the first test trajectory, of the truth and of each model."""
    truth = spectrum(next(iter(rollouts.values())).target[-1])
    look = {model: each for model, each in looks(summary).items() if model in rollouts}
    found = {model: spectrum(rollouts[model].prediction[-1]) for model in look}
    found = {model: powers for model, powers in found.items() if np.isfinite(powers).all()}
    if not found or not np.isfinite(truth).all() or not truth.any():
        return None
    legend = Legend([look[model] for model in found], {}, HEIGHT)
    figure = Figure(figsize=(WIDTH + legend.width, legend.height), layout="constrained")
    axes = figure.subplots()
    waves = np.arange(1, len(truth) + 1)
    for model, powers in found.items():
        axes.plot(waves, powers, color=look[model].color)
    axes.plot(waves, truth, color=axes.xaxis.label.get_color(), linestyle="--")
    axes.annotate("truth (dashed)", (0.03, 0.04), xycoords="axes fraction", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # What a model lost is seen without the rounding of states that have no fine structure, such as the mean.
    largest = max(float(powers.max()) for powers in (truth, *found.values()))
    axes.set_ylim(float(max(truth[truth > 0].min() / 100, DEEPEST * largest)), 3 * largest)
    axes.set_xlabel("wavenumber (cycles per side)")
    axes.set_ylabel("squares of Fourier coefficients")
    axes.xaxis.set_major_locator(FixedLocator([2.0**i for i in range(12) if 2**i <= len(truth)]))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    legend.draw(figure)
    heading(figure, summary, "spectrum of the last state")
    return figure


def spectrum(state: Field) -> Field:
    """Return the sums of squared Fourier coefficients by wavenumber, (H, W) -> (min(H, W) // 2,).

    As in the metric ``spectrum_error`` (:func:`attn_bench.tasks.shared.rollout_metrics.spectrum`), without torch.
    """
    power = np.abs(np.fft.fft2(state, norm="forward")) ** 2
    lengths = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in state.shape), indexing="ij"))
    sums = np.bincount(lengths.round().astype(int).ravel(), power.ravel())
    return np.asarray(sums[1 : min(state.shape) // 2 + 1])


def strips(rollouts: Mapping[str, Rollout], names: Mapping[str, str]) -> Figure:
    """Draw states of the first test trajectory at a few times, the truth above each model, on one color scale."""
    first = next(iter(rollouts.values()))
    count, height, width = first.target.shape
    states = np.unique(np.linspace(0, count - 1, min(count, MOST_STATES)).round().astype(int))
    rows = [("truth", first.target)]
    rows += [(folded(names[model], NAME_LETTERS), rollout.prediction) for model, rollout in rollouts.items()]
    tall = min(max(height / width, 0.4), 2.5)
    size = (TILE * len(states) + NAME_WIDTH, (TILE * tall + 0.1) * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(states), squeeze=False)
    largest = float(np.abs(first.target[np.isfinite(first.target)]).max(initial=0)) or 1.0
    for axes_of_row, (name, fields) in zip(grid, rows):
        axes_of_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for axes, state in zip(axes_of_row, states):
            shown = axes.imshow(
                fields[state], origin="lower", interpolation="nearest", cmap="RdBu_r", vmin=-largest, vmax=largest
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
    for axes, state in zip(grid[0], states):
        axes.set_title(f"state {state + 1}", fontsize=9, fontweight="normal")
    figure.colorbar(shown, ax=grid, shrink=min(0.8, 3 / len(rows)), label="field", extend="both")
    return figure
