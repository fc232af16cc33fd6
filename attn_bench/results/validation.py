"""Dataclasses as JSON values, and back where the values hold what the dataclass says."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from json import dumps
from typing import TYPE_CHECKING, Any, TypeVar

from attn_bench.format import clean

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

TEXT_CHARACTERS = 20_000
_DEPTH, _ITEMS, _LARGEST = 12, 100_000, 2**63


def as_json(value: Any) -> Any:
    """Return a dataclass, and those in it, as mappings, and sequences as lists; all else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def plain(value: Any, depth: int = 0) -> Any:
    """Return JSON values of bounded size with cleaned text, in which numbers that are not finite are None.

    Raises:
        ValueError: a value of another type, nested too deeply, a list too long, or a whole number too large.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value, TEXT_CHARACTERS, lines=True)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise ValueError("a whole number of more than 64 bits")
        return value
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(f"{type(value).__name__} is not JSON")
    if depth == _DEPTH:
        raise ValueError("nested too deeply")
    if len(value) > _ITEMS:
        raise ValueError(f"{len(value)} entries in one list, more than {_ITEMS}")
    if isinstance(value, Mapping):
        return {clean(str(key), TEXT_CHARACTERS, lines=True): plain(item, depth + 1) for key, item in value.items()}
    return [plain(item, depth + 1) for item in value]


def validated(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the dataclass ``kind`` that ``values``, which are :func:`plain`, hold; what it does not know is dropped.

    Raises:
        ValueError: they do not hold one; says in one line where and why.
    """
    from pydantic import ValidationError

    try:
        # From text: only there a list is a tuple, and yet the text "16" is not a number.
        found: T = _adapter(kind).validate_json(dumps(values), strict=True)  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f", given: {first['input']!r}"
        raise ValueError(clean(f"{where or kind.__name__}: {first['msg']}{given}", 200)) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
