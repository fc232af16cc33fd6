"""The panel of fields on a line, and of the first of several channels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_bench.plugin import Metric
from attn_bench.report.lines import line_panel
from attn_bench.report.panels import _read
from attn_bench.report.pictures import _panel
from attn_bench.report.summary import summarise


def test_curves_of_each_model_above_their_errors(tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "cell.npz", **{name: random.random((2, 3, 30)) for name in ("input", "target", "prediction")})
    sample = _read(tmp_path / "cell.npz", "")
    assert (sample.target.shape, sample.channels) == ((30,), 3)
    rows = [{"cell": m, "model": m, "resolution": 30, "seed": 0, "status": "ok", "rel_l2": 0.1} for m in "ab"]
    summary = summarise(pd.DataFrame(rows), {"rel_l2": Metric("lower", "the error")})
    figure = line_panel({"a": sample, "b": sample}, summary)
    FigureCanvasAgg(figure).draw()
    fields, errors = figure.axes
    assert (fields.lines[0].get_ydata() == sample.prediction).all()
    assert (fields.lines[-1].get_ydata() == sample.target).all()
    assert (errors.lines[0].get_ydata() == np.abs(sample.prediction - sample.target)).all()
    assert (len(fields.lines), len(errors.lines)) == (3, 2)
    picture = _panel(summary, "30", {"a": sample, "b": sample})
    assert "the truth, dotted" in picture.caption
    assert "The first of 3 channels" in picture.caption
