"""Records, the folder they are kept in, and the pandas table of it.

Layout of a results folder::

    run.json             task, metrics and settings of the last sweep written here
    cells/<id>.json      one record per cell, written atomically
    environments/<id>.json  where cells ran; records refer to them
    artifacts/<id>.npz   a few test samples with their predictions
    checkpoints/<id>.pt  of cells that are not finished
    logs/<id>.txt        what the cell's process printed
    table.csv, table.parquet  the table of all records
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.errors import UserError
from attn_bench.files import TEMPORARY, atomic_write, write_json
from attn_bench.sweep import Cell

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
Status = Literal["ok", "oom", "timeout", "crashed", "diverged", "unsupported", "skipped"]


@dataclass(frozen=True)
class Record:
    """What became of one cell.

    Attributes:
        cell: the cell, as JSON.
        status: ``ok``, or why it is not.
        error: one line for any other status.
        environment: name of the file under ``environments/`` that says where it ran.
        tokens: points of the grid.
        complexity: growth with the number of tokens that the model claims.
        parameters: trainable parameters (a complex one counts as two).
        flops: of one forward pass of one sample.
        effective: settings in force where they differ from those asked for.
        training: steps, epochs, seconds, loss.
        evaluations: one entry per resolution evaluated at: resolution, status, error, metrics.
        latency, memory: ``forward`` and ``train_step``, each as measured, raw samples included.
        data: what the data were.
        seconds: wall-clock time of the cell.
        started: UTC time, ISO 8601.
    """

    cell: Mapping[str, Any]
    id: str
    status: Status
    error: str | None = None
    environment: str | None = None
    tokens: int | None = None
    complexity: str | None = None
    parameters: int | None = None
    flops: Mapping[str, Any] | None = None
    effective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    evaluations: tuple[Mapping[str, Any], ...] = ()
    latency: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    started: str | None = None
    schema: int = SCHEMA

    @classmethod
    def of(cls, cell: Cell, status: Status, **values: Any) -> Record:
        """Build the record of ``cell``."""
        return cls(cell=cell.to_json(), id=cell.id, status=status, **values)


_REQUIRED = {field.name for field in dataclasses.fields(Record)} - {"tokens", "complexity"}


class Store:
    """A results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, task: str) -> Store:
        """Open ``folder`` for writing, making it if need be.

        Raises:
            UserError: it cannot be written, or holds something else.
        """
        store = cls(folder)
        try:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"--out {folder}: is a file; name a folder")
            # A runner killed early leaves nothing but a temporary file.
            if any(path.is_file() and path.suffix != TEMPORARY for path in folder.rglob("*")):
                existing = store.run_info()
                if existing.get("task") != task:
                    raise UserError(
                        f"--out {folder}: holds results of task {existing.get('task')!r}; name another folder"
                    )
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
        """Open a folder for reading; raises UserError if it holds no results."""
        store = cls(folder)
        if not folder.is_dir():
            what = "a file, no results folder" if folder.exists() else "no such folder; 'attn-bench run' makes one"
            raise UserError(f"{folder}: {what}")
        store.run_info()
        return store

    def run_info(self) -> dict[str, Any]:
        """Return ``run.json``; raises UserError if the folder is no results folder."""
        path = self.folder / "run.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.folder}: holds no results of attn-bench (no run.json)") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        if not isinstance(info, dict) or info.get("schema") != SCHEMA:
            found = info.get("schema") if isinstance(info, dict) else None
            raise UserError(
                f"{path}: schema {found!r}, this version reads {SCHEMA}; use the version of attn-bench that wrote it"
            )
        return info

    def write_run_info(self, values: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        write_json(self.folder / "run.json", {"schema": SCHEMA, **values})

    def path(self, kind: Literal["cells", "artifacts", "checkpoints", "logs", "environments"], id: str) -> Path:
        """Return where something of a cell is kept."""
        suffix = {"cells": "json", "artifacts": "npz", "checkpoints": "pt", "logs": "txt", "environments": "json"}[kind]
        return self.folder / kind / f"{id}.{suffix}"

    def write(self, record: Record) -> None:
        """Keep a record; takes the place of an earlier one of the same cell."""
        write_json(self.path("cells", record.id), dataclasses.asdict(record))

    def read(self, id: str) -> dict[str, Any] | None:
        """Return the record of a cell, or None if there is none; raises UserError if the file is broken."""
        path = self.path("cells", id)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            whole = record["schema"] == SCHEMA and record["id"] == id and record.keys() >= _REQUIRED
            return record if whole else _broken(path, "not a whole record of it")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return _broken(path, repr(error))

    def environment(self, id: str | None) -> dict[str, Any] | None:
        """Return an environment that a record refers to, or None if it is not there; raises UserError if broken."""
        if id is None:
            return None
        path = self.path("environments", id)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def records(self) -> list[dict[str, Any]]:
        """Return every record, in the order of resolution, model and seed."""
        files = sorted((self.folder / "cells").glob("*.json"))
        records = [record for file in files if (record := self.read(file.stem)) is not None]
        return sorted(records, key=lambda r: (r["cell"]["resolution"], r["cell"]["model"], r["cell"]["seed"], r["id"]))

    def table(self) -> pd.DataFrame:
        """Return the table of every record (see :func:`load`)."""
        import pandas as pd

        from attn_bench.table import rows

        environments = {
            file.stem: json.loads(file.read_text(encoding="utf-8"))
            for file in (self.folder / "environments").glob("*.json")
        }
        return pd.DataFrame(rows(self.records(), environments, list(self.run_info().get("metrics", {}))))

    def write_table(self) -> pd.DataFrame:
        """Write ``table.csv`` and ``table.parquet`` and return the table; an empty one has no columns to write."""
        table = self.table()
        if table.empty:
            return table
        with atomic_write(self.folder / "table.csv") as file:
            table.to_csv(file, index=False)
        with atomic_write(self.folder / "table.parquet") as file:
            table.to_parquet(file, index=False)
        return table


def _broken(path: Path, why: str) -> Any:
    raise UserError(f"{path}: broken record ({why}); delete the file to run its cell again")


def load(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the table of a results folder: one row per cell, and one more per further resolution it was evaluated at.

    Raises:
        UserError: the folder holds no results, or broken ones.
    """
    table = Store.open(Path(path)).table()
    if table.empty:
        raise UserError(f"{path}: holds no finished cell yet; 'attn-bench run' goes on there")
    return table
