"""The command that writes a site over many results folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_bench.cli.destinations import output_folder
from attn_bench.format import count


def publish(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders, or folders that contain them.", metavar="FOLDER...")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the site; an earlier one in it is replaced.", callback=output_folder)
    ],
) -> None:
    """Write a static site over many results folders: a leaderboard, the page of each run, and the table of all.

    It needs no server and no network. A folder of a repository can be published as it is, for example by GitHub Pages.
    """
    from attn_bench.publish.site import publish as write
    from attn_bench.results.store import results_folders

    site = write(results_folders(folders), out)
    if site.repeated:
        print(f"{count(site.repeated, 'row')} left out, as another one is of the same cell and machine")
    print(f"{count(site.runs, 'run')}, {count(site.rows, 'row')}")
    print(f"Site: {site.page}")
