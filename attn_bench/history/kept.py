"""The store of a history: a folder with one small Parquet file per revision and machine, and per time it was measured.

A file is written once, under a name that contains a digest of its content, and never changed. So several processes, or
branches that git merges, can add to a store at once, and the same results added twice are there once. Each row is a
record without its raw samples, and the environment that it refers to, both as JSON.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.errors import UserError
from attn_bench.files import atomic_write, read_regular
from attn_bench.format import clean
from attn_bench.results.environment import Environment
from attn_bench.results.known import reason, say_once
from attn_bench.results.record import Record
from attn_bench.results.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
VERSION = 1
_KEY = b"attn_bench.history"
# Characters of the commit's hash in the name of a file.
_NAMED = 12
_LARGEST_BYTES, _LARGEST_CONTENT_BYTES = 64 << 20, 1 << 30
_TEXTS = ("revision", "machine", "device_name", "model", "task", "started", "record", "environment")


class Newer(UserError):
    """A file was written by a newer version."""


@dataclass(frozen=True)
class Kept:
    """A record of a revision.

    Attributes:
        revision: the whole hash of the commit.
        dirty: whether the work tree had uncommitted changes.
        record: without raw samples.
        environment: where it was measured.
    """

    revision: str
    dirty: bool
    record: Record
    environment: Environment

    @property
    def machine(self) -> str:
        """The hash of the hardware."""
        return self.environment.hardware

    @property
    def run(self) -> str:
        """Tells this measurement from every other one."""
        return _digest([self.revision, self.dirty, self.record.to_json()])


def of_results(store: Store) -> list[Kept]:
    """Return what a results folder measured, of a revision still to be named.

    Raises:
        UserError: it has no latency.
    """
    environments = {record.environment: store.environment(record.environment) for record in store.each()}
    found = [
        Kept("", False, _small(record), environment)
        for record in store.each()
        if record.latency and record.status == "ok" and (environment := environments[record.environment]) is not None
    ]
    if not found:
        raise UserError(f"{store.folder}: no cell has a latency to keep; 'attn-bench measure' measures them")
    return found


def _small(record: Record) -> Record:
    """Return a record without what is large: samples, training curves, trials."""
    return replace(
        record,
        latency={step: replace(latency, samples_ms=()) for step, latency in record.latency.items()},
        training=record.training and replace(record.training, curve=None),
        trials=(),
        imported={},
    )


class History:
    """A store.

    Raises:
        UserError: the folder is a results folder, or a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--store {folder}: is a file; name a folder")
        if (folder / "run.json").exists():
            raise UserError(f"--store {folder}: is a results folder; name another one for the history")

    def add(self, kept: Sequence[Kept]) -> list[Path]:
        """Write what the store does not have yet, a file per machine; return the paths."""
        there = {each.run for name in {each.revision for each in kept} for each in self._read(name[:_NAMED])}
        groups: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        for each in kept:
            if each.run not in there:
                groups[each.revision, each.machine].append(each)
        paths = []
        for (revision, machine), rows in groups.items():
            rows = sorted(rows, key=lambda each: each.run)
            name = f"{revision[:_NAMED]}-{machine}-{_digest([each.run for each in rows])}{SUFFIX}"
            paths.append(self.folder / name)
            _write(paths[-1], rows)
        return paths

    def read(self) -> list[Kept]:
        """Return everything in the store; a file that cannot be read is skipped and reported.

        Raises:
            UserError: there is nothing, or a file is of a newer version of attn-bench.
        """
        found = {each.run: each for each in self._read()}
        if not found:
            what = "no history in it" if self.folder.is_dir() else "no such folder"
            raise UserError(f"--store {self.folder}: {what}; 'attn-bench history add RESULTS' adds to one")
        return list(found.values())

    def _read(self, start: str = "") -> Iterator[Kept]:
        for path in sorted(self.folder.glob(f"{start}*{SUFFIX}")):
            if path.name.startswith("."):
                continue
            try:
                yield from _rows(path)
            except Newer:
                raise
            except Exception as error:  # whatever pyarrow raises for a damaged file
                say_once(f"{path}: skipped, {clean(reason(error), 200)}")


def _digest(values: object) -> str:
    return sha256(dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _write(path: Path, rows: Sequence[Kept]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [_columns(each) for each in rows]
    schema = _schema().with_metadata({_KEY: str(VERSION).encode()})
    table = pa.table({name: [row[name] for row in columns] for name in schema.names}, schema=schema)
    with atomic_write(path) as file:
        parquet.write_table(table, file, compression="zstd")


def _columns(kept: Kept) -> Mapping[str, object]:
    cell = kept.record.cell
    return {
        "revision": kept.revision,
        "machine": kept.machine,
        "device_name": kept.environment.device_name,
        "model": cell.model,
        "task": cell.task,
        "started": kept.record.started,
        "record": dumps(kept.record.to_json(), sort_keys=True),
        "environment": dumps(kept.environment.to_json(), sort_keys=True),
        "dirty": kept.dirty,
        "resolution": cell.resolution,
        "seed": cell.seed,
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    others = {"dirty": pa.bool_(), "resolution": pa.int64(), "seed": pa.int64()}
    return pa.schema({name: pa.string() for name in _TEXTS} | others)


def _rows(path: Path) -> list[Kept]:
    """Return the rows of an untrusted file; raises an error of any kind if it is not one of a history."""
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(pa.BufferReader(read_regular(path, _LARGEST_BYTES)))
    version = (file.metadata.metadata or {}).get(_KEY, b"")
    if not version.isdigit():
        raise ValueError("not of a history of attn-bench")
    if int(version) > VERSION:
        raise Newer(f"{path}: written by a newer version of attn-bench (form {int(version)}, not {VERSION}); update it")
    if sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)) > (
        _LARGEST_CONTENT_BYTES
    ):
        raise ValueError("too large")
    table = file.read().select(["revision", "dirty", "record", "environment"])
    return [_kept(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def _kept(revision: str, dirty: bool, record: str, environment: str) -> Kept:
    if len(revision) < 40 or not revision.isalnum():
        raise ValueError("a revision that is not the hash of a commit")
    return Kept(revision, dirty, Record.from_json(loads(record)), Environment.from_json(loads(environment)))
