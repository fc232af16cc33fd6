"""Lists the columns and the metrics in docs/table.md from the code that makes them; a test holds them equal.

``python docs/list_columns.py`` writes the list again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attn_bench.plugin import Metric
from attn_bench.plugins.registry import TASKS
from attn_bench.results.table import columns

PAGE = Path(__file__).with_name("table.md")
METRICS = {"METRIC": Metric("lower", "one column for each metric of the task, see below")}


def listed() -> str:
    """Return the columns as a Markdown table."""
    return _table(("Column", "Meaning"), ((f"`{of.column}`", of.summary) for of in columns(METRICS)))


def metrics() -> str:
    """Return the metrics of the built-in tasks as a Markdown table."""
    tasks: dict[tuple[str, Metric], list[str]] = {}
    for name in TASKS.entries():
        if (entry := TASKS.entry(name)).origin.startswith("attn-bench"):
            for metric, about in entry.load().metrics.items():
                tasks.setdefault((metric, about), []).append(f"`{name}`")
    rows = (
        (f"`{name}`", ", ".join(of), about.direction, about.unit or "-", about.summary.replace("|", "\\|"))
        for (name, about), of in tasks.items()
    )
    return _table(("Metric", "Tasks", "Better", "Unit", "Meaning"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, [":--"] * len(heads), *rows))


if __name__ == "__main__":
    page, tables = PAGE.read_text(encoding="utf-8"), iter((listed(), metrics()))
    PAGE.write_text(re.sub(r"(?m)(^\|.*\n)+", lambda _: next(tables) + "\n", page), encoding="utf-8")
