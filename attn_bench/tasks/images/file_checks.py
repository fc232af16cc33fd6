"""Checks every file of a set of images before training, once for each state of the files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attn_bench.files import cache_folder, read_json, write_json
from attn_bench.plugin import DataError
from attn_bench.tasks.images.reading import quiet

# Counts changes of these checks.
VERSION = 1
# Sets up to this total size are decoded, at about 50 MB/s on two cores; for larger sets that would take an hour.
DECODED_BYTES = 2 << 30
WORKERS = 16

# An image, or an image with its annotation.
Item = tuple[Path, ...]
Fault = Callable[..., str | None]


def check_files(
    task: str, folder: Path, items: Sequence[Item], fault: Fault, on_progress: Callable[[int, int], object]
) -> None:
    """Refuse files that cannot be read; the error gives their number and the first one's name.

    A success is cached under a digest of their names, sizes and times, and not checked again.

    Args:
        task: name of the task.
        folder: folder that contains the files.
        items: the files, with those that belong together in one tuple.
        fault: called with the files of an item and ``whole``, whether to decode them; returns what is wrong, or None.
        on_progress: called with the number of checked items and of all items.

    Raises:
        DataError: some files cannot be read.
    """
    digest, size = _state(items)
    where = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    kept = cache_folder("checked") / f"{task}-{where}.json"
    with contextlib.suppress(OSError, ValueError):
        if read_json(kept, 1 << 16) == {"digest": digest}:
            return
    first, count = None, 0
    with quiet(), ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda item: fault(*item, whole=size <= DECODED_BYTES), items, chunksize=64)
        for done, (item, reason) in enumerate(zip(items, found), 1):
            if reason is not None:
                first, count = first or (item[0], reason), count + 1
            if done % 64 == 0 or done == len(items):
                on_progress(done, len(items))
    if first is not None:
        raise DataError(
            f"{count} of {len(items)} images of {task} cannot be read, the first: {first[0]} ({first[1]}); "
            "replace or remove such files"
        )
    with contextlib.suppress(Exception):  # without a cache they are checked again
        write_json(kept, {"digest": digest})


def _state(items: Sequence[Item]) -> tuple[str, int]:
    """Return a digest that changes when the files change, and their total size in bytes."""
    digest, size = hashlib.sha256(str(VERSION).encode()), 0
    for item in items:
        for path in item:
            state = b"?"
            with contextlib.suppress(OSError, ValueError):
                found = path.stat()
                state = b"%d %d %d" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                size += found.st_size
            digest.update(b"%s\0%s\0" % (os.fsencode(path), state))
    return digest.hexdigest(), size
