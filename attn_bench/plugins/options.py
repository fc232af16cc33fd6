"""Options of plugins: the fields of a dataclass or the keyword-only parameters of a function, with types and docs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from attn_bench.errors import UserError, unknown


class Text(str):
    """A value as it was typed on the command line: what it means is the option's to say."""


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
        annotation = self.annotation
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        if typing.get_origin(annotation) is typing.Literal:
            return " | ".join(map(str, typing.get_args(annotation)))
        if isinstance(annotation, type) and not typing.get_args(annotation):
            return annotation.__name__
        return re.sub(r"\btyping\.|\bNoneType\b", lambda m: "None" if m[0] == "NoneType" else "", str(annotation))

    def parse(self, value: Any, owner: str) -> Any:
        """Return ``value`` as the option's type.

        :class:`Text` is taken as it stands by an option that is text, whatever it looks like (``0001``, ``null``);
        else as YAML, where as it stands it is not of the type. Any other value is one of YAML or Python.

        Raises:
            UserError: it is not of the type; a truth value is no number, and a number no text.
        """
        from pydantic import TypeAdapter, ValidationError

        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        adapter = TypeAdapter(self.annotation)
        reasons = []
        for meant in self._readings(value):
            try:
                parsed = adapter.validate_python(meant)
            except ValidationError as error:
                reasons.append(error.errors()[0]["msg"])
                continue
            if not _counts_truth(meant, parsed):
                return parsed
            reasons.append("true and false are no numbers")
        hint = ""
        if isinstance(value, str):
            hint = f"; write it like [{value}]" if re.match("tuple|list", self.type_name) else ""
            value = str(value)
        elif str in _members(self.annotation) and value is not None:
            hint = "; put it in quotes if it is meant as text"
        raise UserError(f"option {owner}.{self.name}: {value!r} is no {self.type_name} ({reasons[0]}){hint}")

    def _readings(self, value: Any) -> list[Any]:
        """Return what ``value`` may mean, the likeliest first."""
        if not isinstance(value, Text):
            return [value]
        text, members = str(value), _members(self.annotation)
        if members <= {str, type(None)}:
            return [text]
        meant = []
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            # Numbers in lists are text first, too.
            meant = [yaml.load(text, yaml.BaseLoader), yaml.load(text, yaml.SafeLoader)]
        # YAML 1.1 takes 010 for 8, 1:30 for 90 and 2020-01-01 for a date.
        if meant and (re.match(r"[-+]?0\d|[^\[{]*:", text) or isinstance(meant[1], datetime.date)):
            meant.pop()
        return [*meant[1:], text] if members & {str, Any} else [text, *meant]


def _members(annotation: Any) -> set[Any]:
    """Return the types that a union joins, or the one type."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return set(typing.get_args(annotation)) if union else {annotation}


def _counts_truth(value: Any, parsed: Any) -> bool:
    """Tell whether a truth value became a number, which pydantic allows."""
    if isinstance(value, bool):
        return isinstance(parsed, int | float) and not isinstance(parsed, bool)
    if isinstance(value, list | tuple) and isinstance(parsed, list | tuple):
        return any(map(_counts_truth, value, parsed))
    return False


def options_of(holder: type | Callable[..., Any]) -> dict[str, Option]:
    """Return the options that ``holder`` has, in order: the fields of a dataclass or the keyword-only parameters."""
    return _fields_of(holder) if dataclasses.is_dataclass(holder) else _parameters_of(holder)


def _fields_of(options: type) -> dict[str, Option]:
    hints = typing.get_type_hints(options, include_extras=True)
    return {
        field.name: Option(field.name, hints[field.name], field.default, _description(hints[field.name]))
        for field in dataclasses.fields(options)
    }


def _description(annotation: Any) -> str:
    return next((text for part in getattr(annotation, "__metadata__", ()) if (text := part.description)), "")


def _parameters_of(function: Callable[..., Any]) -> dict[str, Option]:
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


def validated(owner: str, holder: type | Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with every value as its option's type.

    Raises:
        UserError: an option ``holder`` does not have, or a value of the wrong type.
    """
    options = options_of(holder)
    for name in given:
        if name not in options:
            raise unknown(f"option of {owner}", name, options)
    return {name: options[name].parse(value, owner) for name, value in given.items()}
