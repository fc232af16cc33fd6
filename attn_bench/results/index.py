"""The records of a folder in one file, ``index.parquet``, so that thousands of small files need not be read each time.

It says nothing that the files in ``cells/`` do not say. A record is taken from it only if the file is the one that was
read: same name, size, inode, and times of content and status, which every replacement changes. All else is read from
the files, so it does not matter who adds, replaces or removes some meanwhile, nor whether the index is damaged, of
another version or not there. It is replaced as a whole, so of several writers the last one wins.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from attn_bench.errors import DiskError
from attn_bench.files import atomic_write, read_regular
from attn_bench.results import record
from attn_bench.results.upgrade import SCHEMA
from attn_bench.sweep.cell import GROUPS

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
    """A record as JSON, and the file that it was read from."""

    stamp: Stamp
    text: str


def read(folder: Path) -> dict[str, Indexed]:
    """Return what the index of ``folder`` holds, by the id that names each file; nothing if it cannot be used."""
    # Whatever pyarrow raises for a file that is damaged: the files are there.
    with contextlib.suppress(Exception):
        table = _table(folder / NAME)
        found = {}
        for id, *stamp, check, text in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if check == _check(id, indexed := Indexed(Stamp(*stamp), text)):
                found[id] = indexed
        return found
    return {}


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(pa.BufferReader(read_regular(path, _LARGEST_BYTES)))
    metadata = file.metadata
    if (metadata.metadata or {}).get(_VERSION) != _version():
        raise ValueError("of another version")
    if sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) > _LARGEST_CONTENT_BYTES:
        raise ValueError("too large")
    table = file.read()
    if table.schema.remove_metadata() != _schema():
        raise ValueError("other columns")
    return table


def outdated(there: int, missing: int) -> bool:
    """Tell whether an index is worth writing: of ``there`` records, ``missing`` are not in it as they are."""
    return there >= FEWEST and missing > _SHARE_MISSING * there


def write(folder: Path, records: Mapping[str, Indexed]) -> None:
    """Write the index, if that can be done; files that may just have been replaced are left out."""
    import pyarrow as pa
    from pyarrow import parquet

    kept = [
        (id, *indexed.stamp, _check(id, indexed), indexed.text)
        for id, indexed in records.items()
        if indexed.stamp.settled
    ]
    schema = _schema().with_metadata({_VERSION: _version()})
    table = pa.table([list(column) for column in zip(*kept)] or [[] for _ in schema.names], schema=schema)
    # A read-only folder is read as it is.
    with contextlib.suppress(DiskError), atomic_write(folder / NAME) as file:
        parquet.write_table(table, file, compression="zstd")


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = {name: pa.int64() for name in (*Stamp._fields, "check")}
    return pa.schema({"id": pa.string(), **numbers, "record": pa.string()})


def _check(id: str, indexed: Indexed) -> int:
    """Return a checksum: a damaged file may still be one that can be read."""
    return crc32(indexed.text.encode(), crc32(repr((id, *indexed.stamp)).encode()))


def _version() -> bytes:
    """Return what changes whenever a record has other fields than it had."""
    kinds = [kind for kind in vars(record).values() if isinstance(kind, type) and is_dataclass(kind)]
    names = [
        [kind.__name__, *(f"{each.name}: {each.type}" for each in fields(kind))] for kind in (*kinds, *GROUPS.values())
    ]
    return f"{SCHEMA} {sha256(repr(names).encode()).hexdigest()}".encode()
