"""The fields of settings: their names, types and ranges, and how their values are read.

One parser serves the command line, sweep files and Python, so that all three accept the same values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from attn_bench.contract.base import checked
from attn_bench.errors import UserError, unknown
from attn_bench.plugins.values import Text, several

T = TypeVar("T")


class Also:
    """Other names that users try for a setting; the error for one of them names the setting."""

    def __init__(self, *names: str) -> None:
        self.names = names


@dataclass(frozen=True)
class Flag:
    """The flag of a setting that is not called like it: ``--from`` would be no name in Python."""

    name: str


@dataclass(frozen=True)
class Notation:
    """Another way to write a setting than as a value of its type; ``read`` returns the value that is checked."""

    read: Callable[[Any], Any]


@dataclass(frozen=True)
class Axis:
    """Says whether several values of a setting may be given, each of which makes cells of its own.

    Settings of a group are axes unless they say otherwise, others are not.
    """

    holds: bool = True


@dataclass(frozen=True)
class Repeated:
    """A flag that may be given several times, and how its value is shown in help."""

    metavar: str


@dataclass(frozen=True)
class Setting:
    """One field.

    Attributes:
        name: key in a sweep file and keyword in Python; the flag is ``--name`` with dashes.
        group: field of :class:`attn_bench.sweep.settings.Sweep` that holds its group; empty for its own fields.
        annotation: its type with help text and range.
        default: None where there is none, or where the task has one.
    """

    name: str
    group: str
    annotation: Any
    default: Any

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        own = (each.name for each in self._metadata if isinstance(each, Flag))
        return next(own, f"--{self.name.replace('_', '-')}")

    @property
    def type(self) -> Any:
        """Its type, without annotations."""
        return get_args(self.annotation)[0] if get_origin(self.annotation) is Annotated else self.annotation

    @property
    def description(self) -> str:
        """Its help text."""
        return next((text for each in self._metadata if (text := getattr(each, "description", None))), "")

    @property
    def also(self) -> tuple[str, ...]:
        """Other names that users try for it."""
        return tuple(name for each in self._metadata if isinstance(each, Also) for name in each.names)

    @property
    def axis(self) -> bool:
        """Whether several values may be given."""
        said = next((each.holds for each in self._metadata if isinstance(each, Axis)), None)
        return bool(self.group) if said is None else said

    @property
    def repeated(self) -> str:
        """How a value of a flag that may be repeated is shown; empty for any other."""
        return next((each.metavar for each in self._metadata if isinstance(each, Repeated)), "")

    @property
    def _metadata(self) -> tuple[Any, ...]:
        return getattr(self.annotation, "__metadata__", ())

    @property
    def bounds(self) -> str:
        """Its range, e.g. ``>= 0, < 1``; empty where it has none."""
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        limits = [item for each in _metadata(self.annotation) for item in getattr(each, "metadata", ())]
        return ", ".join(
            f"{sign} {getattr(limit, name)}" for limit in limits for name, sign in signs.items() if hasattr(limit, name)
        )

    @property
    def type_name(self) -> str:
        """Its type in words: ``int``, ``one of cpu, cuda``, ``list of int``."""
        return _in_words(self.type)

    def read(self, value: Any) -> Any:
        """Return ``value`` converted to the type of the setting; raises UserError if it cannot be converted."""
        typed = any(isinstance(each, Text) for each in (value if isinstance(value, list) else [value]))
        where = self.flag if typed else f"setting {self.name}"
        try:
            return self.converted(str(value) if isinstance(value, Text) else value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None

    def converted(self, value: Any) -> Any:
        """Return ``value`` as :meth:`read` does; the message of a ValueError follows the name of the setting."""
        for notation in (each for each in self._metadata if isinstance(each, Notation)):
            value = notation.read(value)
        return checked(self.annotation, value)

    def read_all(self, value: Any) -> tuple[Any, ...]:
        """Return the values that ``value`` stands for; one unless the setting is an axis. Raises UserError."""
        if not self.axis:
            return (self.read(value),)
        return several(value, self.read, lists=get_origin(self.type) in (tuple, list))


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield the annotations of a type and of the types inside it."""
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        if not isinstance(annotation, type) and get_origin(annotation) is not Literal:
            yield from _metadata(inner)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        values = ", ".join(map(str, get_args(kind)))
        return f"one of {values}" if len(get_args(kind)) > 1 else values
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(each) for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is tuple:
        return f"list of {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is Annotated:
        return _in_words(get_args(kind)[0])
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    return {"str": "text", "Path": "path", "Mapping": "mapping"}.get(name, name)


