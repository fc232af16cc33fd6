"""What a run shows while it goes on: a live display on a terminal, one line per cell elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attn_bench.sweep import Cell


class DataBar:
    """Progress of making data, on standard error."""

    def __init__(self, title: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=(console := Console(stderr=True)),
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(title, total=None, visible=False)

    def __enter__(self) -> DataBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` samples, or bytes of a download."""
        self.progress.update(self.task, completed=done, total=total, visible=True)


class Screen:
    """Cells done, and of the cell that runs: stage, epoch, loss, time left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.all = self.progress.add_task("cells", total=None, detail="", visible=False)
        self.one = self.progress.add_task("", total=1.0, detail="", visible=False)
        self.cells = 0
        self.done = 0

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.stop()
        if kind is KeyboardInterrupt:
            print(
                f"Interrupted. {self.folder} holds a table of what is finished; the same command goes on from there.",
                file=sys.stderr,
            )

    def on_cells(self, cells: Sequence[Cell]) -> None:
        """Learn what is to be run."""
        self.cells = len(cells)
        self.console.print(f"{self.cells} cells into {self.folder}", markup=False, highlight=False)
        self.progress.update(self.one, description="data", visible=True)

    def on_data(self, done: int, total: int) -> None:
        """Show progress of making data, in samples, or of a download, in bytes."""
        self.progress.update(self.one, completed=done, total=total, detail=f"{done}/{total}")

    def on_warning(self, message: str) -> None:
        """Show what is to be known of the data."""
        self.console.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)

    def listen(self, cell: Cell, event: dict[str, Any]) -> None:
        """Show an event of a cell."""
        match event["event"]:
            case "start":
                self.progress.update(self.all, total=self.cells, completed=self.done, visible=True)
                self.progress.reset(self.one, total=1.0, description=cell.title, detail="starting", visible=True)
            case "progress" if event["stage"] == "training":
                self.progress.update(
                    self.one,
                    completed=event["fraction"],
                    detail=f"epoch {event['epoch']:.1f}, loss {event['loss']:.4f}",
                )
            case "progress":
                self.progress.update(self.one, detail=event["stage"])
            case "done":
                self.done += 1
                self.progress.update(self.all, completed=self.done, detail=f"{self.done} of {self.cells}")
                self._line(cell, event["record"])

    def _line(self, cell: Cell, record: dict[str, Any]) -> None:
        words = [f"[{self.done}/{self.cells}]", cell.title + ":", record["status"]]
        if record["evaluations"]:
            words += [
                f"{name} {value:.4g}"
                for name, value in record["evaluations"][0]["metrics"].items()
                if value is not None
            ]
        if record["seconds"] is not None:
            words.append(f"{record['seconds']:.0f} s")
        if record["error"]:
            words.append(f"({record['error']})")
        self.console.print("  ".join(words), markup=False, highlight=False, soft_wrap=True)
