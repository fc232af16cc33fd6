"""Finds plugins by entry point. Listing names imports nothing; loading a plugin imports only its module."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, is_dataclass
from importlib import metadata
from inspect import signature
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from attn_bench.errors import UserError, unknown
from attn_bench.format import clean
from attn_bench.plugin import CONTRACT, KINDS, Model, Plugin, Task, TrainingDefaults
from attn_bench.plugins.fingerprint import Source, combined, sources
from attn_bench.plugins.options import options_of
from attn_bench.plugins.trial import refusal
from attn_bench.plugins.undo import undone

T = TypeVar("T", bound=Model | Task)
GROUPS: Mapping[type, str] = {Model: "attn_bench.models", Task: "attn_bench.tasks"}
OWN = "attn-bench"
# Entries that modules added to the import path when they were imported; the path itself was restored.
_ADDED: dict[str, tuple[str, ...]] = {}
# The plugins that were loaded, with their modules.
_LOADED: dict[Entry[Any], tuple[ModuleType | None, Plugin]] = {}


class BrokenPlugin(UserError):
    """A plugin cannot be used, for the reason ``why``."""

    def __init__(self, name: str, origin: str, why: str) -> None:
        self.why = why
        super().__init__(f"plugin {name!r} ({origin}) is broken: {why}")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name: where its code is and which package registers it."""

    name: str
    target: str
    package: str
    version: str
    base: type[T] = field(repr=False)

    @property
    def origin(self) -> str:
        """Package and version, e.g. ``"attn-bench 0.1.0"``."""
        return f"{self.package} {self.version}".strip()

    @property
    def module(self) -> str:
        """Name of the module that the plugin is in."""
        return self.target.partition(":")[0].strip()

    def load(self, *, contained: bool = True) -> T:
        """Import the plugin and return an instance.

        Args:
            contained: protect this process from side effects of the import; unnecessary if it runs only this plugin.

        Raises:
            UserError: the import fails, or its target is not a plugin.
        """
        if not contained:
            return self._load()
        module, plugin = _LOADED.get(self, (None, None))
        if module is not None and sys.modules.get(self.module) is module:
            return cast(T, plugin)
        # Plugins of the harness, and modules already imported, do not end the process.
        if self.package != OWN and self.module not in sys.modules:
            given = {name: getattr(self, name) for name in ("name", "target", "package", "version")}
            if (why := refusal(GROUPS[self.base], given)) is not None:
                raise self._broken(why)
        paths = list(sys.path)
        with undone():
            plugin = self._load()
            added = tuple(path for path in sys.path if path not in paths)
        if added:
            _ADDED[self.module] = added
        _LOADED[self] = sys.modules.get(self.module), plugin
        return plugin

    def _load(self) -> T:
        try:
            plugin = metadata.EntryPoint(self.name, self.target, "").load()
            self._check(plugin)
            return plugin()
        except BrokenPlugin:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise self._broken(_why(error)) from error

    def _check(self, plugin: Any) -> None:
        if not (isinstance(plugin, type) and issubclass(plugin, self.base)):
            raise self._broken(f"{self.target} is not a subclass of attn_bench.plugin.{self.base.__name__}")
        required = ("name", "summary", *(("kinds",) if issubclass(plugin, Model) else ("kind", "metrics", "defaults")))
        missing = [attribute for attribute in required if not hasattr(plugin, attribute)]
        if missing:
            raise self._broken(f"{self.target} lacks {', '.join(missing)}")
        if plugin.name != self.name:
            raise self._broken(f"its attribute name is {plugin.name!r}, but it is registered as {self.name!r}")
        if (old := _old_form(plugin)) is not None:
            raise self._broken(
                f"its {old}; since version {CONTRACT} of the contract options are the fields of its class Options, and "
                "it takes them as one argument, options"
            )
        if issubclass(plugin, Model) and not isinstance(plugin.kinds, Set):
            raise self._broken(f"its kinds are {plugin.kinds!r}; write a set such as frozenset({{'field'}})")
        for each in plugin.kinds if issubclass(plugin, Model) else {plugin.kind}:
            if each not in KINDS:
                raise self._broken(str(unknown("kind", str(each), KINDS)))
        own = {"presets": Mapping} if self.base is Model else {"metrics": Mapping, "defaults": TrainingDefaults}
        for attribute, kind in {"summary": str, "citation": str, **own}.items():
            if not isinstance(value := getattr(plugin, attribute), kind):
                raise self._broken(f"its {attribute} is of type {type(value).__name__}, not {kind.__name__}")
        if not is_dataclass(plugin.Options):
            raise self._broken("its Options is not a dataclass")
        options_of(plugin)  # raises if the annotations are invalid

    def _broken(self, why: str) -> BrokenPlugin:
        return BrokenPlugin(self.name, self.origin, why)

    def sources(self) -> dict[str, Source]:
        """Return the current files that the plugin's results depend on, by the names of their modules.

        Raises:
            UserError: one of them cannot be found or read.
        """
        try:
            return sources(self.module, _ADDED.get(self.module, ()))
        except UserError as error:
            raise self._broken(str(error)) from None

    def fingerprint(self, found: Mapping[str, Source] | None = None) -> str:
        """Version of the package and a digest of the plugin's sources; an edited plugin thus gets new cells.

        Args:
            found: the sources, if they are known.
        """
        return f"{self.package}=={self.version}+{combined(self.sources() if found is None else found)}"


