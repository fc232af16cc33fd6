"""The records in a folder, each read again only when its file is another one."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from attn_bench.files import read_json
from attn_bench.format import clean
from attn_bench.results import index
from attn_bench.results.index import Indexed, Stamp
from attn_bench.results.record import Record

# A record with thousands of samples has a few hundred KiB.
LARGEST_BYTES = 32 << 20
_SUFFIX = ".json"


class Known:
    """The records in the folder ``cells`` of a results folder, which any process may change meanwhile.

    Attributes:
        cells: the folder that they are in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.cells = folder, folder / "cells"
        self._within = os.path.join(self.cells, "")
        self._records: dict[str, tuple[Stamp, Record | None]] = {}
        # What the index holds, or would if it were written now; and which of it is not in the file yet.
        self._indexed: dict[str, Indexed] = {}
        self._missing: set[str] = set()
        self._read_index = False

    def record(self, id: str) -> Record | None:
        """Return a record, or None if there is none or it is invalid, which is reported once."""
        stamp = _stamp(self._path(id))
        return None if stamp is None else self._at(id, stamp)

    def records(self) -> dict[str, Record]:
        """Return every valid record by the id that names its file, in order; writes the index if needed."""
        there = self._there()
        if len(there) >= index.FEWEST and not self._read_index:
            self._indexed, self._read_index = index.read(self.folder), True
        for known in (self._records, self._indexed):
            for id in known.keys() - there.keys():
                del known[id]
        self._missing &= there.keys()
        with _uncollected():
            found = {
                id: record
                for id, stamp in there.items()
                if (record := self._at(id, stamp, bulk=self._read_index)) is not None
            }
        settled = {id for id in self._missing if self._indexed[id].stamp.settled}
        if index.outdated(len(there), len(settled)):
            index.write(self.folder, self._indexed)
            self._missing -= settled
        return found

    def _there(self) -> dict[str, Stamp]:
        """Return the files that should be records, in the order of their names; hidden ones are left out."""
        found: dict[str, Stamp] = {}
        try:
            with os.scandir(self.cells) as entries:
                for entry in entries:
                    hidden = entry.name.startswith(".")
                    if entry.name.endswith(_SUFFIX) and not hidden and (stamp := _stamp(entry.path)) is not None:
                        found[entry.name.removesuffix(_SUFFIX)] = stamp
        except FileNotFoundError:
            return {}
        return dict(sorted(found.items()))

    def _path(self, id: str) -> str:
        return f"{self._within}{id}{_SUFFIX}"

    def _at(self, id: str, stamp: Stamp, *, bulk: bool = False) -> Record | None:
        """Return the record of a file that had ``stamp`` a moment ago.

        If the file is replaced before it is read, its next stamp is another one, and it is read again.
        """
        known = self._records.get(id)
        if known is not None and known[0] == stamp:
            return known[1]
        record = self._of_index(id, stamp)
        if record is None:
            record = self._of_file(id, self._path(id), stamp, bulk)
        self._records[id] = stamp, record
        return record

    def _of_index(self, id: str, stamp: Stamp) -> Record | None:
        indexed = self._indexed.get(id)
        if indexed is None or indexed.stamp != stamp:
            return None
        try:
            return _named(Record.from_text(indexed.text), id)
        except ValueError:  # damaged: the file says what it is
            return None

    def _of_file(self, id: str, path: str, stamp: Stamp, bulk: bool) -> Record | None:
        self._indexed.pop(id, None)
        self._missing.discard(id)
        try:
            text = Record.text_of(read_json(Path(path), LARGEST_BYTES))
            record = _named(Record.from_text(text), id)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            say_once(f"{path}: skipped, {clean(reason(error))}")
            return None
        if bulk:
            self._indexed[id] = Indexed(stamp, text)
            self._missing.add(id)
        return record


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the collector of cycles, which would look through all records again and again while they are made."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _stamp(path: str) -> Stamp | None:
    """Return the stamp of a file, None if it is not there, or cannot be looked at, which is reported."""
    try:
        return Stamp.of(os.stat(path))
    except FileNotFoundError:  # also for a link to nothing
        return None
    except OSError as error:
        say_once(f"{path}: skipped, {clean(reason(error))}")
        return None


def _named(record: Record, id: str) -> Record:
    if record.id != id:
        raise ValueError(f"contains the record of another cell, {record.id}")
    return record


def reason(error: Exception) -> str:
    """Return what is wrong with a file, in words."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


@functools.cache
def say_once(line: str) -> None:
    """Report something in a line, unless it was reported before."""
    # To standard error wherever nobody configured logging.
    logging.getLogger("attn_bench").warning(line)
