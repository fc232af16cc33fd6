"""Options of plugins: the keyword-only parameters of a function, their types, defaults and docstrings."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attn_bench.errors import UserError, unknown


@dataclass(frozen=True)
class Option:
    """One option as the command line lists it."""

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def type_name(self) -> str:
        """The annotation as a person would write it, e.g. ``"int | None"``."""
        if typing.get_origin(self.annotation) is typing.Literal:
            return " | ".join(map(str, typing.get_args(self.annotation)))
        if isinstance(self.annotation, type) and not typing.get_args(self.annotation):
            return self.annotation.__name__
        return re.sub(r"\btyping\.|\bNoneType\b", lambda m: "None" if m[0] == "NoneType" else "", str(self.annotation))

    def parse(self, value: Any, owner: str) -> Any:
        """Return ``value`` (text from the command line, or a YAML value) as the option's type; raises UserError."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(self.annotation).validate_python(value)
        except ValidationError as error:
            hint = f"; write it like [{value}]" if isinstance(value, str) and "tuple" in self.type_name else ""
            raise UserError(
                f"option {owner}.{self.name}: {value!r} is no {self.type_name} ({error.errors()[0]['msg']}){hint}"
            ) from None


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the keyword-only parameters of ``function``, in order.

    Their documentation is read from an ``Args:`` section of its docstring, lines of the form ``name: text``.
    """
    docs = _argument_docs(inspect.getdoc(function) or "")
    return {
        name: Option(
            name,
            _annotation(function, parameter),
            None if parameter.default is parameter.empty else parameter.default,
            docs.get(name, ""),
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    # One at a time: other annotations may name torch, which plugins import for type checking only.
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    return typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}))[parameter.name]


def _argument_docs(docstring: str) -> dict[str, str]:
    _, found, section = docstring.partition("Args:\n")
    docs: dict[str, str] = {}
    name = ""
    indent = None
    for line in section.splitlines() if found else []:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if depth == 0:
            break
        indent = depth if indent is None else indent
        match = re.match(r"(\w+)(?: \([^)]*\))?: (.*)", line.strip())
        if depth == indent and match:
            name = match[1]
            docs[name] = match[2]
        elif name:
            docs[name] += " " + line.strip()
    return docs


def validated(owner: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with every value as its option's type.

    Raises:
        UserError: an option ``function`` does not have, or a value of the wrong type.
    """
    options = options_of(function)
    for name in given:
        if name not in options:
            raise unknown(f"option of {owner}", name, options)
    return {name: options[name].parse(value, owner) for name, value in given.items()}