def _old_form(plugin: type[Plugin]) -> str | None:
    """Return a description of the first method in the form of version 1 of the contract, or None."""
    names = (
        ("build", "unsupported", "growth") if issubclass(plugin, Model) else ("resolve", "prepare", "problem", "splits")
    )
    for name in names:
        parameters = signature(getattr(plugin, name)).parameters.values()
        if any(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters):
            return f"{name}() takes options as keywords"
        if issubclass(plugin, Task) and len(parameters) < 3:
            return f"{name}() takes no options"
    return None


def _why(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {error}".removesuffix(": "))


def _points(group: str) -> list[metadata.EntryPoint]:
    """Return the entries registered in a group; distributions with damaged metadata are ignored."""
    try:
        return list(metadata.entry_points(group=group))
    except Exception:
        points: list[metadata.EntryPoint] = []
        for distribution in metadata.distributions():
            with contextlib.suppress(Exception):
                points += [point for point in distribution.entry_points if point.group == group]
        return points


def _modified(path: str) -> int | None:
    try:
        return os.stat(path or os.curdir).st_mtime_ns
    except OSError:
        return None


def _named(distribution: metadata.Distribution | None) -> tuple[str, str]:
    """Return name and version of a distribution, empty if its metadata lack them."""
    try:
        return (distribution.name or "", distribution.version or "") if distribution else ("", "")
    except Exception:
        return "", ""


class Registry(Generic[T]):
    """The plugins of one kind."""

    def __init__(self, group: str, what: str, base: type[T]) -> None:
        self.group, self.what = group, what
        self.base: type[T] = base
        self._read: tuple[object, dict[str, list[Entry[T]]]] | None = None

    def entries(self) -> Mapping[str, Sequence[Entry[T]]]:
        """Every registered name with its distinct targets (more than one is an error on use)."""
        # Whatever is installed or removed changes the time of a folder.
        state = tuple((path, _modified(path)) for path in sys.path)
        if self._read is None or self._read[0] != state:
            self._read = state, self._entries()
        return self._read[1]

    def _entries(self) -> dict[str, list[Entry[T]]]:
        found: dict[str, list[Entry[T]]] = {}
        named: dict[int, tuple[str, str]] = {}  # each distribution's metadata are parsed once
        for point in sorted(_points(self.group), key=lambda point: (point.name, point.value)):
            origin = named.get(id(point.dist)) or named.setdefault(id(point.dist), _named(point.dist))
            entry = Entry(point.name, point.value, *origin, self.base)
            known = found.setdefault(point.name, [])
            if all(entry.target != other.target for other in known):
                known.append(entry)
        return found

    def entry(self, name: str) -> Entry[T]:
        """Return the entry registered as ``name``.

        Raises:
            UserError: there is none, or several packages register the name.
        """
        entries = self.entries()
        if name not in entries:
            raise unknown(self.what, name, entries)
        registered = entries[name]
        if len(registered) > 1:
            origins = " and ".join(f"{entry.target} ({entry.origin})" for entry in registered)
            raise UserError(f"{self.what} {name!r} is registered twice: {origins}; uninstall one of them")
        return registered[0]

    def load(self, name: str, *, contained: bool = True) -> T:
        """Return an instance of the plugin registered as ``name``; see :meth:`Entry.load`. Raises UserError."""
        return self.entry(name).load(contained=contained)


MODELS: Registry[Model] = Registry(GROUPS[Model], "model", Model)  # type: ignore[type-abstract]
TASKS: Registry[Task] = Registry(GROUPS[Task], "task", Task)  # type: ignore[type-abstract]
