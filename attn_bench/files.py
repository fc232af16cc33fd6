"""Files: written whole or not at all, and read without trust.

What is used of the standard library is bound when this module is imported, so that no plugin that patches ``json`` or
``os`` later reaches what the harness itself writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from json import JSONEncoder, loads
from os import O_CLOEXEC, O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_WRONLY, fstat, fsync, replace, unlink, urandom
from os import open as open_file
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

from attn_bench.errors import DiskError

TEMPORARY = ".tmp"
_encode = JSONEncoder(indent=1, sort_keys=True, allow_nan=False).encode


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place only when the block ends well.

    Raises:
        DiskError: it cannot be written; ``path`` is as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        # The mode is what the umask leaves of it.
        handle = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        try:
            with open(handle, "wb") as file:
                yield file
                file.flush()
                fsync(file.fileno())
            replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unlink(temporary)
            raise


def temporary_beside(path: Path) -> Path:
    """Return a hidden name in the folder of ``path`` that no other process uses."""
    return path.parent / f".{path.name[:60]}.{urandom(8).hex()}{TEMPORARY}"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise a DiskError that names ``path`` in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise DiskError(path, error.strerror or str(error)) from error


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically; NaN and infinity become null, which every reader understands."""
    text = _encode(_finite(values)).encode()
    with atomic_write(path) as file:
        file.write(text)


def read_json(path: Path, limit_bytes: int) -> Any:
    """Return what a JSON file holds that anybody may have written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, larger than ``limit_bytes``, no JSON in UTF-8, or nested too deeply.
    """
    # A pipe must not be waited for.
    with open(open_file(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), "rb") as file:
        if not S_ISREG(fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes >> 20} MiB")
    try:
        return loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
