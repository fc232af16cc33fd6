"""Converts dataclasses to JSON values and validates them on the way back."""

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
# A dictionary is found to be one at once, without asking the abstract class.
_MAPPINGS = (dict, Mapping)
_DEPTH, _ITEMS, _LARGEST = 12, 100_000, 2**63


def as_json(value: Any) -> Any:
    """Return nested dataclasses as mappings and sequences as lists; anything else is unchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def plain(value: Any, depth: int = 0) -> Any:
    """Return JSON values of bounded size with cleaned text; numbers that are not finite become None.

    Raises:
        ValueError: a value of another type, too deep nesting, too long a list, or too large an integer.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cleaned(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise ValueError("an integer of more than 64 bits")
        return value
    mapping = isinstance(value, _MAPPINGS)
    if not mapping and not isinstance(value, (list, tuple)):
        raise ValueError(f"{type(value).__name__} is not JSON")
    if depth == _DEPTH:
        raise ValueError("nested too deeply")
    if len(value) > _ITEMS:
        raise ValueError(f"{len(value)} entries in one list, more than {_ITEMS}")
    if mapping:
        return {_cleaned_key(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if {*map(type, value)} == {float}:  # samples
        return [item if item - item == 0 else None for item in value]
    return [plain(item, depth + 1) for item in value]


# Most keys are names of fields.
@functools.lru_cache(maxsize=4096)
def _cleaned_key(text: str) -> str:
    return _cleaned(text)


def _cleaned(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS and text.isascii() and text.isprintable() and not text.endswith(" "):
        return text  # as most are
    return clean(text, TEXT_CHARACTERS, lines=True)


def validated(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a ``kind`` built from ``values``, which come from :func:`plain`; unknown keys are dropped.

    Raises:
        ValueError: they are invalid; says in one line where and why.
    """
    # From text, as only there a list may be a tuple while the text "16" is not a number.
    return from_text(kind, dumps(values))


def from_text(kind: type[T], text: str) -> T:
    """Return a ``kind`` from JSON whose values come from :func:`plain`; raises as :func:`validated` does."""
    from pydantic import ValidationError

    try:
        found: T = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
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
