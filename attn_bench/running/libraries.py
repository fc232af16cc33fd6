"""Libraries that a fork server may import before it forks: of these we know that their import starts no thread.

Nothing else is imported there. What a model's module does when it is imported must reach that model's cells only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module, metadata, util
from pathlib import Path

# The distribution that each comes from: a folder of the same name somewhere on the import path is not the library.
KNOWN = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "neuralop": "neuraloperator"}
# What torch imports late: for an optimiser, which takes a second.
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
                    continue  # the model that needs it says so in its own row
    # OpenBLAS, which NumPy and SciPy bring, ends its threads when a process forks, and starts them again when needed.
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def threads() -> int:
    """Return the number of threads of this process, 1 where the system does not tell."""
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
