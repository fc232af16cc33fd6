"""The files that a plugin's results depend on, and a digest of each; nothing is imported.

Starting at the plugin's module, every import of another module of the plugin is followed, wherever it is in the source:
helper modules beside it, its package, an editable installation, and other projects that register plugins (e.g. a class
inherited from one of ``baselines``). Installed libraries are not followed, as the environment has their versions. In
the harness itself ``attn_bench.tasks`` and ``attn_bench.nn`` are followed; training and measuring code is covered by
:mod:`attn_bench.sweep.versions`. Sources in other languages count if a module in the same folder is followed.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import NamedTuple

from attn_bench.errors import UserError
from attn_bench.plugins.locate import SITES, Locator, is_python, source_of
from attn_bench.plugins.sourcecode import Code, digest_of, read_source

NATIVE = (".pyx", ".pxd", ".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp", ".inc", ".metal", ".hip")
COMPILED = (".so", ".pyd", ".dll", ".dylib", ".cubin", ".ptx")
# The harness; its shared modules are below these.
HARNESS, SHARED = "attn_bench", ("attn_bench.tasks", "attn_bench.nn")
# The contract is not followed, but mixers use the shared transformer.
CONTRACT, AROUND_MIXERS = "attn_bench.plugin", "attn_bench.nn.transformer"
# Their versions are in every environment, however they are installed.
_RECORDED = ("torch", "torchvision", "timm", "neuralop", "xformers", "triton", "numpy", "scipy")


class Source(NamedTuple):
    """A file that results depend on, with the digests of its normal form and of its bytes."""

    digest: str
    file: str
    content: str = ""

    @classmethod
    def of(cls, file: str, content: bytes) -> Source:
        """Return the digests of a file with this content: of its normal form if it is Python, else of its bytes."""
        digest = digest_of(content)
        return cls(read_source(content).digest if is_python(file) else digest, file, digest)


def sources(module: str, paths: Sequence[str] = ()) -> dict[str, Source]:
    """Return every file that ``module`` depends on, its own first, by the name of the module, or of the file in it.

    Args:
        paths: entries that the module adds to ``sys.path``.

    Raises:
        UserError: the source of a module cannot be found or read.
    """
    return _Following(Locator(paths)).all(module)


def harness() -> Source:
    """Return the location of the harness itself, whose code is covered by versions."""
    return Source("", str(Path(__file__).parents[1] / "__init__.py"))


def digest(module: str, beside: Iterable[Source] = ()) -> str | None:
    """Return the current digest of one module; None if it is not found or cannot be read.

    Args:
        beside: files in whose folders it may also be.
    """
    spec = Locator().find(module, list(dict.fromkeys(os.path.dirname(source.file) for source in beside)))
    try:
        return Source.of(spec.origin, source_of(spec)).digest if spec is not None and spec.origin else None
    except OSError:
        return None


def combined(found: Mapping[str, Source]) -> str:
    """Return one digest of all files in ``found``, 32 bits in hexadecimal; it does not depend on where they are."""
    return digest_of("".join(f"{name} {found[name].digest}\n" for name in sorted(found)).encode())[:8]


class _Following:
    def __init__(self, locator: Locator) -> None:
        self._locator = locator
        self._sources: dict[str, Source] = {}
        # For each folder with a followed module: its package, or one of the single modules in it.
        self._folders: dict[str, tuple[str, bool]] = {}

    def all(self, module: str) -> dict[str, Source]:
        if self._locator.find(module) is None:
            raise UserError(f"cannot find the source of {module}")
        waiting, known = [*_with_parents(module)], {module}
        while waiting:
            name = waiting.pop(0)
            if (spec := self._own(name)) is None or name in self._sources:
                continue
            code = self._read(name, spec)
            for other in self._imported(name, spec, code):
                if other not in known:
                    known.add(other)
                    waiting += _with_parents(other)
        for folder, (owner, package) in self._folders.items():
            for file in _native(folder, package, self._folders):
                name = f"{owner}/{file.relative_to(folder).as_posix()}"
                try:
                    self._sources[name] = Source.of(str(file), file.read_bytes())
                except OSError as error:
                    raise UserError(f"cannot read {file} ({error.strerror})") from None
        return self._sources

    def _own(self, name: str) -> ModuleSpec | None:
        """Return the spec of a module that is followed and has a file; None for all others."""
        top = name.partition(".")[0]
        if top in _RECORDED or (top == HARNESS and not name.startswith(SHARED)):
            return None
        spec = self._locator.find(name)
        if spec is None or spec.origin in ("built-in", "frozen"):
            return None
        if spec.origin is None:
            if spec.submodule_search_locations is None:
                raise UserError(f"cannot find the source of {name}: {type(spec.loader).__name__} names no file")
            return None  # a namespace package
        return None if self._locator.is_library(name, spec.origin) else spec

    def _read(self, name: str, spec: ModuleSpec) -> Code:
        assert spec.origin is not None
        try:
            content = source_of(spec)
        except OSError as error:
            raise UserError(f"cannot read the source of {name}: {spec.origin} ({error.strerror or error})") from None
        self._sources[name] = Source.of(spec.origin, content)
        package = _package(name, spec)
        self._folders.setdefault(os.path.dirname(spec.origin), (package or name, bool(package)))
        return read_source(content) if is_python(spec.origin) else Code("")

    def _imported(self, name: str, spec: ModuleSpec, code: Code) -> Iterator[str]:
        """Yield the absolute names of the modules that a module imports or may import."""
        assert spec.origin is not None
        package, folder = _package(name, spec), os.path.dirname(spec.origin)
        # Up to the folder that contains the package, which a plugin may add to sys.path.
        beside = [folder]
        for _ in package.split(".") if package else ():
            beside.append(os.path.dirname(beside[-1]))
        for level, module, names in code.imports:
            if level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) + 1 - level])
                module = f"{base}.{module}".strip(".") if base else module
            if not module or self._locator.find(module, beside) is None:
                continue
            yield module
            if module == CONTRACT and {"Mixer", "*"} & set(names or ("*",)):
                yield AROUND_MIXERS
            if names == ("*",):
                yield from self._below(module)
            yield from (f"{module}.{each}" for each in names if self._locator.find(f"{module}.{each}"))
        for literal in code.literals:
            for candidate in (literal, f"{package}.{literal}".strip(".")):
                if candidate.partition(".")[0] == name.partition(".")[0] and self._locator.find(candidate):
                    yield candidate
        if code.searches:
            yield from self._all_of(name, folder)

    def _below(self, package: str) -> Iterator[str]:
        """Yield the modules directly in a package that is followed."""
        spec = self._own(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (f"{package}.{each}" for each in _modules(folder))

    def _all_of(self, name: str, folder: str) -> Iterator[str]:
        """Yield all modules of the package that a module is in, or all modules in the folder of a single one."""
        waiting = [next((each for each in SHARED if name.startswith(each)), name.partition(".")[0])]
        if waiting == [name] and os.path.basename(folder) not in SITES:
            yield from _modules(folder)
        seen = set()
        while waiting:
            package = waiting.pop()
            spec = self._locator.find(package)
            for place in map(os.path.realpath, (spec.submodule_search_locations or ()) if spec else ()):
                if place not in seen:
                    seen.add(place)
                    found = [f"{package}.{each}" for each in _modules(place)]
                    yield from found
                    waiting += found


def _package(name: str, spec: ModuleSpec) -> str:
    return name if spec.submodule_search_locations is not None else name.rpartition(".")[0]


def _with_parents(module: str) -> Iterator[str]:
    """Yield the packages around a module, which are imported before it, and the module."""
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _modules(folder: str) -> list[str]:
    """Return the names of the modules and packages in a folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    suffixes = (".py", *EXTENSION_SUFFIXES)
    names = {
        entry.name.partition(".")[0]
        for entry in entries
        if entry.name.endswith(suffixes) or (entry.is_dir() and entry.name != "__pycache__")
    }
    return sorted(name for name in names if name.isidentifier() and name != "__init__")


def _native(folder: str, package: bool, followed: Container[str]) -> list[Path]:
    """Return the sources in other languages in the folder of a module, or compiled files if there are none.

    Subfolders that are not packages are included; packages count only if they are imported. Subfolders beside a single
    module do not belong to it.
    """
    sources: list[Path] = []
    compiled: list[Path] = []
    for place, folders, names in os.walk(folder) if os.path.basename(folder) not in SITES else ():
        folders[:] = [each for each in folders if package and not _is_package(os.path.join(place, each), followed)]
        sources += (Path(place, each) for each in names if each.endswith(NATIVE))
        compiled += (Path(place, each) for each in names if each.endswith(COMPILED))
    return sources or (compiled if package else [])


def _is_package(folder: str, followed: Container[str]) -> bool:
    name = os.path.basename(folder)
    hidden = name == "__pycache__" or name.startswith(".")
    return hidden or folder in followed or os.path.exists(os.path.join(folder, "__init__.py"))
