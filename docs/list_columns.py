"""Lists the columns in docs/table.md from the code that makes them; a test holds them equal.

``python docs/list_columns.py`` writes the list again.
"""

from __future__ import annotations

import re
from pathlib import Path

from attn_bench.plugin import Metric
from attn_bench.results.table import columns

PAGE = Path(__file__).with_name("table.md")
METRICS = {"one column per metric": Metric("lower", "of the task; `attn-bench list tasks NAME` defines them")}


def listed() -> str:
    """Return the columns as a Markdown table."""
    rows = ((f"`{of.column}`" if of.column.isidentifier() else of.column, of.summary) for of in columns(METRICS))
    return "\n".join(["| Column | Meaning |", "| :-- | :-- |", *(f"| {name} | {text} |" for name, text in rows)])


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"(?m)(^\|.*\n)+", listed() + "\n", page), encoding="utf-8")
