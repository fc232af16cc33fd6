"""The rows of the folders in ``results/``, and numbers in words, for docs/answers.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from attn_bench import load
from attn_bench.analysis.claims.evidence import Estimate, mean
from attn_bench.format import with_spread
from attn_bench.plugins.registry import TASKS
from attn_bench.report import tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
# What tells the cells of a model apart, in its label.
VARIANT = r" \[.*"


@cache
def table(folder: str) -> pd.DataFrame:
    """Return the rows of a folder; none where there is no such folder."""
    path = RESULTS / folder
    return load(path) if (path / "run.json").exists() else pd.DataFrame()


def rows(folder: str, task: str | None = None, **equal: object) -> pd.DataFrame:
    """Return rows of a folder that are ok and have these values."""
    found = table(folder)
    if found.empty:
        return found
    found = found[(found["status"] == "ok") & (found["task"] == task if task else True)]
    for name, value in equal.items():
        found = found[found[name] == value] if name in found else found.iloc[:0]
    return found


def own(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are evaluated at the resolution trained at."""
    if found.empty or "eval_resolution" not in found:
        return found
    return found[found["eval_resolution"].isna() | (found["eval_resolution"] == found["resolution"])]


def estimates(found: pd.DataFrame, metric: str, by: Sequence[str]) -> dict[tuple[object, ...], Estimate]:
    """Return the mean over seeds of a metric for every combination of values of ``by``."""
    if found.empty or metric not in found:
        return {}
    groups = found.dropna(subset=[metric]).groupby(list(by), sort=False, dropna=False)[metric]
    return {key if isinstance(key, tuple) else (key,): mean(list(map(float, values))) for key, values in groups}


def number(estimate: Estimate) -> str:
    """Return a mean with its standard deviation over seeds, or one seed's value."""
    return with_spread(estimate.value, estimate.deviation)


@cache
def higher(metric: str) -> bool:
    """Tell whether higher values are better, by the tasks that have the metric; lower ones are of costs."""
    own = [TASKS.load(name) for name, claims in TASKS.entries().items() if claims[0].package == "attn-bench"]
    return any(metric in task.metrics and task.metrics[metric].direction == "higher" for task in own)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return tables.lines(heads, range(1, len(heads)), lines)
