"""Commands that show stored results."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn_bench.cli.destinations import output_folder
from attn_bench.cli.error_messages import logged_in
from attn_bench.cli.flags import takes
from attn_bench.cli.printing import put
from attn_bench.errors import UserError
from attn_bench.sweep.execution import Running
from attn_bench.sweep.fields import settings_of

if TYPE_CHECKING:
    from attn_bench.results.store import Store

_TRACK = settings_of(Running)["track"]


def conclude(store: Store, table: Any, *, report: bool, out: Path | None = None) -> Path | None:
    """Write the report of a results folder if requested, then print its table; return the page of the report.

    The table is printed even if the report cannot be written.
    """
    from rich.text import Text

    from attn_bench.report import by_task, console_table, write_report
    from attn_bench.report.scaling_table import console

    summaries, page = by_task(table, store.run_info().tasks), None
    try:
        if report:
            page = next(path for path in write_report(store, *summaries, out=out) if path.suffix == ".html")
    finally:
        for summary in summaries:
            if len(summaries) > 1:
                put(Text(f"{summary.task}:", "bold"))
            put(console_table(summary))
            if summary.scaling is not None:
                put(console(summary.scaling, summary))
        if text := _not_ok(store.folder, table):
            print(text)
    if page is not None:
        print(f"Report: {page}")
    return page


def _not_ok(folder: Path, table: Any) -> str:
    """Return how many cells are not ok, and where their logs are; empty if all are ok."""
    statuses = table.drop_duplicates("cell")["status"].astype(str)
    failed = statuses[statuses != "ok"].value_counts().sort_index()
    if failed.empty:
        return ""
    counted = ", ".join(f"{count} {status}" for status, count in failed.items())
    verb = "is" if failed.sum() == 1 else "are"
    logs = f"; logs: {folder / 'logs'}" if (folder / "logs").is_dir() else ""
    return f"{failed.sum()} of {len(statuses)} cell{'s' * (len(statuses) > 1)} {verb} not ok: {counted}{logs}"


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders, or folders that contain them.", metavar="FOLDER...")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the merged results; it may hold results already.", callback=output_folder)
    ],
) -> None:
    """Merge results folders, for example of several machines, into one.

    The same cell is taken once. If its records differ, one that is ok is kept, then the newest, and a line says so.
    """
    from attn_bench.results.joining import join
    from attn_bench.results.store import results_folders

    joined = join(results_folders(folders), out)
    for line in (*joined.unusable, *joined.conflicts):
        print(line)
    taken = ", ".join(f"{count} from {folder}" for folder, count in joined.taken.items())
    same = f"; {joined.repeated} in several folders, the same" if joined.repeated else ""
    differ = f"; {len(joined.conflicts)} with different records" if joined.conflicts else ""
    print(f"{out}: {joined.cells} cell{'s' * (joined.cells != 1)}, {taken}{same}{differ}")


@takes([_TRACK])
def report(
    results: Annotated[Path, typer.Argument(help="Results folder, or a folder that contains them.")],
    out: Annotated[Path | None, typer.Option(help="Output folder [RESULTS/report].", callback=output_folder)] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    given: Mapping[str, Any] = {},
) -> None:
    """Rewrite the page, table and plots of stored results without running anything.

    With --out, only the page and its plots are written, there; table.csv and table.parquet stay as they are.

    With --track, cells that were not sent to a tracker yet are sent there, with the table and the page.
    """
    from attn_bench.results.store import results_folders

    folders = results_folders([results])
    if out is not None and len(folders) > 1:
        raise UserError(
            f"--out {out}: one folder for {len(folders)} reports; omit it, or put them on one site with "
            f"'attn-bench publish {results} --out {out}'"
        )
    for folder in folders:
        page = _rewrite(folder, out, given)
        if open_ and page is not None:
            _open(page)


def _rewrite(folder: Path, out: Path | None, given: Mapping[str, Any]) -> Path | None:
    from attn_bench.results.store import Store, loaded
    from attn_bench.running.trackers.tracking import Tracking

    with logged_in(folder):
        store = Store.open(folder).as_it_is()
        table = loaded(store)
        if out is None:
            store.write_table()
        tracking = Tracking.of(_TRACK.read(given.get("track", ())), folder, warning)
        page = conclude(store, table, report=True, out=out)
        tracking.finish(page)
    return page


def warning(message: str) -> None:
    """Show a warning on standard error."""
    print(f"attn-bench: warning: {message}", file=sys.stderr)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"attn-bench: no browser found; open {page} yourself", file=sys.stderr)
