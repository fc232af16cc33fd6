"""Compares the modules that a process has imported with the files in the fingerprint of its sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from attn_bench.plugins.fingerprint import HARNESS, SHARED, Source
from attn_bench.plugins.locate import SITES
from attn_bench.plugins.sourcecode import digest_of


class AnotherCopy(Exception):
    """The imported code differs from that in the sweep's fingerprint."""


def check_loaded(expected: Mapping[str, Source]) -> dict[str, str]:
    """Return the digests of further imported modules of the plugins, by name.

    Args:
        expected: the files behind a cell's versions, by the names of their modules.

    Raises:
        AnotherCopy: a module in ``expected`` was imported from a file with different code, or another file in it was
            edited.
    """
    for name, source in expected.items():
        module = sys.modules.get(name)
        file = source.file if module is None else _file(module)
        if file is None or (module is None and "/" not in name):
            continue
        if not (_same(file, source.file) if name == HARNESS else _says(file, source)):
            raise AnotherCopy(_difference(name, file, source.file))
    further = ((name, file, _read(file)) for name, file in _further(expected))
    return {name: Source.of(file, content).digest for name, file, content in further if content is not None}


def _difference(name: str, ran: str, fingerprinted: str) -> str:
    if _same(ran, fingerprinted):
        return f"{name} was edited while the sweep ran ({ran}); run the same command again"
    return (
        f"another copy of {name} is on the path: {ran} ran, but the sweep's fingerprint is of {fingerprinted}; "
        "install the one you mean, or remove the other from the path"
    )


def _same(file: str, other: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(other)


def _says(file: str, source: Source) -> bool:
    content = _read(file)
    if content is None:  # in an archive, or deleted
        return _same(file, source.file)
    # Most files are unchanged, byte by byte.
    return digest_of(content) == source.content or Source.of(file, content).digest == source.digest


def _read(file: str) -> bytes | None:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError:
        return None


def _further(expected: Mapping[str, Source]) -> Iterator[tuple[str, str]]:
    """Yield the imported modules that are in the same places as the expected ones, but not among them."""
    packages, folders = set(), set()
    for name, source in expected.items():
        if "/" in name or name == HARNESS:
            continue
        top = next((shared for shared in SHARED if name.startswith(shared)), name.partition(".")[0])
        inside = name.removeprefix(top).count(".") + (os.path.basename(source.file) == "__init__.py")
        folder = source.file
        for _ in range(inside):
            folder = os.path.dirname(folder)
        if inside:
            packages.add(folder + os.sep)
        elif os.path.basename(os.path.dirname(folder)) not in SITES:
            folders.add(os.path.dirname(folder))
    for name, module in list(sys.modules.items()):
        file = _file(module)
        if file is None or name in expected or name in ("__main__", "__mp_main__"):
            continue
        if os.path.dirname(file) in folders or file.startswith(tuple(packages)):
            yield name, file


def _file(module: ModuleType) -> str | None:
    spec = getattr(module, "__spec__", None)
    file = getattr(spec, "origin", None) if getattr(spec, "has_location", False) else None
    return file if isinstance(file, str) else None
