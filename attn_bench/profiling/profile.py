"""Records cells one after another and writes their tables, traces and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.files import atomic_write, safe_name
from attn_bench.profiling.recorded import Recording, recordings
from attn_bench.sweep.cell import Cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Profile:
    """What was recorded of some cells.

    Attributes:
        failures: a line for each cell of which nothing or not every step was recorded.
    """

    recordings: Sequence[Recording]
    failures: Sequence[str]


def profile(cells: Sequence[Cell], out: Path, calls: int, say: Callable[[str], object]) -> Profile:
    """Record the steps of cells and write what was found to ``out``.

    That is ``index.html``, ``operators.csv``, ``modules.csv``, and a Chrome trace of each step.

    Args:
        calls: of each step that are recorded.
        say: called with the title of each cell before it is recorded.

    Raises:
        DiskError: ``out`` cannot be written.
    """
    from attn_bench.profiling import breakdown
    from attn_bench.profiling.flame import html_page
    from attn_bench.running.cell_failures import Failure, failures_to

    found: list[Recording] = []
    failures: list[str] = []
    for cell in cells:
        say(cell.title)
        if cell.broken is not None:
            failures.append(f"{cell.title}: {cell.broken}")
            continue
        wrong: list[Failure] = []
        with failures_to(wrong.append):
            found.extend(recordings(cell, calls, _traces(out, cell)))
        failures += (f"{cell.title}: {each.status}, {each.reason}" for each in wrong)
    if found:
        _write_csv(breakdown.frame(found, breakdown.operators), out / "operators.csv")
        _write_csv(breakdown.frame([each for each in found if each.modules], breakdown.modules), out / "modules.csv")
        with atomic_write(out / "index.html") as file:
            file.write(html_page(found, failures).encode())
    return Profile(found, failures)


def _traces(out: Path, cell: Cell) -> Callable[[str], Path]:
    named = safe_name(f"{cell.model}-{cell.resolution}-{cell.id[:6]}", 80)
    return lambda step: out / f"{named}-{step}.trace.json"


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as file:
        table.to_csv(file, index=False)
