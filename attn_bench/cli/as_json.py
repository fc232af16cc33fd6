"""Output for other programs: ``--format json``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from attn_bench.format import clean

_FORMATS = ("text", "json")


def _known(name: str) -> str:
    if name not in _FORMATS:
        raise typer.BadParameter(f"{clean(name, 40)!r} is not one of {', '.join(_FORMATS)}")
    return name


Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar=f"[{'|'.join(_FORMATS)}]",
        callback=_known,
        autocompletion=lambda: list(_FORMATS),
        help="Output as text, or as JSON for other programs.",
    ),
]


def put_json(value: Any) -> None:
    """Print a value as JSON: dataclasses as objects, numbers that are not finite as null."""
    print(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Iterable) else str(value)
