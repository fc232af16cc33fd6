"""TensorBoard: event files in the results folder, in one folder per cell and one for the table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attn_bench.files import safe_name
from attn_bench.format import for_markdown
from attn_bench.results.quantities import quantities
from attn_bench.results.store import Store
from attn_bench.running.trackers.tracked_cell import TrackedCell

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COLUMNS = ("model", "task", "resolution", "eval_resolution", "seed", "status")


class TensorBoard:
    """Writes to ``tensorboard`` in the results folder."""

    def __init__(self, folder: Path) -> None:
        import torch.utils.tensorboard  # noqa: F401

        self.folder = folder / "tensorboard"
        self.where = "tensorboard"

    def cell(self, cell: TrackedCell, *, curves: bool) -> None:
        """Write the event files of a cell; they take the place of earlier ones."""
        from torch.utils.tensorboard.summary import hparams

        began = cell.began or time.time()
        end = began + cell.seconds
        final = {f"final/{name}": value for name, value in cell.final.items()}
        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in cell.settings.items()
        }
        with self._writer(f"{cell.name} {cell.key.partition('-')[2]}") as writer:
            for name, step, seconds, value in cell.points():
                writer.add_scalar(name, value, step, walltime=began + seconds)
            for summary in hparams(settings, final):
                writer._get_file_writer().add_summary(summary, walltime=end)
            for name, value in final.items():
                writer.add_scalar(name, value, 0, walltime=end)
            writer.add_text("results", _rows({"status": cell.status, **cell.facts}), 0, walltime=end)

    def results(self, key: str, folder: Path, files: Sequence[Path], page: Path | None) -> None:
        """Write the table, and where the page is; TensorBoard shows neither files nor pages."""
        with self._writer("results") as writer:
            writer.add_text("table", _table(Store.open(folder)), 0)
            if page is not None:
                writer.add_text("page", for_markdown(str(page.resolve())), 0)

    @contextmanager
    def _writer(self, name: str) -> Iterator[SummaryWriter]:
        """Give a writer whose events take the place of those under this name once the block succeeds."""
        from torch.utils.tensorboard import SummaryWriter

        target = self.folder / safe_name(name, 150)
        target.mkdir(parents=True, exist_ok=True)
        before = list(target.glob("events.out.tfevents.*"))
        with TemporaryDirectory(dir=self.folder, prefix=".") as temporary:
            with SummaryWriter(temporary) as writer:
                yield writer
            for path in Path(temporary).iterdir():
                path.replace(target / path.name)
        for path in before:
            path.unlink(missing_ok=True)


def _rows(facts: dict[str, str]) -> str:
    return "\n".join(["|  |  |", "|---|---|", *(f"| {name} | {for_markdown(text)} |" for name, text in facts.items())])


def _table(store: Store) -> str:
    """Return the main columns of the table in Markdown."""
    table = store.table()
    named = (*_COLUMNS, *store.run_info().metrics, *(quantity.column for quantity in quantities("terminal")))
    shown = [name for name in named if name in table and table[name].notna().any()]
    lines = ["| " + " | ".join(map(for_markdown, shown)) + " |", "|---" * len(shown) + "|"]
    for row in table[shown].itertuples(index=False):
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)
        lines.append("| " + " | ".join("" if cell in ("nan", "None") else for_markdown(cell) for cell in cells) + " |")
    return "\n".join(lines)
