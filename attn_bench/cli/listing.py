"""Commands that show what can be run, and prepare its data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from attn_bench.cli.arguments import Root, integers, merged
from attn_bench.errors import UserError


def list_(
    what: Annotated[str, typer.Argument(metavar="models|tasks", help="What to list.")],
    name: Annotated[str | None, typer.Argument(help="One of them.")] = None,
) -> None:
    """Show models or tasks with their options, where they come from, and those that are broken."""
    from attn_bench.cli.describe import describe
    from attn_bench.plugins.registry import MODELS, TASKS, Registry

    groups: dict[str, Registry[Any]] = {"models": MODELS, "tasks": TASKS}
    if what not in groups:
        raise UserError(f"list {what}: say 'attn-bench list models' or 'attn-bench list tasks'")
    for line in describe(groups[what], name):
        print(line)


def data(
    task: Annotated[str, typer.Argument(help="Task, e.g. darcy.")],
    resolution: Annotated[
        str | None, typer.Option("--resolution", "--resolutions", help="Grid sizes, e.g. 64 or 16,32.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Option of the task.")
    ] = None,
    root: Root = None,
    refresh: Annotated[bool, typer.Option(help="Make or fetch them again even if they are cached.")] = False,
) -> None:
    """Make or download the data of a task, and say where they are."""
    from attn_bench.cli.progress import DataBar
    from attn_bench.plugin import PrepareContext
    from attn_bench.plugins.options import validated
    from attn_bench.plugins.registry import TASKS

    plugin = TASKS.load(task)
    options = merged({"task": task}, set_ or [], root=root)
    for owner in options:
        if owner != task:
            raise UserError(f"--set {owner}.…: only options of {task} make sense here")
    resolutions = tuple(integers("--resolution", resolution) or plugin.defaults.resolutions)
    chosen = plugin.resolve(resolutions, plugin.options(**validated(plugin, options.get(task, {}))))
    with DataBar(f"{task} data") as bar:
        prepared = plugin.prepare(resolutions, chosen, PrepareContext(bar.update, refresh))
    for line in prepared.read or (f"{task}: nothing to make or fetch; its data come with what is installed",):
        print(line)
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for file in prepared.files:
        print("  ".join(f"{name}: {value}" for name, value in asdict(file).items() if value is not None))
