"""Compiles C++ for this machine at first use, and caches it.

The compiler is ``$CXX``, or ``c++``. Libraries are cached in the folder ``kernels``, under a name that identifies
sources, compiler and processor, so machines may share the folder. Code that another user could have written is never
run: folder and file must belong to the user (or root) and be writable by nobody else, or a private folder is used
instead. The file that was checked is the one that is loaded, even if its name has been reused.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import shlex
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.files import OTHERS_WRITE, cache_folder, temporary_beside

# Functions of classes stay inside their library: those of different sizes have the same names.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"),
    "-fvisibility-inlines-hidden",
)
SHARED = Path(__file__).with_name("registers.h")
"""What every source may include."""
REGISTER_BYTES = 64
"""Of the widest vector registers there are, which the channels of a layer must fill."""
# A compiler that takes longer counts as hanging; building takes about ten seconds on a slow core.
PROBE_S, BUILD_S = 30, 300
# A cached library ends with the SHA-256 of the bytes before, in hexadecimal; loaders ignore data at the end.
SUM_BYTES = 64

_loads = itertools.count()


class BuildError(Exception):
    """Why there is no compiled code, in one line."""


def build(name: str, sources: Sequence[Path], options: Sequence[str]) -> ctypes.CDLL:
    """Return the shared library of a C++ file, compiled for this processor unless it is cached.

    Args:
        name: prefix of the file name.
        sources: the file, then those that it includes besides ``SHARED``.
        options: of the compiler, besides ``FLAGS``.

    Raises:
        BuildError: there is no compiler, it failed, or the library cannot be loaded.
    """
    try:
        command = [*shlex.split(os.environ.get("CXX") or "c++"), *FLAGS]
        # The compiler's predefined macros identify it and the processor's instructions.
        target = _run([*command, "-dM", "-E", "-x", "c++", os.devnull], PROBE_S)
        code = [source.read_bytes() for source in (*sources, SHARED)]
        parts = (*code, target, " ".join([*command, *options]).encode())
        digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
        file = f"{name}-{digest}.so"
        if (kept := _kept(file)) is not None:
            # A library that cannot be loaded was built on a machine with other libraries.
            with contextlib.suppress(OSError):
                return _loaded(kept)
        with tempfile.TemporaryDirectory(prefix="attn-bench-building-") as folder:
            built = Path(folder) / file
            _run([*command, *options, f"-I{SHARED.parent}", str(sources[0]), "-o", str(built)], BUILD_S)
            content = _with_sum(built.read_bytes())
            with contextlib.suppress(OSError, UserError):
                return _loaded(_written(_made(cache_folder("kernels")), file, content))
            # The cache cannot be written, or libraries in it cannot be loaded.
            return _loaded(_written(Path(_own_folder().name), file, content))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else f"exit {error.returncode}")
        raise BuildError(said) from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{shlex.quote(error.cmd[0])} did not end within {error.timeout} s") from error
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BuildError(" ".join(str(error).split())) from error


def _run(command: Sequence[str], seconds: float) -> bytes:
    """Return the standard output of a command; after a timeout it is ended with all that it started."""
    environment = os.environ | {"LC_ALL": "C"}  # errors in English, to find them
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, process_group=0
    ) as running:
        try:
            output, errors = running.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(OSError):
                os.killpg(running.pid, signal.SIGKILL)
            raise
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command, output, errors)
    return output


def _kept(file: str) -> int | None:
    """Return a descriptor of a library in the cache, or None if there is no complete and trusted one."""
    try:
        with _folder(cache_folder("kernels")) as folder:
            # Opening a pipe must not block.
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (OSError, UserError):
        return None
    if _is_safe(descriptor, stat.S_ISREG):
        content = _content(descriptor)
        if _with_sum(content[:-SUM_BYTES]) == content:
            return descriptor
    os.close(descriptor)
    return None


def _with_sum(content: bytes) -> bytes:
    return content + hashlib.sha256(content).hexdigest().encode()


def _made(folder: Path) -> Path:
    """Create a folder that only the user can write to, unless it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder


def _written(path: Path, file: str, content: bytes) -> int:
    """Write a file in a safe folder atomically, replacing an existing one; return a descriptor of it.

    Raises:
        OSError: the folder is not safe, or cannot be written.
    """
    with _folder(path) as folder:
        new = temporary_beside(path / file).name
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            with open(descriptor, "wb", closefd=False) as output:
                output.write(content)
            os.fchmod(descriptor, 0o644)
            os.replace(new, file, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
    return descriptor


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """Open a folder that only the user can write to; raises OSError for any other, and for links."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_safe(folder, stat.S_ISDIR):
            raise PermissionError(f"others can write to {path}")
        yield folder
    finally:
        os.close(folder)


def _is_safe(descriptor: int, is_of_kind: Callable[[int], bool]) -> bool:
    """Tell whether a file or folder belongs to the user or root, and nobody else can write to it."""
    found = os.fstat(descriptor)
    return is_of_kind(found.st_mode) and found.st_uid in (0, os.getuid()) and not found.st_mode & OTHERS_WRITE


def _loaded(descriptor: int) -> ctypes.CDLL:
    """Load the library of an open file; raises OSError if that fails."""
    by_descriptor = Path(f"/proc/self/fd/{descriptor}")
    if by_descriptor.exists():
        try:
            # The loader assumes that a known name is the same library, even if the file has changed. So each load uses
            # a new name, and the descriptor stays open.
            return ctypes.CDLL(f"{by_descriptor.parent}/{'./' * next(_loads)}{descriptor}")
        except OSError:
            os.close(descriptor)
            raise
    # Only Linux has such names.
    copy = Path(_own_folder().name) / f"{next(_loads)}.so"
    copy.write_bytes(_content(descriptor)[:-SUM_BYTES])
    return ctypes.CDLL(str(copy))


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attn-bench-kernels-")


def built(what: str, name: str, sources: Sequence[Path], options: Sequence[str]) -> ctypes.CDLL | None:
    """Return what :func:`build` returns, or None, with one warning that ``what`` is computed by torch."""
    try:
        return build(name, sources, options)
    except BuildError as error:
        warn_without_compiler(what, str(error))
        return None


@functools.cache
def warn_without_compiler(what: str, reason: str) -> None:
    """Warn, once, that ``what`` is computed by torch, and why."""
    warnings.warn(
        f"{what} falls back to torch, which takes longer: no C++ ({reason}); "
        "install a C++ compiler (g++ 12 or clang 14, or newer) with OpenMP, or name it in CXX",
        stacklevel=2,
    )
