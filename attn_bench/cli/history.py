"""Commands that keep what revisions measured, and show where it stepped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.destinations import output_file
from attn_bench.cli.printing import put
from attn_bench.format import count

if TYPE_CHECKING:
    from attn_bench.history.told import Told

app = typer.Typer(
    help="Keep what each revision measured, and show which costs stepped and where.", rich_markup_mode=None
)
Repo = Annotated[Path, typer.Option("--repo", "--repository", help="Folder of the git repository that was measured.")]
Stored = Annotated[Path, typer.Option("--store", help="Folder of the history.")]
Branch = Annotated[str, typer.Option("--branch", help="Branch, tag or commit whose history is shown.")]


@app.command()
def add(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results folders of one revision, or folders that contain them.", metavar="RESULTS..."),
    ],
    repo: Repo = Path(),
    store: Stored = Path("perf"),
    revision: Annotated[
        str | None, typer.Option(help="Revision that was measured [what is checked out in the repository].")
    ] = None,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Accept results of a work tree with uncommitted changes, and mark them.")
    ] = False,
) -> None:
    """Add what a revision measured to a store; nothing that is in it changes, and several processes can add at once."""
    from attn_bench.history.told import add as add_to
    from attn_bench.results.store import results_folders

    written, cells, commit = add_to(results_folders(results), repo, store, revision, dirty=dirty)
    for path in written:
        print(path)
    if not written:
        print(f"{store}: already has these results of revision {commit[:10]}")
    else:
        print(f"{store}: added {count(cells, 'cell')} of revision {commit[:10]}")


@app.command()
def show(repo: Repo = Path(), store: Stored = Path("perf"), branch: Branch = "HEAD", form: Format = "text") -> None:
    """Show which costs stepped, by how much and between which commits."""
    from attn_bench.history import told as shown

    told = _told(repo, store, branch)
    if form == "json":
        put_json(shown.plain_data(told))
    else:
        put(shown.console(told))


@app.command()
def page(
    repo: Repo = Path(),
    store: Stored = Path("perf"),
    branch: Branch = "HEAD",
    out: Annotated[Path, typer.Option(help="HTML file to write.", callback=output_file)] = Path("history.html"),
) -> None:
    """Write a self-contained page with a curve per cell and cost over revisions."""
    from attn_bench.files import atomic_write
    from attn_bench.history.charts import html_page

    told = _told(repo, store, branch)
    with atomic_write(out) as file:
        file.write(html_page(told).encode())
    for note in told.notes:
        print(note)
    print(f"Page: {out}")


def _told(repo: Path, store: Path, branch: str) -> Told:
    from attn_bench.history.told import tell

    return tell(repo, store, branch)
