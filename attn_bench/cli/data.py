"""``attn-bench data``: make or download the data of a task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from attn_bench.cli.arguments import Root, integers, merged
from attn_bench.errors import UserError


def data(
    task: Annotated[str, typer.Argument(help="Task, e.g. darcy.")],
    resolution: Annotated[
        str | None, typer.Option("--resolution", "--resolutions", help="Grid sizes, e.g. 64 or 16,32.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Option of the task.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your own data file, to check it (--set TASK.data=FILE).")] = None,
    root: Root = None,
    refresh: Annotated[bool, typer.Option(help="Make or download them again even if they are cached.")] = False,
) -> None:
    """Make or download the data of a task, and say where they are."""
    from attn_bench.cli.progress import DataBar
    from attn_bench.plugin import PrepareContext
    from attn_bench.plugins.options import validated
    from attn_bench.plugins.registry import TASKS

    plugin = TASKS.load(task)
    given = merged({"task": task}, set_ or [], root=root, data=data)
    for owner in given:
        if owner != task:
            raise UserError(f"--set {owner}.…: only {task} options can be set here")
    resolutions = tuple(integers("--resolution", resolution) or plugin.defaults.resolutions)
    options = plugin.resolve(resolutions, plugin.options(**validated(plugin, given.get(task, {}))))
    with DataBar(f"{task} data") as bar:
        prepared = plugin.prepare(resolutions, options, PrepareContext(bar.update, refresh))
    for line in prepared.read or (f"{task}: nothing to make or download; its data are installed with it",):
        print(line)
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for file in prepared.files:
        print("  ".join(f"{name}: {value}" for name, value in asdict(file).items() if value is not None))
