"""The progress of a run: a live display on a terminal, one line per cell elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from attn_bench.plugins.registry import TASKS
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.table import missing
from attn_bench.running.runner import Watcher
from attn_bench.running.tuning import TRIAL_MARK, TRIALS
from attn_bench.running.work import FINAL
from attn_bench.sweep.cell import Cell

# Without a terminal, the shortest time between two progress lines.
LINE_S = 60.0
# Cells that run at the same time and have a bar of their own.
SHOWN = 8


class Lines:
    """Progress lines for logs, in which a live display is useless: the first at once, then one a minute."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last: float | None = None

    def wait(self) -> None:
        """Delay the next line by a minute, as what starts now may be short."""
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line, unless there is a terminal or the last line is recent."""
        if self.console.is_terminal or (self.last is not None and time.monotonic() < self.last + LINE_S):
            return
        self.wait()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class DataBar:
    """Progress of generating data, on standard error."""

    def __init__(self, title: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=(console := Console(stderr=True)),
            transient=True,
            disable=not console.is_terminal,
        )
        self.title, self.lines = title, Lines(console)
        self.task = self.progress.add_task(title, total=None, visible=False)

    def __enter__(self) -> DataBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` samples, or bytes of a download."""
        self.progress.update(self.task, completed=done, total=total, visible=True)
        self.lines.say(f"{self.title}: {done}/{total}")


class Screen:
    """The number of finished cells, and stage, epoch, loss and remaining time of the current one."""

    def __init__(self, folder: Path, interrupted: str = "rerun the same command to resume") -> None:
        self.folder, self.interrupted = folder, interrupted
        self.console = Console(stderr=True)
        self.lines = Lines(self.console)
        self.data = ""
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.all = self.progress.add_task("cells", total=None, detail="", visible=False)
        self.making = self.progress.add_task("data", total=1.0, detail="", visible=False)
        # By cell; several run at a time.
        self.running: dict[str, TaskID] = {}
        self.cells = 0
        self.done = 0
        self.batch_told = False

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.stop()
        if kind is KeyboardInterrupt:
            finished = f"{self.folder} has a table of the finished cells" if self.done else "no cell was finished"
            print(f"Interrupted: {finished}; {self.interrupted}.", file=sys.stderr)

    def watcher(self) -> Watcher:
        """Return the callbacks that follow a sweep."""
        return Watcher(self.on_cells, self.on_source, self.on_data, self.on_read, self.on_warning, self.listen)

    def on_cells(self, cells: Sequence[Cell], there: Sequence[str]) -> None:
        """Receive the cells, and the statuses of those that have a record already."""
        self.cells, self.done = len(cells), len(there)
        text = f"{self.cells} {'cell' if self.cells == 1 else 'cells'} into {self.folder}"
        if there:
            text += f", {'all' if self.done == self.cells else self.done} already there"
        if failed := sum(status not in FINAL for status in there):
            text += f" ({failed} not ok: --retry failed runs {'it' if failed == 1 else 'them'} again)"
        self._print(text)

    def on_source(self, title: str) -> None:
        """Learn which data are made or fetched next."""
        self.data = title
        self.progress.update(self.making, description=title, visible=True)

    def on_data(self, done: int, total: int) -> None:
        """Show progress of generating data, in samples, or of a download, in bytes."""
        self.progress.update(self.making, completed=done, total=total, detail=f"{done}/{total}")
        self.lines.say(f"{self.data}: {done}/{total}")

    def on_read(self, line: str) -> None:
        """Show which data were read or generated."""
        self._print(line)

    def on_warning(self, message: str) -> None:
        """Show a warning about the data."""
        self._print(f"warning: {message}")

    def listen(self, cell: Cell, event: dict[str, Any]) -> None:
        """Show an event of a cell."""
        match event["event"]:
            case "start":
                self.lines.wait()
                self.progress.update(self.making, visible=False)
                self.progress.update(self.all, total=self.cells, completed=self.done, visible=True)
                shown = len(self.running) < SHOWN
                self.running[cell.id] = self.progress.add_task(cell.title, total=1.0, detail="starting", visible=shown)
            case "progress" if event["stage"] == "training":
                detail = f"epoch {event['epoch']:.1f}, loss {event['loss']:.4f}"
                self._update(cell, completed=event["fraction"], detail=detail)
                self.lines.say(f"{cell.title}: {event['fraction']:.0%} of training, {detail}")
            case "progress":
                self._update(cell, detail=event["stage"])
            case "done":
                if (task := self.running.pop(cell.id, None)) is not None:
                    self.progress.remove_task(task)
                for task in list(self.running.values())[:SHOWN]:
                    self.progress.update(task, visible=True)
                if not cell.is_trial:
                    self._count(cell, event["record"])
                self._line(cell, event["record"])

    def _update(self, cell: Cell, **values: Any) -> None:
        if (task := self.running.get(cell.id)) is not None:
            self.progress.update(task, **values)

    def _count(self, cell: Cell, record: Record) -> None:
        """Count a cell that is done."""
        self.done += not _measured_later(cell, record)
        self.progress.update(self.all, completed=self.done, detail=f"{self.done} of {self.cells}")

    def _line(self, cell: Cell, record: Record) -> None:
        count = f"[{self.done}/{self.cells}]"
        count = TRIAL_MARK if cell.is_trial else "[trained]" if _measured_later(cell, record) else count
        words = [count, cell.title + ":", record.status]
        for evaluation in record.evaluations[:1]:
            about = TASKS.load(cell.task).metrics
            shown = {
                name: value for name, value in evaluation.metrics.items() if name in about and not about[name].detail
            }
            words += [f"{name} {value:.4g}" for name, value in shown.items() if value is not None]
        if record.seconds is not None:
            words.append(f"{record.seconds:.0f} s")
        if isinstance(cell.execution.batch_size, str) and record.batch_size:
            words.append(f"batch size {record.batch_size}")
        if record.error:
            words.append(f"({record.error})")
        self._smaller_batch(cell, record)
        words += [
            f"(at {each.resolution}: {each.status}, {each.error})"
            for each in record.evaluations
            if each.status != "ok" and each.resolution != cell.resolution
        ]
        if without := missing(record.errors):
            words.append(f"(missing: {without})")
        self._print("  ".join(words))
        log = Store(self.folder / TRIALS if cell.is_trial else self.folder).path("logs", cell.id)
        if (record.status == "crashed" or without) and log.exists() and log.stat().st_size:
            self._print(f"    output and traceback: {log}")

    def _smaller_batch(self, cell: Cell, record: Record) -> None:
        """Warn once that the training set is smaller than a batch."""
        used = record.training.notes.get("batch_size") if record.training else None
        if used is not None and not self.batch_told:
            self.batch_told = True
            asked = cell.execution.batch_size
            self.on_warning(f"batch size {asked} exceeds the training set; trained with batches of {used}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _measured_later(cell: Cell, record: Record) -> bool:
    """Tell whether a cell has only been trained, beside others."""
    return cell.measuring.measure and not record.cell.measuring.measure and record.lacks_measuring
