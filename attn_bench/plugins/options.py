"""Options of plugins, the fields of their ``Options``, as the command line and sweep files give them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from attn_bench.contract.base import Plugin, checked
from attn_bench.errors import UserError, unknown
from attn_bench.plugins.values import Text, several, unquoted


def _alternatives(annotation: Any) -> list[str]:
    """Return the allowed values in readable form: the values of a Literal, the members of a union."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(members[0])
    if origin is typing.Literal:
        return list(map(str, members))
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(each for member in members for each in _alternatives(member)))
    if isinstance(annotation, type) and not members:
        return ["None" if annotation is types.NoneType else annotation.__name__]
    return [re.sub(r"\btyping\.|\bNoneType\b", lambda m: "None" if m[0] == "NoneType" else "", str(annotation))]


@dataclass(frozen=True)
class Option:
    """One option as the command line lists it."""

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def type_name(self) -> str:
        """The annotation in readable form, e.g. ``"int | None"``."""
        return " | ".join(_alternatives(self.annotation))

    def parse(self, value: Any, owner: str) -> Any:
        """Return ``value`` converted to the option's type.

        An option of type text takes :class:`Text` literally, whatever it looks like (``0001``, ``null``). Other options
        parse it as YAML if it is not of their type literally. Any other value comes from YAML or Python.

        Raises:
            UserError: it has the wrong type or is out of range.
        """
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        reasons = []
        for meant in self._readings(value):
            try:
                return checked(self.annotation, meant)
            except ValueError as error:
                reasons.append(str(error))
        hint = ""
        if isinstance(value, str):
            hint = f"; write it like [{value}]" if re.match("tuple|list", self.type_name) else ""
        elif str in _members(self.annotation) and value is not None:
            hint = "; put it in quotes if it is meant as text"
        raise UserError(f"option {owner}.{self.name} {reasons[0]}{hint}")

    def parse_all(self, value: Any, owner: str) -> tuple[Any, ...]:
        """Return the values that ``value`` stands for, one or several (:func:`several`); raises UserError."""
        lists = re.match("tuple|list", self.type_name) is not None
        return several(value, lambda each: self.parse(each, owner), lists=lists)

    def _readings(self, value: Any) -> list[Any]:
        """Return the possible readings of ``value``, the most likely first."""
        if not isinstance(value, Text):
            return [value]
        text, members = str(value), _members(self.annotation)
        if members <= {str, type(None)}:
            return [unquoted(text)]
        meant = []
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            # Numbers in lists are tried as text first, too.
            meant = [yaml.load(text, yaml.BaseLoader), yaml.load(text, yaml.SafeLoader)]
        # YAML 1.1 reads 010 as 8, 1:30 as 90 and 2020-01-01 as a date.
        if meant and (re.match(r"[-+]?0\d|[^\[{]*:", text) or isinstance(meant[1], datetime.date)):
            meant.pop()
        return [*meant[1:], text] if members & {str, Any} else [text, *meant]


def _members(annotation: Any) -> set[Any]:
    """Return the types that a union joins, or the one type."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return set(typing.get_args(annotation)) if union else {annotation}


def options_of(plugin: Plugin | type[Plugin]) -> Mapping[str, Option]:
    """Return the options of a plugin, in order."""
    return _options_in(plugin.Options)


@functools.lru_cache
def _options_in(holder: Any) -> Mapping[str, Option]:
    hints = typing.get_type_hints(holder, include_extras=True)
    return {
        field.name: Option(field.name, hints[field.name], field.default, _description(hints[field.name]))
        for field in dataclasses.fields(holder)
    }


def _description(annotation: Any) -> str:
    return next((text for part in getattr(annotation, "__metadata__", ()) if (text := part.description)), "")


def validated(plugin: Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with every value converted to its option's type.

    Raises:
        UserError: an unknown option, or a value of the wrong type or out of range.
    """
    options = options_of(plugin)
    for name in given:
        if name not in options:
            raise unknown(f"option of {plugin.name}", name, options)
    return {name: options[name].parse(value, plugin.name) for name, value in given.items()}


def each_combination(plugin: Plugin, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the values that ``given`` has for each option; one where none has several.

    Raises:
        UserError: an unknown option, or a value of the wrong type or out of range.
    """
    options = options_of(plugin)
    for name in given:
        if name not in options:
            raise unknown(f"option of {plugin.name}", name, options)
    values = [options[name].parse_all(value, plugin.name) for name, value in given.items()]
    return [dict(zip(given, chosen)) for chosen in itertools.product(*values)]


def changed(options: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults; the defaults are part of the plugin's version."""
    usual = type(options)()
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}
