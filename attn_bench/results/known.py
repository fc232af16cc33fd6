"""The records in a folder, each read again only when its file is another one."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from attn_bench.files import read_json
from attn_bench.format import clean
from attn_bench.results import index
from attn_bench.results.brief import Brief, Short
from attn_bench.results.index import Indexed, Stamp
from attn_bench.results.record import Record

# A record with thousands of samples has a few hundred KiB.
LARGEST_BYTES = 32 << 20
_SUFFIX = ".json"
Named = TypeVar("Named", Record, Brief)


class Known:
    """The records in the folder ``cells`` of a results folder, which any process may change meanwhile.

    Attributes:
        cells: the folder that they are in.

    Args:
        once: look at the folder once, and never for what is changed there afterwards.
    """

    def __init__(self, folder: Path, *, once: bool = False) -> None:
        self.folder, self.cells = folder, folder / "cells"
        self._once, self._listed = once, dict[str, Stamp]()
        self._within = os.path.join(self.cells, "")
        self._records: dict[str, tuple[Stamp, Record | None]] = {}
        self._shorts: dict[str, tuple[Stamp, Short]] = {}
        # What the index holds, with the records or without; and what it would hold besides if it were written now.
        self._indexed: dict[str, Indexed] = {}
        self._read: Literal["nothing", "short", "whole"] = "nothing"
        self._missing: dict[str, tuple[Stamp, str]] = {}

    def record(self, id: str) -> Record | None:
        """Return a record, or None if there is none or it is invalid, which is reported once."""
        stamp = self._stamp(id)
        return None if stamp is None else self._at(id, stamp)

    def records(self) -> dict[str, Record]:
        """Return every valid record by the id that names its file, in order; writes the index if needed."""
        there = self._looked(whole=True)
        with _uncollected():
            found = {id: self._at(id, stamp) for id, stamp in there.items()}
        self._write(there)
        return {id: record for id, record in found.items() if record is not None}

    def short(self, id: str) -> Short | None:
        """Return a record in brief, or None if there is none or it is invalid, which is reported once."""
        stamp = self._stamp(id)
        return None if stamp is None else (self._short(id, stamp) or self._shortened({id: stamp}).get(id))

    def shorts(self) -> dict[str, Short]:
        """Return every valid record in brief by the id that names its file, in order; writes the index if needed."""
        there = self._looked(whole=False)
        with _uncollected():
            known = {id: self._short(id, stamp) for id, stamp in there.items()}
            made = self._shortened({id: there[id] for id, short in known.items() if short is None})
        self._write(there)
        found = {id: short or made.get(id) for id, short in known.items()}
        return {id: short for id, short in found.items() if short is not None}

    def _looked(self, *, whole: bool) -> dict[str, Stamp]:
        """Return the files that should be records, after reading the index where there are many."""
        there = self._there()
        wanted: Literal["short", "whole"] = "whole" if whole else "short"
        if len(there) >= index.FEWEST and self._read not in (wanted, "whole"):
            self._indexed, self._read = index.read(self.folder, whole=whole), wanted
        each: tuple[dict[str, Any], ...] = (self._records, self._shorts, self._indexed, self._missing)
        for known in each:
            for id in known.keys() - there.keys():
                del known[id]
        return there

    def _write(self, there: Mapping[str, Stamp]) -> None:
        """Write the index if too many records are not in it."""
        now = {id: stamp for id, (stamp, _) in self._missing.items() if stamp.settled}
        if self._read == "nothing" or not index.outdated(len(there), len(now)):
            return
        if self._read == "short":
            self._indexed, self._read = index.read(self.folder, whole=True), "whole"
        self._indexed = {id: of for id, of in self._indexed.items() if of.stamp == there.get(id)}
        shorts = {id: self._short(id, stamp) for id, stamp in now.items()}
        shorts |= self._shortened({id: now[id] for id, short in shorts.items() if short is None})
        for id, short in shorts.items():
            if short is not None:
                self._indexed[id] = Indexed(now[id], *short.to_texts(), self._missing.pop(id)[1])
        index.write(self.folder, self._indexed)

    def _there(self) -> dict[str, Stamp]:
        """Return the files that should be records, in the order of their names; hidden ones are left out."""
        if self._once and self._listed:
            return self._listed
        self._listed = self._list()
        return self._listed

    def _stamp(self, id: str) -> Stamp | None:
        return self._there().get(id) if self._once else _stamp(self._path(id))

    def _list(self) -> dict[str, Stamp]:
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

    def _at(self, id: str, stamp: Stamp) -> Record | None:
        """Return the record of a file that had ``stamp`` a moment ago.

        If the file is replaced before it is read, its next stamp is another one, and it is read again.
        """
        known = self._records.get(id)
        if known is not None and known[0] == stamp:
            return known[1]
        record = self._of_index(id, stamp)
        if record is None:
            record = self._of_file(id, self._path(id), stamp)
        self._records[id] = stamp, record
        return record

    def _of_index(self, id: str, stamp: Stamp) -> Record | None:
        indexed = self._indexed.get(id)
        if indexed is None or indexed.stamp != stamp or indexed.record is None:
            return None
        try:
            return _named(Record.from_text(indexed.record), id)
        except ValueError:  # damaged: the file says what it is
            return None

    def _of_file(self, id: str, path: str, stamp: Stamp) -> Record | None:
        self._missing.pop(id, None)
        try:
            text = Record.text_of(read_json(Path(path), LARGEST_BYTES))
            record = _named(Record.from_text(text), id)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            say_once(f"{path}: skipped, {clean(reason(error))}")
            return None
        indexed = self._indexed.get(id)
        if self._read != "nothing" and (indexed is None or indexed.stamp != stamp):
            self._missing[id] = stamp, text
        return record

    def _short(self, id: str, stamp: Stamp) -> Short | None:
        """Return what is known in brief of the record of a file that had ``stamp`` a moment ago."""
        known = self._shorts.get(id)
        if known is not None and known[0] == stamp:
            return known[1]
        indexed = self._indexed.get(id)
        if indexed is None or indexed.stamp != stamp:
            return None
        try:
            short = Short.from_texts(indexed.brief, indexed.lines)
            _named(short.brief, id)
        except ValueError:  # damaged: the file says what it is
            return None
        self._shorts[id] = stamp, short
        return short

    def _shortened(self, stamps: Mapping[str, Stamp]) -> dict[str, Short]:
        """Return the valid ones of some records in brief, from the records themselves."""
        from attn_bench.results.table import in_brief

        records = {id: record for id, stamp in stamps.items() if (record := self._at(id, stamp)) is not None}
        found = dict(zip(records, in_brief(list(records.values()))))
        self._shorts |= {id: (stamps[id], short) for id, short in found.items()}
        return found


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


def _named(record: Named, id: str) -> Named:
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
