"""C++ built for this machine at first use, and kept.

The compiler is ``$CXX``, or ``c++``. What it builds is kept in ``$ATTN_BENCH_CACHE/kernels``, or where the platform
keeps caches, under a name that stands for sources, compiler and processor: machines may share the folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


class BuildError(Exception):
    """Why there is no compiled code, in one line."""


def build(name: str, sources: Sequence[Path], options: Sequence[str]) -> ctypes.CDLL:
    """Return the shared library of a C++ file, compiled for this processor if that was not done before.

    Args:
        name: its file's name begins so.
        sources: the file, then those that it includes.
        options: of the compiler, besides ``FLAGS``.

    Raises:
        BuildError: there is no compiler, it failed, or the library cannot be loaded.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        # What the compiler predefines names it and the processor's instructions.
        target = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], 60)
        parts = (*(source.read_bytes() for source in sources), target, " ".join([*compiler, *FLAGS, *options]).encode())
        digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
        path = _cache() / f"{name}-{digest}.so"
        if not _own(path):
            path = _writable(path.parent) / path.name
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
                built = Path(folder) / path.name
                _run([*compiler, *FLAGS, *options, str(sources[0]), "-o", str(built)], 600)
                built.replace(path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else f"exit {error.returncode}")
        raise BuildError(said) from error
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BuildError(" ".join(str(error).split())) from error


def _run(command: Sequence[str], seconds: float) -> bytes:
    environment = os.environ | {"LC_ALL": "C"}  # errors in English, to find them
    return subprocess.run(
        command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, env=environment
    ).stdout


def _cache() -> Path:
    import platformdirs

    return Path(os.environ.get("ATTN_BENCH_CACHE") or platformdirs.user_cache_dir("attn-bench")) / "kernels"


def _own(path: Path) -> bool:
    """Tell whether a file is there and the user's, or root's: others' code is not run."""
    try:
        return path.stat().st_uid in (0, os.getuid())
    except OSError:
        return False


def _writable(folder: Path) -> Path:
    """Return the folder, made if need be; one for this process alone if nothing can be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(_own_folder().name)


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attn-bench-kernels-")
