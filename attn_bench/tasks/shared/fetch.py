"""Downloads files, resuming earlier attempts, and unpacks archives, which cannot write outside their folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.shared.cache import sha256_of, temporary, writing

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20
# Some servers refuse Python's default user agent.
AGENT = "attn-bench"
SHA256_DIGITS = 64


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_root(task: str, root: str | None, *, refresh: bool) -> None:
    """Raise OptionError if a refresh is requested for a user's folder, which is read-only."""
    if root is not None and refresh:
        raise OptionError(f"{task}.root is a read-only folder; --refresh cannot be used with it")


def fetch(url: str, path: Path, checksum: str, on_bytes: Callable[[int, int], object], instead: str) -> None:
    """Make sure that ``path`` is the file at ``url`` with ``checksum``.

    A partial download is kept in ``<path>.part`` until it is complete and correct; the next call requests only the rest
    if the server supports that.

    Args:
        checksum: SHA-256 or MD5 in hexadecimal, distinguished by length.
        on_bytes: called with the bytes received and expected (0 if unknown).
        instead: what a user without a network can do, for messages.

    Raises:
        DataError: no network, or content with another checksum.
    """
    kind, sum_of = ("sha256", sha256_of) if len(checksum) == SHA256_DIGITS else ("md5", md5_of)
    if path.exists() and sum_of(path) == checksum:
        return
    with writing(path.parent):
        part = path.with_name(path.name + ".part")
        there, total = (part.stat().st_size if part.exists() else 0), 0
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            resumed = response.status == http.client.PARTIAL_CONTENT
            there = there if resumed else 0
            total = there + int(response.headers.get("Content-Length") or 0)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    there += len(chunk)
                    on_bytes(there, total)
    except urllib.error.HTTPError as error:
        # Nothing is left to send: the file is complete, or wrong.
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise DataError(f"downloading {url} failed ({error}). {instead}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"downloading {url} stopped after {there} bytes ({error}); rerun the same command to resume. {instead}"
        ) from None
    if total and there < total:
        raise DataError(f"downloading {url} stopped after {there} of {total} bytes; rerun the same command to resume")
    found = sum_of(part)
    if found != checksum:
        part.unlink()
        raise DataError(f"{url} has {kind} {found}, but {checksum} is expected; try again. {instead}")
    os.replace(part, path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive into ``folder``; members outside of it are refused before anything is written.

    Raises:
        DataError: such a member, or a damaged archive.
    """
    if archive.suffix == ".zip":
        unzip(archive, _members_inside(archive, folder), folder)
        return
    try:
        with tarfile.open(archive) as opened:
            members = opened.getmembers()
            for member in members:
                tarfile.data_filter(member, str(folder))
            folder.mkdir(parents=True, exist_ok=True)
            opened.extractall(folder, members, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({_first_line(error)})") from None


def unzip(archive: Path, members: Iterable[str], folder: Path) -> None:
    """Write ``members`` of a zip archive below ``folder``, each completely or not at all.

    Raises:
        DataError: a member is missing, or the archive is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in members:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary(path.parent, path.name) as new:
                    with opened.open(name) as source, new.open("xb") as file:
                        shutil.copyfileobj(source, file)
                    os.replace(new, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({_first_line(error)})") from None


def _members_inside(archive: Path, folder: Path) -> list[str]:
    """Return the names of the files in a zip archive; raises DataError if one of them would leave ``folder``."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [member.filename for member in opened.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error})") from None
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{archive} cannot be unpacked ({name} would be written outside {folder})")
    return names


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
