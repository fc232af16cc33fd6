"""Panels of fields on a line: the truth and each model's prediction as curves above their errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from attn_bench.report.panels import Sample, field_panel
from attn_bench.report.style import Legend, heading, looks
from attn_bench.report.summary import Summary

WIDTH, HEIGHT = 7.0, 4.6


def sample_panel(samples: Mapping[str, Sample], summary: Summary) -> Figure:
    """Draw the first test sample of each model, on a line or on a grid of two axes."""
    if next(iter(samples.values())).target.ndim == 1:
        return line_panel(samples, summary)
    return field_panel(samples, summary.names)


def line_panel(samples: Mapping[str, Sample], summary: Summary) -> Figure:
    """Draw the truth, dotted, and each model's prediction along the line, and below their absolute errors."""
    look = {model: each for model, each in looks(summary).items() if model in samples}
    first = next(iter(samples.values()))
    points = np.arange(len(first.target))
    legend = Legend(list(look.values()), {}, HEIGHT)
    figure = Figure(figsize=(WIDTH + legend.width, max(legend.height, HEIGHT)), layout="constrained")
    fields, errors = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for model, its in look.items():
        fields.plot(points, samples[model].prediction, color=its.color, linewidth=1.3)
        errors.plot(points, samples[model].error, color=its.color, linewidth=1.3)
    fields.plot(points, first.target, color="#262626", linestyle=":", linewidth=1.8, zorder=5)
    fields.set_ylabel("field (truth dotted)")
    errors.set_ylabel("absolute error")
    errors.set_xlabel("point")
    errors.set_ylim(bottom=0)
    legend.draw(figure)
    heading(figure, summary, "first test sample")
    return figure
