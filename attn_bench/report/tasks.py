"""The tasks of a results table, each with a summary of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric
from attn_bench.report.summary import Summary, summarise

if TYPE_CHECKING:
    import pandas as pd


def by_task(table: pd.DataFrame, tasks: Mapping[str, Mapping[str, Metric]]) -> list[Summary]:
    """Return a summary of each task of a table, in the order of ``tasks``, which has the metrics of each.

    Raises:
        UserError: as :func:`summarise` does.
    """
    if len(tasks) == 1 or "task" not in table.columns:
        return [summarise(table, next(iter(tasks.values()), {}))]
    held = table["task"].astype(str)
    return [summarise(table[held == task], metrics) for task, metrics in tasks.items() if (held == task).any()]
