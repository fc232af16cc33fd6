"""Files: written whole or not at all, and read without trust; and where caches are.

What is used of the standard library is bound when this module is imported, so that no plugin that patches ``json`` or
``os`` later reaches what the harness itself writes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from json import JSONEncoder, loads
from os import O_CLOEXEC, O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_WRONLY, fstat, fsync, replace, unlink, urandom
from os import open as open_file
from pathlib import Path
from stat import S_ISDIR, S_ISREG, S_IWGRP, S_IWOTH
from typing import IO, Any

from attn_bench.errors import DiskError, UserError

TEMPORARY = ".tmp"
# Added to the name of what is kept for a person to look at.
UNUSABLE = ".unusable"
OTHERS_WRITE = S_IWGRP | S_IWOTH
# In the order given: the metrics of a task stay in its order.
_encode = JSONEncoder(indent=1, allow_nan=False).encode


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


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Return the content of a file that anybody may have put there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than ``limit_bytes``.
    """
    # A pipe must not be waited for.
    with open(open_file(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), "rb") as file:
        if not S_ISREG(fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes >> 20} MiB")
    return content


def read_json(path: Path, limit_bytes: int) -> Any:
    """Return what a JSON file holds that anybody may have written.

    Raises:
        OSError: it cannot be read.
        ValueError: as for :func:`read_regular`; or it is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return loads(read_regular(path, limit_bytes).decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file of the user holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML in UTF-8, a mapping has a key twice, or it is nested too deeply.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            first: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                name, line = (key.tag, str(key.value)), key.start_mark.line + 1
                if name in first:
                    raise ValueError(f"{key.value} is given twice, in line {first[name]} and in line {line}")
                first[name] = line
            return node

    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def cache_folder(name: str) -> Path:
    """Return the cache folder ``name``: below ``$ATTN_BENCH_CACHE``, or where the platform keeps caches.

    It is absolute, and need not be there.

    Raises:
        UserError: there is no home folder that it could be in.
    """
    try:
        if given := os.environ.get("ATTN_BENCH_CACHE", "").strip():
            return Path(given).expanduser().absolute() / name
        import platformdirs

        found = Path(platformdirs.user_cache_dir("attn-bench"))
    except RuntimeError:  # what "~" stands for is not known
        found = Path()
    if not found.is_absolute():
        raise UserError("no home folder for the cache; set ATTN_BENCH_CACHE to an absolute path")
    return found / name


# Variables that say where libraries write, and where they write without, below the user's home.
_LIBRARIES = {"XDG_CACHE_HOME": ".cache", "MPLCONFIGDIR": ".config/matplotlib", "TRITON_HOME": ".triton"}


def settle_caches() -> None:
    """Give libraries a private folder to write to where the user has no home, or one that cannot be written.

    Without, some fail, and others write to a folder named ``~``. Processes started from here inherit it.
    """
    home = Path("~")
    with contextlib.suppress(RuntimeError):
        home = home.expanduser()
    given = os.environ
    needed = {
        name: where
        for name, where in _LIBRARIES.items()
        if not given.get(name) and not (home.is_absolute() and _can_be_written(home / where))
    }
    if not needed:
        return
    with contextlib.suppress(OSError):  # there is no place at all: each library says so where it needs one
        private = private_folder()
        if not home.is_absolute():
            given["HOME"] = str(private)
        given.update({name: str(private / where) for name, where in needed.items()})


def private_folder() -> Path:
    """Return a folder for temporary files that nobody else can write to: the same in every process of a user.

    Raises:
        OSError: there is no folder for temporary files.
    """
    path = Path(tempfile.gettempdir(), f"attn-bench-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & OTHERS_WRITE:
        return path
    return Path(tempfile.mkdtemp(prefix="attn-bench-"))


def _can_be_written(folder: Path) -> bool:
    """Tell whether a folder can be written or, if it is not there, made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path(folder.anchor))
    return os.access(there, os.W_OK | os.X_OK)
