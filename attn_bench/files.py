"""Files: written atomically, and read without trusting their content; and the cache folders.

Functions of the standard library are bound when this module is imported, so that a plugin that patches ``json`` or
``os`` later cannot affect what the harness writes.
"""

from __future__ import annotations

import contextlib
import os
import re
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
# Added to the names of unusable files, which are kept for inspection.
UNUSABLE = ".unusable"
OTHERS_WRITE = S_IWGRP | S_IWOTH
# In the given order, so that metrics stay in the order of their task.
_encode = JSONEncoder(indent=1, allow_nan=False).encode


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of ``path`` that replaces it only if the block succeeds.

    Raises:
        DiskError: it cannot be written; ``path`` is unchanged.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        # The umask applies to the mode.
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


def safe_name(text: str, most: int) -> str:
    """Return the end of ``text`` as a file name of at most ``most`` ASCII letters, digits, and ``_.-``."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)[-most:].strip("-.")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a DiskError that names ``path``."""
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
    """Return the content of an untrusted file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than ``limit_bytes``.
    """
    # Opening a pipe must not block.
    with open(open_file(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), "rb") as file:
        if not S_ISREG(fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes >> 20} MiB")
    return content


def read_json(path: Path, limit_bytes: int) -> Any:
    """Return the content of an untrusted JSON file.

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
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = ", ".join(filter(None, (error.problem, error.context)))
        raise ValueError(f"{where}{' '.join(said.split())}") from None
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
    """Return the cache folder ``name``: below ``$ATTN_BENCH_CACHE``, or in the platform's cache folder.

    The path is absolute; the folder may not exist.

    Raises:
        UserError: there is no home folder for it.
    """
    try:
        if given := os.environ.get("ATTN_BENCH_CACHE", "").strip():
            return Path(given).expanduser().absolute() / name
        import platformdirs

        found = Path(platformdirs.user_cache_dir("attn-bench"))
    except RuntimeError:  # "~" cannot be resolved
        found = Path()
    if not found.is_absolute():
        raise UserError("no home folder for the cache; set ATTN_BENCH_CACHE to an absolute path")
    return found / name


# Variables for the folders that libraries write to, and their defaults below the user's home.
_LIBRARIES = {"XDG_CACHE_HOME": ".cache", "MPLCONFIGDIR": ".config/matplotlib", "TRITON_HOME": ".triton"}


def settle_caches() -> None:
    """Give libraries a private folder to write to if the user has no home folder, or none that can be written.

    Otherwise some fail, and others write to a folder named ``~``. Child processes inherit this.
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
    with contextlib.suppress(OSError):  # no folder can be written: a library that needs one reports it
        private = private_folder()
        if not home.is_absolute():
            given["HOME"] = str(private)
        given.update({name: str(private / where) for name, where in needed.items()})


def private_folder() -> Path:
    """Return a folder for temporary files that only this user can write to, the same in all of the user's processes.

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
    """Tell whether a folder can be written or, if it does not exist, created."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path(folder.anchor))
    return os.access(there, os.W_OK | os.X_OK)
