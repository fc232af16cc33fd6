"""Downloads files of a Zenodo record, checked against the size and MD5 that Zenodo publishes for them."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attn_bench.plugin import DataError

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def zenodo_api() -> str:
    """Return the address of Zenodo's interface, or of a mirror of it (``$ATTN_BENCH_ZENODO``)."""
    return os.environ.get("ATTN_BENCH_ZENODO", "https://zenodo.org/api").rstrip("/")


def download_from_zenodo(
    record: str, name: str, path: Path, on_bytes: Callable[[int, int], object], instead: str
) -> dict[str, Any]:
    """Write file ``name`` of a record to ``path`` and return its address, size and checksum.

    Args:
        on_bytes: called with the bytes received and those expected.
        instead: what a user without a network does, for messages.

    Raises:
        DataError: no network, no such file, or one whose size or checksum is wrong; ``path`` does not exist then.
    """
    address = f"{zenodo_api()}/records/{record}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
            files = {entry["key"]: entry for entry in json.load(response)["files"]}
        if name not in files:
            raise DataError(f"{address} has no file {name}; it has {', '.join(sorted(files))}. {instead}")
        entry = files[name]
        url, size, checksum = entry["links"]["self"], int(entry["size"]), str(entry["checksum"])
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot reach {address} ({error}). {instead}") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{address} does not answer as Zenodo does. {instead}") from None
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("xb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                on_bytes(received, size)
        if received != size or f"md5:{digest.hexdigest()}" != checksum:
            raise DataError(
                f"{url} arrived damaged ({received} of {size} bytes, md5 {digest.hexdigest()}, {checksum} expected); "
                f"try again. {instead}"
            )
    except (OSError, http.client.HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        raise DataError(f"downloading {url} failed after {received} bytes ({error}). {instead}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"url": url, "bytes": size, "checksum": checksum}
