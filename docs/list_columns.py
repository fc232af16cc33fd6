"""Lists the columns and the metrics in docs/table.md from the code that makes them; a test holds them equal.

``python docs/list_columns.py`` writes the list again, and the names that no metric may have.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attn_bench.plugin import Metric
from attn_bench.plugins.registry import TASKS
from attn_bench.results import quantities
from attn_bench.results.table import columns
from attn_bench.sweep.cell import GROUPS

TAKEN = Path(__file__).parents[1] / "attn_bench" / "contract" / "taken_names.py"
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


def taken() -> str:
    """Return the module with the names that have a meaning in every table, so that no metric may have them."""
    measured = quantities.quantities()
    names = {
        *(column.column for column in columns({})),
        *(name for quantity in measured for name in (quantity.name, quantity.group.name)),
        # Settings of which a folder has several values have columns.
        *(field.name for group in GROUPS.values() for field in dataclasses.fields(group)),
    }
    lines = "".join(f'        "{name}",\n' for name in sorted(names))
    about = '"""Names of columns, quantities and settings, which no metric may have; by docs/list_columns.py."""'
    return f"{about}\n\nTAKEN = frozenset(\n    {{\n{lines}    }}\n)\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, [":--"] * len(heads), *rows))


if __name__ == "__main__":
    page, tables = PAGE.read_text(encoding="utf-8"), iter((listed(), metrics()))
    PAGE.write_text(re.sub(r"(?m)(^\|.*\n)+", lambda _: next(tables) + "\n", page), encoding="utf-8")
    TAKEN.write_text(taken(), encoding="utf-8")
