"""Finds where a module would be imported from, as the import system does, but without importing anything."""

from __future__ import annotations

import os
import pkgutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

# Groups of plugins: a distribution that registers one is not an ordinary library.
_GROUPS = (b"[attn_bench.models]", b"[attn_bench.tasks]")
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
SITES = ("site-packages", "dist-packages")


class Locator:
    """Finds modules along the current ``sys.path``, followed by ``paths``."""

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self._paths = (*sys.path, *paths)
        self._found: dict[str, ModuleSpec | None] = {}
        self._belongs: dict[tuple[str, str], bool] = {}

    def find(self, name: str, beside: Sequence[str] = ()) -> ModuleSpec | None:
        """Return the spec of a module, or None if there is none.

        Args:
            name: with dots.
            beside: folders to search last, for plugins that extend ``sys.path``.
        """
        top = name.partition(".")[0]
        if top not in self._found:
            self._found[top] = _search(top, None, self._paths)
        if self._found[top] is None and beside:
            self._found[top] = _on(beside, top)
        if name not in self._found:
            parent = self.find(name.rpartition(".")[0])
            within = None if parent is None else parent.submodule_search_locations
            self._found[name] = None if within is None else _search(name, list(within), ())
        return self._found[name]

    def is_library(self, name: str, file: str) -> bool:
        """Tell whether a module belongs to the standard library or to a distribution without plugins."""
        if os.path.realpath(file).startswith(_STANDARD) and not any(site in Path(file).parts for site in SITES):
            return True
        depth = name.count(".") + Path(file).name.startswith("__init__.")
        # All files of a package belong to the distribution of the package.
        top = self._found.get(name.partition(".")[0])
        if top is not None and top.origin and "." in name:
            return self.is_library(name.partition(".")[0], top.origin)
        parents = Path(file).parents
        root = parents[min(depth, len(parents) - 1)]
        relative = Path(file).relative_to(root).as_posix()
        if (key := (str(root), relative)) not in self._belongs:
            self._belongs[key] = any(claim.covers(relative) for claim in _claims(str(root), name))
        return self._belongs[key]


def _search(name: str, within: list[str] | None, paths: Sequence[str]) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            if finder is PathFinder:
                # This would require importing the parent of a namespace package.
                spec = _on(paths if within is None else within, name)
            else:
                spec = finder.find_spec(name, within, None)
        except Exception:  # a third-party finder
            continue
        if spec is not None:
            return spec
    return None


def _on(paths: Sequence[str], name: str) -> ModuleSpec | None:
    """Search folders and archives; folders without ``__init__`` form a namespace package of that name."""
    portions: list[str] = []
    for path in paths:
        finder = pkgutil.get_importer(path or os.getcwd())
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec.submodule_search_locations or ()) if spec is not None else ()
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


class _Claim:
    """The files that one installed distribution lists as its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.plugins = any(group in _bytes(folder / "entry_points.txt") for group in _GROUPS)
        self._record = b"\n" + _bytes(folder / "RECORD")
        self._tops = _bytes(folder / "top_level.txt").decode("utf-8", "replace").split()

    def covers(self, relative: str) -> bool:
        """Tell whether a file belongs to a library; its path is relative to the folder of the distribution."""
        if self.plugins:
            return False
        if self._record != b"\n":
            return f"\n{relative},".encode() in self._record
        # Linux packages omit the list of files; beside sources, such a folder describes an editable installation.
        top = relative.partition("/")[0].partition(".")[0]
        called = self._folder.name.partition("-")[0].lower() == top.lower()
        return self._folder.parent.name in SITES and (called or top in self._tops)


def _claims(root: str, name: str) -> Iterator[_Claim]:
    """Yield the distributions installed in ``root``, first those named like the module."""
    top = name.partition(".")[0].lower()
    try:
        names = [each for each in os.listdir(root) if each.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return
    for each in sorted(names, key=lambda each: (not each.lower().startswith(top), each)):
        path = os.path.join(root, each)
        try:
            yield _claim(path, os.stat(path).st_mtime_ns)
        except OSError:
            continue


@lru_cache(maxsize=4096)
def _claim(folder: str, mtime_ns: int) -> _Claim:
    return _Claim(Path(folder))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def source_of(spec: ModuleSpec) -> bytes:
    """Return the content of a module's file, in an archive too; raises OSError."""
    assert spec.origin is not None
    try:
        return Path(spec.origin).read_bytes()
    except OSError:
        get_data = getattr(spec.loader, "get_data", None)
        if get_data is None:
            raise
        return get_data(spec.origin)


def is_python(file: str) -> bool:
    """Tell whether a file is Python source."""
    return file.endswith((".py", ".pyw"))
