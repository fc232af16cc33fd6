"""How several values are written in the place of one: ``2,4,8`` on the command line, a list in YAML and Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attn_bench.errors import UserError

T = TypeVar("T")
_PAIRS = {"[": "]", "(": ")", "{": "}"}


class Text(str):
    """A value as it was typed on the command line: what it means is the option's to say."""


def several(value: Any, one: Callable[[Any], T], *, lists: bool = False) -> tuple[T, ...]:
    """Return what ``value`` stands for: one value or several, each read by ``one``, without repeats.

    A list that ``one`` reads is a value, any other list holds several. Typed text is split at its commas
    (:func:`split`), other text only where it is not a value as it stands.

    Args:
        lists: whether each value is a list itself.

    Raises:
        UserError, ValueError: what ``one`` raises.
    """
    parts = _parts(value)
    if not (isinstance(value, Text) and len(split(value)) > 1):
        try:
            return (one(value),)
        except (ValueError, UserError):
            if not parts or parts == [value]:
                raise
    found: list[T] = []
    for part in parts:
        try:
            read = one(part)
        except (ValueError, UserError):
            if lists:
                one(value)  # raises what the whole lacks
            raise
        if read not in found:
            found.append(read)
    return tuple(found)


def _parts(value: Any) -> list[Any]:
    """Return the values that ``value`` can be taken apart into."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    kind, parts = type(value), split(value)
    if len(parts) == 1 and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        parts = split(value.strip()[1:-1])
    return [kind(part) for part in parts]


def split(text: str) -> list[str]:
    """Return the parts of ``text`` between commas, except those in quotes or brackets; empty parts are left out.

    Quotes count at the beginning of a part, brackets if they are closed.
    """
    parts, start, i = [], 0, 0
    while i < len(text):
        if text[i] in "\"'" and not text[start:i].strip():
            i = max(_end_of_quote(text, i), i)
        elif text[i] in _PAIRS:
            i = max(_closed(text, i), i)
        elif text[i] == ",":
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [stripped for part in (*parts, text[start:]) if (stripped := part.strip())]


def _end_of_quote(text: str, start: int) -> int:
    """Return where the quote at ``start`` ends, -1 if it does not; two quotes in a row stand for one."""
    mark, i = text[start], text.find(text[start], start + 1)
    while i >= 0 and text[i + 1 : i + 2] == mark:
        i = text.find(mark, i + 2)
    return i


def _closed(text: str, start: int) -> int:
    """Return where the bracket at ``start`` is closed, -1 if it is not."""
    open_: list[str] = []
    for i in range(start, len(text)):
        if text[i] in _PAIRS:
            open_.append(_PAIRS[text[i]])
        elif text[i] == open_[-1]:
            open_.pop()
            if not open_:
                return i
    return -1


def unquoted(text: str) -> str:
    """Return ``text`` without quotes around the whole of it, if they protect a comma."""
    if len(text) > 1 and text[0] in "\"'" and "," in text and _end_of_quote(text, 0) == len(text) - 1:
        return text[1:-1].replace(2 * text[0], text[0])
    return text


def quoted(text: str) -> str:
    """Return ``text`` so that it is read back as one value: in quotes where it would be split or lose its own."""
    plain = len(split(text)) <= 1 and unquoted(text) == text
    return text if plain else "'" + text.replace("'", "''") + "'"
