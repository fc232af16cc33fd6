"""The results folder: its records, and its pandas table.

Layout of a results folder::

    run.json             tasks with their metrics, and settings of the last sweep written here
    cells/<id>.json      one record per cell, written atomically
    environments/<id>.json  where cells ran; records refer to them
    weights/<id>.safetensors  of trained models, if they were asked to be kept
    artifacts/<id>.npz   a few test samples with their predictions
    checkpoints/<id>.pt  of cells that are not finished
    logs/<id>.txt        what the cell's process printed
    leases/<id>          who runs a cell, while it runs
    machines/<name>      which runs train and measure on a machine, while they do
    table.csv, table.parquet  the table of all records
    tracked/, tensorboard/  what was sent to trackers (``--track``)
    index.parquet        what ``cells`` holds, if that is much (:mod:`.index`)

Unusable files that are in the way are renamed with the suffix ``.unusable``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attn_bench.errors import UserError
from attn_bench.files import TEMPORARY, UNUSABLE, atomic_write, read_json, read_regular, temporary_beside, write_json
from attn_bench.format import clean
from attn_bench.results.brief import Short
from attn_bench.results.environment import Environment
from attn_bench.results.index import FEWEST
from attn_bench.results.known import LARGEST_BYTES, Known, reason, say_once
from attn_bench.results.merge import merged
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo
from attn_bench.results.validation import plain

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Kind = Literal["cells", "artifacts", "checkpoints", "logs", "environments", "weights"]
_SUFFIXES: Mapping[Kind, str] = {
    "cells": "json", "artifacts": "npz", "checkpoints": "pt", "logs": "txt", "environments": "json",
    "weights": "safetensors",
}  # fmt: skip


class Store:
    """A results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._info: RunInfo | None = None
        self._known = Known(folder)
        # The records as they were when they were last merged.
        self._each: list[Record] = []
        self._merged: list[Record] = []

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Open ``folder`` for writing, creating it if needed.

        Raises:
            UserError: it cannot be written, or contains something else.
        """
        store = cls(folder)
        try:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"--out {folder}: is a file; name a folder")
            # A runner killed early leaves only a temporary file, which is hidden.
            held = any(path.is_file() and not _hidden(path.relative_to(folder)) for path in folder.rglob("*"))
            if held:
                store.run_info()
            (folder / "cells").mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-", suffix=TEMPORARY):
                pass
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written ({error.strerror}); name another folder") from None
        return store

    def discard_empty(self) -> None:
        """Remove the folder if nothing was written to it."""
        with contextlib.suppress(OSError):
            (self.folder / "cells").rmdir()
            self.folder.rmdir()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a folder for reading; raises UserError if it contains no results."""
        store = cls(folder)
        if not folder.is_dir():
            what = (
                "is a file, not a results folder" if folder.exists() else "no such folder; 'attn-bench run' creates one"
            )
            raise UserError(f"{folder}: {what}")
        store.run_info()
        return store

    def run_info(self) -> RunInfo:
        """Return ``run.json``; raises UserError if the folder is not a results folder."""
        path = self.folder / "run.json"
        try:
            return RunInfo.from_json(read_json(path, LARGEST_BYTES))
        except FileNotFoundError:
            inside = [folder for folder in results_folders([self.folder]) if folder != self.folder]
            there = f"; it contains results folders: name one, e.g. {inside[0]}" if inside else ""
            raise UserError(f"{self.folder}: contains no results of attn-bench (no run.json){there}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({clean(reason(error))})") from None

    def write_run_info(self, info: RunInfo) -> None:
        """Write ``run.json``; tasks that are in it stay."""
        with contextlib.suppress(UserError):
            info = info.joined(self.run_info())
        self._info = info
        write_json(self.folder / "run.json", info.to_json())

    def path(self, kind: Kind, id: str) -> Path:
        """Return the path of a file of a cell."""
        return self.folder / kind / f"{id}.{_SUFFIXES[kind]}"

    def write(self, record: Record) -> None:
        """Write a record; it replaces an earlier one of the same cell, and an unusable file is set aside."""
        self._keep_run_info()
        path = self.path("cells", record.id)
        if os.path.lexists(path) and self.read(record.id) is None:
            with contextlib.suppress(OSError):
                path.replace(path.with_name(path.name + UNUSABLE))
        write_json(path, plain(record.to_json()))

    def _keep_run_info(self) -> None:
        """Write ``run.json`` again if the folder was removed since this store wrote it."""
        if self._info is not None and not (self.folder / "run.json").exists():
            self.write_run_info(self._info)

    def read(self, id: str) -> Record | None:
        """Return the record of a cell, or None if there is none or it is invalid, which is reported."""
        return self._known.record(id)

    def refresh(self) -> None:
        """Have a network file system show the records that other machines have written by now.

        It remembers which files are not there, until the folder is changed from here.
        """
        path = temporary_beside(self.folder / "cells" / "refreshed")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            path.unlink()

    def stamp(self, id: str) -> str | None:
        """Return what tells the record of a cell from any other that it had or will have; None if it has none."""
        try:
            return sha256(read_regular(self.path("cells", id), LARGEST_BYTES)).hexdigest()[:16]
        except (OSError, ValueError):
            return None

    def write_environment(self, environment: Environment) -> None:
        """Write an environment, which records refer to by its id."""
        write_json(self.path("environments", environment.id), environment.to_json())

    def environment(self, id: str | None) -> Environment | None:
        """Return an environment that a record refers to, or None if there is no usable one."""
        return None if id is None else self._read(self.path("environments", id), Environment.from_json)

    def _read(self, path: Path, check: Callable[[Any], T]) -> T | None:
        try:
            return check(read_json(path, LARGEST_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            say_once(f"{path}: skipped, {clean(reason(error))}")
            return None

    def ids(self) -> Iterator[str]:
        """Yield the names of the files that should be records, without hidden files."""
        for path in sorted((self.folder / "cells").glob("*.json")):
            if not _hidden(Path(path.name)):
                yield path.stem

    def as_it_is(self) -> Store:
        """Return a store of this folder for reading whose records stay those that are there when it is first asked.

        All parts of a report are then of the same records, whatever a run adds meanwhile, and are found once.
        """
        return _AsItIs(self.folder)

    def each_by_id(self) -> dict[str, Record]:
        """Return every valid record by its id; a file with none is skipped and reported once."""
        return self._known.records()

    def each(self) -> list[Record]:
        """Return every valid record (:meth:`each_by_id`)."""
        return list(self.each_by_id().values())

    def records(self) -> list[Record]:
        """Return every valid record, ordered by resolution, model and seed.

        Records of the same trained model are merged into one (:mod:`.merge`).
        """
        each = self.each()
        if len(each) != len(self._each) or any(one is not other for one, other in zip(each, self._each)):
            found = sorted(merged(each), key=lambda r: (r.cell.resolution, r.cell.model, r.cell.seed, r.id))
            self._each, self._merged = each, found
        return list(self._merged)

    def short(self, id: str) -> Short | None:
        """Return the record of a cell in brief, or None if there is none or it is invalid, which is reported."""
        return self._known.short(id)

    def each_short(self) -> dict[str, Short]:
        """Return every valid record in brief by its id (:meth:`each_by_id`), with an index without reading them."""
        return self._known.shorts()

    def shorts(self) -> list[Short]:
        """Return what :meth:`records` does, in brief."""
        each = self.each_short()
        groups: dict[Hashable, list[str]] = {}
        for id, short in each.items():
            groups.setdefault(short.brief.same_model, []).append(id)
        several = [id for ids in groups.values() if len(ids) > 1 for id in ids]
        found = [each[ids[0]] for ids in groups.values() if len(ids) == 1]
        if several:
            from attn_bench.results.table import in_brief

            there = self.each_by_id() if len(several) >= FEWEST else {id: self.read(id) for id in several}
            found += in_brief(merged([record for id in several if (record := there.get(id)) is not None]))
        return sorted(found, key=lambda s: (s.brief.resolution, s.brief.model, s.brief.seed, s.brief.id))

    def table(self) -> pd.DataFrame:
        """Return the table of every record (see :func:`load`)."""
        import pandas as pd

        from attn_bench.results.table import column_values, in_brief, of_record, typed

        shorts, width = self.shorts(), len(of_record())
        try:
            for short in shorts:
                short.check(width)
        except ValueError:  # of an index that another program wrote
            shorts = in_brief(self.records())
        used = sorted({short.brief.environment for short in shorts if short.brief.environment})
        environments = {id: values for id in used if (values := self.environment(id)) is not None}
        metrics = self.run_info().metrics
        return typed(pd.DataFrame(column_values(shorts, environments, metrics)), metrics)

    def curves(self) -> pd.DataFrame:
        """Return the training curves of every record (see :func:`load`)."""
        import pandas as pd

        from attn_bench.results.table import curve_rows

        return pd.DataFrame(curve_rows(self.records()))

    def write_table(self) -> pd.DataFrame:
        """Write ``table.csv`` and ``table.parquet`` and return the table; an empty table is not written."""
        self._keep_run_info()
        table = self.table()
        if table.empty:
            return table
        with atomic_write(self.folder / "table.csv") as file:
            table.to_csv(file, index=False)
        with atomic_write(self.folder / "table.parquet") as file:
            table.to_parquet(file, index=False)
        return table


class _AsItIs(Store):
    """A results folder that is looked at once (:meth:`Store.as_it_is`)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._known = Known(folder, once=True)

    @cached_property
    def _made(self) -> pd.DataFrame:
        return super().table()

    def table(self) -> pd.DataFrame:
        return self._made.copy()


def _hidden(path: Path) -> bool:
    """Tell whether a file is hidden: of the operating system, of an editor, or half-written."""
    return any(part.startswith(".") for part in path.parts)


def results_folders(given: Iterable[Path]) -> list[Path]:
    """Return results folders, and instead of a folder that is none itself those that it contains."""
    found: list[Path] = []
    for path in given:
        inside = path.is_dir() and not (path / "run.json").exists()
        found += (sorted(each.parent for each in path.glob("*/run.json")) if inside else []) or [path]
    return found


def load(path: str | os.PathLike[str], *, curves: bool = False) -> pd.DataFrame:
    """Return the table of a results folder: one row per cell, and one more per further resolution it was evaluated at.

    Args:
        curves: return the training curves instead, one row per point: the columns ``cell``, ``model``, ``task``,
            ``resolution`` and ``seed``; ``part`` (``train``, ``validation`` or ``test``) and ``quantity`` (``loss`` or
            the task's first metric); ``step``, ``epoch``, ``seconds`` and ``value``.

    Raises:
        UserError: the folder contains no results, or no curves.
    """
    return loaded(Store.open(Path(path)), curves=curves)


def loaded(store: Store, *, curves: bool = False) -> pd.DataFrame:
    """Return what :func:`load` does of a folder that is open; raises UserError as it does."""
    table = store.curves() if curves else store.table()
    if table.empty and curves:
        raise UserError(f"{store.folder}: no cell has a training curve")
    if table.empty:
        raise UserError(f"{store.folder}: no finished cells yet; rerun the same command to continue")
    return table
