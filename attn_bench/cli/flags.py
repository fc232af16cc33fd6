"""Generates the flags of commands from the fields of settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from attn_bench.cli.completion import Complete, among, named
from attn_bench.errors import UserError
from attn_bench.plugins.values import Text
from attn_bench.sweep.fields import Setting

Command = Callable[..., None]


def takes(settings: Iterable[Setting]) -> Callable[[Command], Command]:
    """Give a command a flag for each of ``settings``; its parameter ``given`` receives those given, by name.

    A value is passed on as :class:`Text`, which the setting parses.
    """
    known = {setting.name: setting for setting in settings}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in known}
            given = {name: _once(known[name], value) for name, value in values.items() if value}
            command(given={name: _text(value) for name, value in given.items()}, **arguments)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
            parameters += map(_parameter, known.values()) if parameter.name == "given" else own
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _once(setting: Setting, values: list[Any]) -> Any:
    """Return the value of a flag; raises UserError where it has several, of which all but one would be lost."""
    if setting.repeated or (setting.type is bool and setting.axis):
        return values
    if len(values) > 1:
        several = setting.axis or "list of " in setting.type_name or setting.type_name == "mapping"
        once = f"all its values at once, e.g. {setting.flag} {','.join(values)}" if several else "it once"
        raise UserError(f"{setting.flag}: given {len(values)} times; give {once}")
    return values[0]


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return Text(value) if isinstance(value, str) else value


def _parameter(setting: Setting) -> inspect.Parameter:
    kind: Any
    if setting.type is bool:
        # Both flags together are both values of an axis.
        kind = list[bool] | None
        option = typer.Option(f"{setting.flag}/--no-{setting.flag[2:]}", help=_help(setting))
    else:
        kind = list[str] | None
        option = typer.Option(
            setting.flag, help=_help(setting), metavar=_metavar(setting), autocompletion=_completion(setting)
        )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


# What the names are of that these settings take.
_NAMED = {"models": "models", "task": "tasks", "recipe": "recipes"}


def _completion(setting: Setting) -> Complete | None:
    """Return what completes a value in a shell, where the values are known."""
    literal = next((each for each in (setting.type, *get_args(setting.type)) if get_origin(each) is Literal), None)
    if literal is not None:
        return among(lambda: get_args(literal))
    of = _NAMED.get(setting.name)
    return among(lambda: named(of)) if of else None


def _help(setting: Setting) -> str:
    default = setting.default
    shown = "" if default in (None, (), False) else f" [default: {'on' if default is True else default}]"
    return f"{setting.description}{shown}"


def _metavar(setting: Setting) -> str:
    kind = next((each for each in get_args(setting.type) if each is not NoneType), setting.type)
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if setting.repeated:
        return setting.repeated
    if get_origin(setting.type) is Literal:
        return f"[{'|'.join(get_args(setting.type))}]{',...' if setting.axis else ''}"
    if get_origin(setting.type) is tuple or setting.type_name.endswith("list of int"):
        return "LIST"
    return {int: "INTEGER", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT") + (",..." if setting.axis else "")
