"""The records of a folder in one file, ``index.parquet``, so that thousands of small files need not be read each time.

It says nothing that the files in ``cells/`` do not say. A record is taken from it only if the file is the one that was
read: same name, size, inode, and times of content and status, which every replacement changes. All else is read from
the files, so it does not matter who adds, replaces or removes some meanwhile, nor whether the index is damaged, of
another version or not there. It is replaced as a whole, so of several writers the last one wins.

Of each record it holds what a resumed run and the table need (:mod:`.brief`), and the record itself, which is read only
where that is not enough.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from attn_bench.errors import DiskError
from attn_bench.files import atomic_write, read_regular

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "index.parquet"
# Below so many, the files themselves are as quick.
FEWEST = 200
# The index is written again when so many of the records are not in it.
_SHARE_MISSING = 0.1
# A file replaced within the granularity of the file system's clock could pass for the one that was read.
_SETTLED_NS = 2 * 10**9
_LARGEST_BYTES, _LARGEST_CONTENT_BYTES = 1 << 30, 16 << 30
_LARGEST_INT64 = 2**63 - 1
_VERSION = b"attn_bench.records"
_TEXTS = ("brief", "lines", "record")
# Folders of this package whose code says what is in them.
_MADE_BY = ("", "contract", "results", "sweep")


class Stamp(NamedTuple):
    """What tells one state of a file from another."""

    size: int
    inode: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """Return that of a file."""
        return cls(found.st_size, found.st_ino & _LARGEST_INT64, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def settled(self) -> bool:
        """Whether the file has been as it is for so long that its next state has another stamp."""
        return max(self.modified_ns, self.changed_ns) < time.time_ns() - _SETTLED_NS


class Indexed(NamedTuple):
    """A record as JSON, and the file that it was read from.

    Attributes:
        brief, lines: as :meth:`attn_bench.results.brief.Short.to_texts` returns them.
        record: the record itself; None where it was not read.
    """

    stamp: Stamp
    brief: str
    lines: str
    record: str | None


def read(folder: Path, *, whole: bool) -> dict[str, Indexed]:
    """Return what the index of ``folder`` holds, by the id that names each file; nothing if it cannot be used.

    Args:
        whole: read the records themselves as well.
    """
    # Whatever pyarrow raises for a file that is damaged: the files are there.
    with contextlib.suppress(Exception):
        texts = _TEXTS if whole else _TEXTS[:-1]
        ids, *others = _columns(folder / NAME, ["id", *Stamp._fields, *texts, *map(_check_of, texts)])
        stamps, others = zip(*others[:4], strict=True), others[4:]
        found = {}
        for id, stamp, *values in zip(ids, map(Stamp._make, stamps), *others, strict=True):
            texts_of, checks = values[: len(texts)], values[len(texts) :]
            if checks == [_check(id, stamp, text) for text in texts_of]:
                found[id] = Indexed(stamp, *texts_of, *([] if whole else [None]))
        return found
    return {}


def _columns(path: Path, names: Sequence[str]) -> list[list[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(pa.BufferReader(read_regular(path, _LARGEST_BYTES)))
    metadata = file.metadata
    if (metadata.metadata or {}).get(_VERSION) != _version():
        raise ValueError("of another version")
    if sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) > _LARGEST_CONTENT_BYTES:
        raise ValueError("too large")
    if file.schema_arrow.remove_metadata() != _schema():
        raise ValueError("other columns")
    return [column.to_pylist() for column in file.read(columns=list(names)).select(names).columns]


def outdated(there: int, missing: int) -> bool:
    """Tell whether an index is worth writing: of ``there`` records, ``missing`` are not in it as they are."""
    return there >= FEWEST and missing > _SHARE_MISSING * there


def write(folder: Path, records: Mapping[str, Indexed]) -> None:
    """Write the index, if that can be done; files that may just have been replaced are left out.

    Args:
        records: by id, each with the record itself.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for id, (stamp, *texts) in records.items():
        if stamp.settled:
            rows.append((id, *stamp, *texts, *(_check(id, stamp, text or "") for text in texts)))
    schema = _schema().with_metadata({_VERSION: _version()})
    table = pa.table([list(column) for column in zip(*rows)] or [[] for _ in schema.names], schema=schema)
    # A read-only folder is read as it is.
    with contextlib.suppress(DiskError), atomic_write(folder / NAME) as file:
        parquet.write_table(table, file, compression="zstd", use_dictionary=False)


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers, checks = dict.fromkeys(Stamp._fields, pa.int64()), dict.fromkeys(map(_check_of, _TEXTS), pa.int64())
    return pa.schema({"id": pa.string(), **numbers, **dict.fromkeys(_TEXTS, pa.string()), **checks})


def _check_of(text: str) -> str:
    return f"check_{text}"


def _check(id: str, stamp: Stamp, text: str) -> int:
    """Return a checksum: a damaged file may still be one that can be read."""
    return crc32(text.encode(), crc32(f"{id} {stamp[0]} {stamp[1]} {stamp[2]} {stamp[3]}".encode()))


@functools.cache
def _version() -> bytes:
    """Return what changes whenever the code does that makes texts of records, or reads them."""
    package = Path(__file__).parents[1]
    files = sorted(file for folder in _MADE_BY for file in (package / folder).glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest().encode()
