"""Downloads a file and goes on where an earlier attempt broke off; unpacks archives that stay in their folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from attn_bench.plugin import DataError

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(url: str, path: Path, md5: str, on_bytes: Callable[[int, int], None], instead: str) -> None:
    """Make sure that ``path`` holds the file of ``url`` with checksum ``md5``.

    What arrives is kept in ``<path>.part`` until it is complete and right; the next call asks for the rest alone, if
    the server can do that.

    Args:
        on_bytes: called with the bytes there are and those expected (0 where the server does not say).
        instead: what a user without a network does, for messages.

    Raises:
        DataError: no network, or content with another checksum.
    """
    if path.exists() and md5_of(path) == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    there, total = (part.stat().st_size if part.exists() else 0), 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            goes_on = response.status == http.client.PARTIAL_CONTENT
            there = there if goes_on else 0
            total = there + int(response.headers.get("Content-Length") or 0)
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    there += len(chunk)
                    on_bytes(there, total)
    except urllib.error.HTTPError as error:
        # Nothing is left to send: what is there is complete, or wrong.
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise DataError(f"downloading {url} failed ({error}). {instead}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"downloading {url} stopped after {there} bytes ({error}); the same command goes on there. {instead}"
        ) from None
    if total and there < total:
        raise DataError(f"downloading {url} stopped after {there} of {total} bytes; the same command goes on there")
    found = md5_of(part)
    if found != md5:
        part.unlink()
        raise DataError(f"{url} has md5 {found}, and {md5} is expected; try again. {instead}")
    os.replace(part, path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive into ``folder``; a member that would leave it is refused before anything is written.

    Raises:
        DataError: such a member, or a damaged archive.
    """
    try:
        with tarfile.open(archive) as opened:
            members = opened.getmembers()
            for member in members:
                tarfile.data_filter(member, str(folder))
            folder.mkdir(parents=True, exist_ok=True)
            opened.extractall(folder, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({str(error).splitlines()[0]})") from None
