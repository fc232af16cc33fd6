"""The base class of models and tasks: a name, a summary and checked options."""

from __future__ import annotations

import re
from abc import ABC
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

from attn_bench.errors import OptionError


class Plugin(ABC):
    """Base class of models and tasks.

    Attributes:
        name: what users write after ``--models`` or ``--task``; equal to the name of the entry point.
        summary: one line.
        citation: where it was published, e.g. ``"arXiv:2507.02748"``.
        Options: a frozen dataclass; each field is an option, ``Annotated`` with its help text and range
            (``pydantic.Field``), with a default. The options of a family are inherited.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""

    @dataclass(frozen=True)
    class Options:
        """No options."""

    @classmethod
    def options(cls, **given: Any) -> Any:
        """Return :attr:`Options` with ``given``, each checked against its type and range.

        Raises:
            OptionError: an unknown option, a value out of its range, or an invalid combination of values.
        """
        hints = get_type_hints(cls.Options, include_extras=True)
        names = [option.name for option in fields(cls.Options)]
        values = {}
        for name, value in given.items():
            if name not in names:
                raise OptionError(f"{cls.name} has no option {name}; there are: {', '.join(names) or 'none'}")
            try:
                values[name] = checked(hints[name], value)
            except ValueError as error:
                raise OptionError(f"option {cls.name}.{name} {error}") from None
        return cls.Options(**values)


def checked(annotation: Any, value: Any) -> Any:
    """Return ``value`` converted to the type ``annotation``; the message of a ValueError follows the option's name."""
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        must_be = " or ".join(dict.fromkeys(_in_words(each["msg"]) for each in error.errors()))
    else:
        if not _counts_truth(value, found) and not _too_long(found):
            return found
        must_be = "a number of at most 64 bits" if _too_long(found) else "a number, not true or false"
    raise ValueError(f"must be {must_be} (given: {value!r})")


def _in_words(reason: str) -> str:
    reason = re.sub(r"^Input should be |, (unable|got) .*", "", reason)
    signs = {"greater than or equal to": ">=", "less than or equal to": "<=", "greater than": ">", "less than": "<"}
    for words, sign in signs.items():
        reason = reason.replace(words, sign)
    return reason


def _too_long(found: Any) -> bool:
    """Tell whether an integer has more bits than a table can store."""
    if isinstance(found, list | tuple):
        return any(map(_too_long, found))
    return isinstance(found, int) and not -(2**63) <= found < 2**63


def _counts_truth(value: Any, found: Any) -> bool:
    """Tell whether a bool became a number, which pydantic allows."""
    if isinstance(value, bool):
        return isinstance(found, int | float) and not isinstance(found, bool)
    if isinstance(value, list | tuple) and isinstance(found, list | tuple):
        return any(map(_counts_truth, value, found))
    return False