def group_of(annotation: Any) -> type | None:
    """Return the dataclass that an annotation such as ``Training`` or ``FineTuning | None`` names, or None."""
    members = (annotation, *get_args(annotation))
    return next((each for each in members if isinstance(each, type) and dataclasses.is_dataclass(each)), None)


def settings_of(holder: type) -> Mapping[str, Setting]:
    """Return the settings in the fields of ``holder`` and of its groups, in order."""
    return _settings_in(holder)


@functools.cache
def _settings_in(holder: type) -> Mapping[str, Setting]:
    return {setting.name: setting for setting in _settings_of(holder, "")}


def _hints(holder: type) -> Mapping[str, Any]:
    return _hints_in(holder)


@functools.cache
def _hints_in(holder: type) -> Mapping[str, Any]:
    return get_type_hints(holder, include_extras=True)


def _settings_of(holder: type, group: str) -> Iterator[Setting]:
    hints = _hints(holder)
    for entry in dataclasses.fields(holder):
        inner = group_of(hints[entry.name])
        if inner is not None:
            yield from _settings_of(inner, entry.name)
        elif entry.metadata.get("setting", True):
            default = None if entry.default is dataclasses.MISSING else entry.default
            yield Setting(entry.name, group, hints[entry.name], default)


def built(holder: type[T], given: Mapping[str, Any]) -> T:
    """Return an instance of ``holder`` from values that were read; a group is built if one of its settings is given."""
    settings, hints = settings_of(holder), _hints(holder)
    values: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        group = settings[name].group
        (groups.setdefault(group, {}) if group else values)[name] = value
    for group, own in groups.items():
        kind = group_of(hints[group])
        assert kind is not None
        values[group] = kind(**own)
    return holder(**values)


def replaced(holder: T, given: Mapping[str, Any]) -> T:
    """Return ``holder`` with values of its settings and of those of its groups replaced, by name."""
    known = settings_of(type(holder))
    values: dict[str, Any] = {name: value for name, value in given.items() if not known[name].group}
    for group in dict.fromkeys(known[name].group for name in given if known[name].group):
        kind = group_of(_hints(type(holder))[group])
        assert kind is not None
        own = {name: value for name, value in given.items() if known[name].group == group}
        values[group] = dataclasses.replace(getattr(holder, group) or kind(), **own)
    return dataclasses.replace(holder, **values)  # type: ignore[type-var]


def misnamed(name: str, settings: Collection[Setting], what: str = "setting") -> UserError:
    """Return the error for a setting that does not exist; it suggests the one that was probably meant."""
    for setting in settings:
        if name.replace("-", "_") in setting.also:
            return UserError(f"unknown {what} {name!r}; did you mean {setting.name!r}?")
    return unknown(what, name, (setting.name for setting in settings))


def read(holder: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values converted to the types of ``holder``'s settings, without those that are None.

    Raises:
        UserError: a setting that does not exist, or a value of the wrong type or range.
    """
    known = _known(holder, given)
    return {name: known[name].read(value) for name, value in given.items() if value is not None}


def read_axes(holder: type, given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return every value given for each setting of ``holder``, several where it is an axis; as :func:`read` else."""
    known = _known(holder, given)
    return {name: known[name].read_all(value) for name, value in given.items() if value is not None}


def _known(holder: type, given: Iterable[str]) -> Mapping[str, Setting]:
    known = settings_of(holder)
    for name in given:
        if name not in known:
            raise misnamed(str(name), known.values())
    return known
