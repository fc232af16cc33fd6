"""Finds plugins by entry point. Listing names imports nothing; loading a plugin imports its module alone."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Generic, TypeVar, get_args

from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Kind, Model, Task

KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T", bound=Model | Task)
SOURCES = (".py", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name: where its code is and which package brings it."""

    name: str
    target: str
    package: str
    version: str
    base: type[T] = field(repr=False)

    @property
    def origin(self) -> str:
        """Package and version, e.g. ``"attn-bench 0.1.0"``."""
        return f"{self.package} {self.version}".strip()

    def load(self) -> T:
        """Import the plugin and return an instance.

        Raises:
            UserError: it fails to import, or what it names is no plugin.
        """
        try:
            plugin = metadata.EntryPoint(self.name, self.target, "").load()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise self._broken(f"{type(error).__name__}: {error}") from error
        if not (isinstance(plugin, type) and issubclass(plugin, self.base)):
            raise self._broken(f"{self.target} is no subclass of attn_bench.plugin.{self.base.__name__}")
        required = (
            ("name", "summary", "kinds") if self.base is Model else ("name", "summary", "kind", "metrics", "defaults")
        )
        missing = [attribute for attribute in required if not hasattr(plugin, attribute)]
        if missing:
            raise self._broken(f"{self.target} lacks {', '.join(missing)}")
        if plugin.name != self.name:
            raise self._broken(f"it calls itself {plugin.name!r}")
        if issubclass(plugin, Model) and not isinstance(plugin.kinds, Set):
            raise self._broken(f"its kinds are {plugin.kinds!r}; write a set such as frozenset({{'field'}})")
        kinds = plugin.kinds if issubclass(plugin, Model) else {plugin.kind}
        for kind in kinds:
            if kind not in KINDS:
                raise self._broken(str(unknown("kind", str(kind), KINDS)))
        try:
            return plugin()
        except Exception as error:
            raise self._broken(f"{type(error).__name__}: {error}") from error

    def _broken(self, why: str) -> UserError:
        return UserError(f"plugin {self.name!r} ({self.origin}) is broken: {why}")

    def fingerprint(self) -> str:
        """Version of the package and a digest of the plugin's sources: an edited plugin makes other cells."""
        return f"{self.package}=={self.version}+{_source_digest(self.target.partition(':')[0])}"


@cache
def _source_digest(module: str) -> str:
    # The top-level package stands for the plugin: helpers next to it change results as much as the module itself.
    # A task of the harness is its own sub-package, or every edit of the harness would throw away every result.
    root = module if module.startswith("attn_bench.") else module.partition(".")[0]
    spec = util.find_spec(root)
    digest = hashlib.sha256()
    if spec is None or spec.origin is None:
        return "unknown"
    folder = Path(spec.origin).parent
    package = spec.submodule_search_locations or "." in root
    files = sorted(path for path in folder.rglob("*") if path.suffix in SOURCES) if package else [Path(spec.origin)]
    for file in files:
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


class Registry(Generic[T]):
    """The plugins of one kind."""

    def __init__(self, group: str, what: str, base: type[T]) -> None:
        self.group, self.what = group, what
        self.base: type[T] = base

    def entries(self) -> dict[str, list[Entry[T]]]:
        """Every registered name with the distinct targets that claim it (more than one is an error on use)."""
        found: dict[str, list[Entry[T]]] = {}
        for point in sorted(metadata.entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            distribution = point.dist
            entry = Entry(
                point.name,
                point.value,
                distribution.name if distribution else "",
                distribution.version if distribution else "",
                self.base,
            )
            known = found.setdefault(point.name, [])
            if all(entry.target != other.target for other in known):
                known.append(entry)
        return found

    def entry(self, name: str) -> Entry[T]:
        """Return the entry registered as ``name``.

        Raises:
            UserError: there is none, or several packages claim the name.
        """
        entries = self.entries()
        if name not in entries:
            raise unknown(self.what, name, entries)
        claims = entries[name]
        if len(claims) > 1:
            rivals = " and ".join(f"{claim.target} ({claim.origin})" for claim in claims)
            raise UserError(f"{self.what} {name!r} is registered twice: {rivals}; uninstall one of them")
        return claims[0]

    def load(self, name: str) -> T:
        """Return an instance of the plugin registered as ``name``; raises :class:`UserError`."""
        return self.entry(name).load()


MODELS: Registry[Model] = Registry("attn_bench.models", "model", Model)  # type: ignore[type-abstract]
TASKS: Registry[Task] = Registry("attn_bench.tasks", "task", Task)  # type: ignore[type-abstract]
