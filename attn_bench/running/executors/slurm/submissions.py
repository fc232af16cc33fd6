"""What has been submitted for a results folder: one file for each job array, which jobs and ``status`` read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.files import read_json, write_json
from attn_bench.format import clean
from attn_bench.results.store import Store
from attn_bench.running.work import Frontier, Work
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running

SCHEMA = 1
PREFIX = "attn-bench-"
_LARGEST_BYTES = 256 << 20


@dataclass(frozen=True)
class Submission:
    """A job array, or a single job.

    Attributes:
        token: that its name and its files have.
        job: id that Slurm gave it; None while it is being submitted.
        submitted: when, in seconds since 1970.
        tasks: ids of the cells of each task of the array.
        cells: of all tasks, by id, as :meth:`Cell.to_request` writes them; those of one plugin share their sources.
        sources: by number.
        before: stamps of the records that the cells had, by id.
        frontier: what tells which cells are skipped (:class:`attn_bench.running.work.Frontier`).
        running: settings of the run.
        modules: that fork servers import.
    """

    token: str
    job: str | None
    submitted: float
    tasks: Sequence[Sequence[str]]
    cells: Mapping[str, Mapping[str, Any]]
    sources: Sequence[Mapping[str, Any]]
    before: Mapping[str, str | None]
    frontier: Mapping[str, Mapping[str, int]]
    running: Mapping[str, Any]
    modules: Sequence[str]

    @classmethod
    def of(
        cls, work: Work, chunks: Sequence[Sequence[Cell]], submitted: float, frontier: Frontier | None = None
    ) -> Submission:
        """Return the submission of some cells of some work, cut into tasks."""
        cells = [cell for chunk in chunks for cell in chunk]
        sources: list[Mapping[str, Any]] = []
        requests = {}
        for cell in cells:
            request = cell.to_request()
            own = request.pop("sources")
            if own not in sources:
                sources.append(own)
            requests[cell.id] = {**request, "sources": sources.index(own), "broken": cell.broken}
        return cls(
            token=os.urandom(6).hex(),
            job=None,
            submitted=submitted,
            tasks=[[cell.id for cell in chunk] for chunk in chunks],
            cells=requests,
            sources=sources,
            before={id: work.store.stamp(id) for id in requests},
            frontier=frontier.part(cells) if frontier else {},
            running=dataclasses.asdict(work.running),
            modules=list(work.modules),
        )

    @property
    def name(self) -> str:
        """Of its jobs."""
        return f"{PREFIX}{self.token}"

    def task_id(self, index: int) -> str:
        """Return the id that Slurm gave to a task."""
        return f"{self.job}_{index}" if len(self.tasks) > 1 else str(self.job)

    def cell(self, id: str) -> Cell:
        """Return a cell by its id."""
        values = dict(self.cells[id])
        broken = values.pop("broken")
        return replace(Cell.from_json({**values, "sources": self.sources[values["sources"]]}), broken=broken)

    def work(self, store: Store, ids: Sequence[str]) -> Work:
        """Return the work on some of the cells."""
        running: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.running.items()
        }
        cells = [self.cell(id) for id in ids]
        return Work(
            cells,
            store,
            Running(**running),
            self.modules,
            before=self.before,
        )

    def path(self, store: Store) -> Path:
        """Return its file."""
        return store.folder / "slurm" / f"{self.token}.json"

    def files(self, store: Store) -> Path:
        """Return the folder of its scripts and logs."""
        return store.folder / "slurm" / self.token

    def write(self, store: Store) -> None:
        """Write its file."""
        write_json(self.path(store), {"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Submission:
        """Return what :meth:`write` wrote; raises UserError if it is something else."""
        try:
            values = read_json(path, _LARGEST_BYTES)
            if values.pop("schema") != SCHEMA:
                raise ValueError("written by another version of attn-bench")
            found = cls(**values)
            if found.token != path.stem or not found.token.isalnum():
                raise ValueError("of another name")
            return found
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read ({clean(str(error), 200)}); remove it") from None

    def discard(self, store: Store) -> None:
        """Remove its files, except logs that say something."""
        self.path(store).unlink(missing_ok=True)
        folder = self.files(store)
        for file in folder.glob("*"):
            if not (file.name.endswith("_log.err") and file.stat().st_size):
                with contextlib.suppress(OSError):
                    file.unlink()
        for each in (folder, folder.parent):
            with contextlib.suppress(OSError):  # a log is left, or another submission
                each.rmdir()


def submissions(store: Store) -> Iterator[Submission]:
    """Yield what has been submitted for a folder and not been settled."""
    for path in sorted((store.folder / "slurm").glob("*.json")):
        if not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                yield Submission.read(path)
