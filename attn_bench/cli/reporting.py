"""Commands that show stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.cli.printing import put


def show(folder: Path, table: Any) -> None:
    from attn_bench.report.scaling import console, scaling
    from attn_bench.report.summary import summarise
    from attn_bench.report.tables import console_table

    metrics = _metrics(folder)
    put(console_table(table, metrics))
    if (found := scaling(table)) is not None:
        put(console(found, summarise(table, metrics)))


def _metrics(folder: Path) -> dict[str, Any]:
    from attn_bench.plugin import Metric
    from attn_bench.results import Store

    return {name: Metric(**values) for name, values in Store.open(folder).run_info()["metrics"].items()}


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the report and return its page."""
    from attn_bench.report import write_report
    from attn_bench.results import load

    written = write_report(folder, load(folder), metrics=_metrics(folder), out=out)
    page = next(path for path in written if path.suffix == ".html")
    print(f"Report: {page}")
    return page


def report(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write [RESULTS/report].")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write page, table and plots of stored results again, without running anything."""
    from attn_bench.results import load

    show(results, load(results))
    page = write(results, out)
    if open_:
        _open(page)


def _open(page: Path) -> None:
    import sys
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"attn-bench: no browser found; open {page} in one", file=sys.stderr)
