"""``attn-bench data``: generate or download the data of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from attn_bench.cli.completion import among, named
from attn_bench.cli.flags import takes
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

_SETTINGS = [
    each for each in settings_of(Sweep).values() if each.name in ("resolutions", "set") or each.group == "paths"
]


@takes(_SETTINGS)
def data(
    task: Annotated[str, typer.Argument(help="Task, e.g. darcy.", autocompletion=among(lambda: named("tasks")))],
    given: Mapping[str, Any] = {},
    refresh: Annotated[bool, typer.Option(help="Generate or download the data again even if they are cached.")] = False,
) -> None:
    """Generate or download the data of a task and show where they are stored."""
    from attn_bench.cli.progress import DataBar
    from attn_bench.plugin import PrepareContext
    from attn_bench.plugins.registry import TASKS

    resolutions, options = Sweep.of_task(task, given)
    with DataBar(f"{task} data") as bar:
        prepared = TASKS.load(task).prepare(resolutions, options, PrepareContext(bar.update, refresh))
    for line in prepared.read or (f"{task}: nothing to generate or download; its data are installed with it",):
        print(line)
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for file in prepared.files:
        print("  ".join(f"{name}: {value}" for name, value in asdict(file).items() if value is not None))
