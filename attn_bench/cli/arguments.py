"""What several commands read from their arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.errors import UserError

Root = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder that holds a published set (--set TASK.root=FOLDER).")
]


def merged(settings: Mapping[str, Any], sets: list[str], **paths: Path | None) -> dict[str, Any]:
    """Return the options of the sweep file with those of ``--set`` laid over them, and with ``paths`` as the task's."""
    from attn_bench.plugins.options import Text, options_of
    from attn_bench.plugins.registry import TASKS

    options = _options(settings.get("options"))
    for text in sets:
        # The first '.NAME=' ends the owner, whose label may hold dots and equals signs, as the value may.
        found = re.fullmatch(r"\s*(.+?)\.([^\W\d][\w-]*)\s*=(.*)", text, re.DOTALL)
        if not found:
            raise UserError(f"--set {text}: write NAME.OPTION=VALUE, e.g. --set mano.dim=64")
        owner, name, value = found.groups()
        options.setdefault(owner, {})[name] = Text(value)
    task = str(settings.get("task") or "")
    for name, path in paths.items():
        if path is not None:
            if task and name not in options_of(TASKS.load(task)):
                raise UserError(f"--{name.replace('_', '-')} {path}: {task} reads no such files; leave it out")
            options.setdefault(task, {})[name] = str(path)
    return options


def _options(given: Any) -> dict[str, dict[str, Any]]:
    """Return the options of a sweep file; raises UserError unless they are mappings of names."""
    for values in (given or {}, *(given.values() if isinstance(given, Mapping) else ())):
        if not isinstance(values, Mapping | None):
            raise UserError(f"setting options: {values!r} is no mapping; write e.g. 'options: {{mano: {{dim: 64}}}}'")
    return {str(owner): {str(name): value for name, value in (of or {}).items()} for owner, of in (given or {}).items()}


def integers(name: str, text: str | None) -> list[int] | None:
    """Parse ``16,32`` or ``16..512`` (doubling from the first to the last)."""
    if text is None:
        return None
    values: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dots, last = part.partition("..")
        try:
            value, end = int(first), int(last) if dots else int(first)
        except ValueError:
            raise UserError(f"{name} {text}: {part!r} is no whole number; write e.g. 16,32 or 16..256") from None
        if value < 2:
            raise UserError(f"{name} {text}: a resolution is at least 2 (given: {value})")
        values.append(value)
        while values[-1] < end:
            values.append(2 * values[-1])
        if values[-1] != end:
            raise UserError(f"{name} {text}: a range doubles from {value}, and never is {end}; name them one by one")
    if not values:
        raise UserError(f"{name}: none given; write e.g. 16,32 or 16..256")
    return values


def names(text: str | None) -> list[str] | None:
    """Parse ``mano,fno``."""
    return None if text is None else [name for name in text.split(",") if name.strip()]
