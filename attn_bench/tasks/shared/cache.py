"""A cache on disk for expensive arrays: one data file and one manifest per entry, checked on every load.

An entry is ``NAME.json``, the manifest, which names the data file ``NAME-DIGEST.npz`` by its content and contains its
checksum. The data file is written first and the manifest last, each under a temporary name and then renamed: a
reader sees the complete old or new entry, and two processes that write the same entry leave a valid one.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from json import dumps, loads
from pathlib import Path
from typing import Any, TypeVar

from attn_bench.files import cache_folder
from attn_bench.lease import hold
from attn_bench.plugin import DataError

__all__ = ["Entry", "cache_folder", "exclusive", "sha256_of", "temporary", "users_folder", "writing"]

T = TypeVar("T")


def users_folder(given: str) -> Path:
    """Return the folder that a user names; raises DataError if ``~`` in it cannot be resolved."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise DataError(f"no such home folder: {given}; use an absolute path") from None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Create ``folder`` for files written in the block; raises DataError instead of OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {folder} ({error.strerror or error}); set ATTN_BENCH_CACHE to another folder"
        ) from error


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching to ``folder`` while the block runs; waits for them first.

    Raises:
        DataError: the folder cannot be written.
    """
    with writing(folder), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(folder / ".leases" / "fetch", wait=True))
        except Exception as error:
            raise DataError(f"{error}; set ATTN_BENCH_CACHE to another folder") from error
        yield


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """The cache entry for ``parameters`` in ``folder``, which may not exist.

    Attributes:
        folder: folder of the entries; created when one is stored.
        label: readable first part of the file names.
        parameters: JSON values that determine the data; equal parameters mean equal data.
        remedy: what a user can do about a damaged entry, for messages.
    """

    folder: Path
    label: str
    parameters: Mapping[str, Any]
    remedy: str

    @property
    def name(self) -> str:
        """Label and hash of the parameters."""
        canonical = dumps(self.parameters, sort_keys=True, separators=(",", ":"))
        return f"{self.label}-{sha256(canonical.encode()).hexdigest()[:12]}"

    @property
    def manifest_path(self) -> Path:
        """The file that defines the entry."""
        return self.folder / f"{self.name}.json"

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of an entry whose data are intact, or None if there is no entry.

        Raises:
            DataError: the entry is damaged.
        """
        return self._steadily(self._manifest)

    def _steadily(self, read: Callable[[], T]) -> T:
        """Return the result of ``read``; repeats it if another process replaced the entry meanwhile."""
        while True:
            before = self._data_file()
            try:
                return read()
            except DataError:
                if self._data_file() == before:
                    raise

    def _manifest(self) -> dict[str, Any] | None:
        try:
            text = self.manifest_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._corrupt(self.manifest_path, f"cannot be read ({error})") from None
        try:
            manifest = loads(text)
            path, digest = self.folder / Path(manifest["file"]).name, manifest["sha256"]
            intact = manifest["parameters"] == dict(self.parameters)
        except (ValueError, KeyError, TypeError):
            raise self._corrupt(self.manifest_path, "is not a valid manifest") from None
        if not intact:
            raise self._corrupt(self.manifest_path, "describes other data than its name")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise self._corrupt(path, f"cannot be read ({error.strerror})") from None
        if found != digest:
            raise self._corrupt(path, "does not have the checksum of its manifest")
        return dict(manifest)

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return arrays and manifest, or None if there is no entry; raises DataError if it is damaged."""
        return self._steadily(self._load)

    def _load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        import numpy as np

        manifest = self._manifest()
        if manifest is None:
            return None
        path = self.folder / Path(manifest["file"]).name
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}, manifest
        except Exception as error:  # including errors of zip archives
            raise self._corrupt(path, f"cannot be read ({error})") from None

    def store(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``arrays``, replacing an existing entry, and return the manifest.

        Raises:
            DataError: the folder cannot be written.
        """
        with writing(self.folder):
            return self._store(arrays)

    def _store(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        replaced = self._data_file()
        with temporary(self.folder, self.name) as new:
            with new.open("xb") as file:
                np.savez(file, **arrays)
            digest = sha256_of(new)
            path = self.folder / f"{self.name}-{digest[:8]}.npz"
            manifest = {
                "file": path.name,
                "sha256": digest,
                "bytes": new.stat().st_size,
                "parameters": dict(self.parameters),
                "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in arrays.items()},
            }
            os.replace(new, path)
        with temporary(self.folder, self.name) as new:
            new.write_text(dumps(manifest, indent=2), encoding="utf-8")
            os.replace(new, self.manifest_path)
        if replaced is not None and replaced != path:
            replaced.unlink(missing_ok=True)
        return manifest

    def _data_file(self) -> Path | None:
        """Return the data file that the manifest names, if there is a manifest that names one."""
        try:
            return self.folder / Path(loads(self.manifest_path.read_text(encoding="utf-8"))["file"]).name
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _corrupt(self, path: Path, what: str) -> DataError:
        return DataError(f"the cached data are damaged: {path} {what}; {self.remedy}, or delete {self.manifest_path}")


@contextlib.contextmanager
def temporary(folder: Path, name: str) -> Iterator[Path]:
    """Yield a path that no other process uses, in the folder of the final file; remove leftovers there."""
    path = folder / f".{name}-{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
