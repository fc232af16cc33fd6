"""Libraries that the fork server may import before it forks, as importing them is known to start no thread.

Nothing else is imported there. Side effects of importing a model's module must reach only that model's cells.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module, metadata, util
from pathlib import Path

# The distribution of each: a folder of the same name on the import path is not the library.
KNOWN = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "neuralop": "neuraloperator"}
# Imported lazily by torch, e.g. for an optimizer; takes a second.
ALWAYS = ("torch._dynamo",)


def known(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``names`` that belong to a known library."""
    return tuple(dict.fromkeys(name for name in names if name.partition(".")[0] in KNOWN))


def preload(names: Sequence[str]) -> None:
    """Import the known and installed libraries among ``names``, and leave this process with a single thread."""
    # neuraloperator resets the process's warning filters; a warning must not become an error here either.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*ALWAYS, *known(names)):
            if _installed(name.partition(".")[0]):
                try:
                    import_module(name)
                except Exception:
                    continue  # the row of the model that needs it says so
    # OpenBLAS, part of NumPy and SciPy, ends its threads when a process forks, and starts them again when needed.
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def threads() -> int:
    """Return the number of threads of this process, 1 if the system does not report it."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _installed(package: str) -> bool:
    spec = util.find_spec(package)
    try:
        place = metadata.distribution(KNOWN[package]).locate_file(f"{package}/__init__.py")
    except metadata.PackageNotFoundError:
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(str(place)).resolve()
