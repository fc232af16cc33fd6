"""Writes the report of a results folder: figures, tables, and the pages with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from attn_bench.analysis.claims.checks import Check
from attn_bench.analysis.claims.claim import read_claims
from attn_bench.analysis.claims.judges import check
from attn_bench.errors import DiskError
from attn_bench.files import atomic_write
from attn_bench.format import for_markdown
from attn_bench.report.html import html_page
from attn_bench.report.latex import latex_table
from attn_bench.report.origin import NOWHERE, read_origin
from attn_bench.report.page import markdown_page
from attn_bench.report.pictures import attempt, draw, file_name
from attn_bench.report.summary import Summary
from attn_bench.report.tables import markdown_table
from attn_bench.results.store import Store

PAGE = "index.html"


def write_report(results: Path | Store, *summaries: Summary, out: Path | None = None, home: str = "") -> list[Path]:
    """Write ``index.html``, ``report.md``, ``table.md``, ``table.tex`` and the figures; return their paths.

    Figures are PNG and SVG. ``index.html`` is self-contained, so that it can be sent as one file. A figure without any
    value is left out; one that cannot be drawn is named on the pages with the reason, and the rest is still written.

    Args:
        results: results folder; its ``artifacts`` are shown for field tasks, its ``environments`` and ``cells`` say
            where the results come from.
        summaries: one for each task of its table (:func:`attn_bench.report.tasks.by_task`). The figures of several
            tasks have the name of the task before theirs.
        out: where to write; by default ``report`` in the folder.
        home: address of a page above ``index.html``, which links to it.

    Raises:
        DiskError: ``out`` cannot be written.
    """
    store = results if isinstance(results, Store) else Store(results).as_it_is()
    out = out or store.folder / "report"
    tables = [markdown_table(summary) for summary in summaries]
    several = len(summaries) > 1
    heads = [f"## {for_markdown(summary.task)}\n\n" if several else "" for summary in summaries]
    _save(out / "table.md", "\n".join(f"{head}{table}" for head, table in zip(heads, tables)))
    _save(out / "table.tex", "\n".join(map(latex_table, summaries)))
    notes: list[str] = []
    ids = [f"{file_name(summary.task)}-" if several else "" for summary in summaries]
    drawn = [draw(store, summary, out, id) for id, summary in zip(ids, summaries)]
    origin = attempt("where the results come from", notes, lambda: read_origin(store)) or NOWHERE
    checks = attempt("claims of papers", notes, lambda: _checks(store)) or []
    drawn[0] = dataclasses.replace(drawn[0], notes=(*drawn[0].notes, *notes))
    parts = [*zip(summaries, drawn)]
    pages: dict[str, Callable[[], str]] = {
        "report.md": lambda: markdown_page(parts, tables, origin, checks),
        PAGE: lambda: html_page(parts, origin, checks, out, home),
    }
    failed: Exception | None = None
    for name, page in pages.items():
        try:
            _save(out / name, page())
        except DiskError:
            raise
        except Exception as error:
            # The other page is still written.
            failed = failed or error
    if failed is not None:
        raise failed
    texts = ("table.md", "table.tex", *pages)
    return [*(path for each in drawn for path in each.files), *(out / name for name in texts)]


def _save(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def _checks(store: Store) -> list[Check]:
    """Check the results against the built-in claims; without records there are no checks."""
    return check(read_claims(), [store]) if (store.folder / "run.json").is_file() else []
