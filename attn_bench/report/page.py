"""The report: every figure and table of a results folder, and a Markdown page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric
from attn_bench.report.summary import Summary, summarise
from attn_bench.report.tables import cost_note, markdown_table
from attn_bench.report.text import count, for_markdown, plain, significant
from attn_bench.results import atomic_write

if TYPE_CHECKING:
    import pandas as pd


def write_report(
    folder: Path, table: pd.DataFrame, *, metrics: Mapping[str, Metric], out: Path | None = None
) -> list[Path]:
    """Write ``report.md``, ``table.md`` and the figures, PNG and SVG each, and return their paths.

    A figure without a single value is left out.

    Args:
        folder: results folder; its ``artifacts`` are shown for field tasks.
        table: its table (see :func:`attn_bench.results.load`).
        metrics: of the task; the first is what figures show.
        out: where to write; by default ``report`` in ``folder``.

    Raises:
        UserError: the table holds nothing to report.
        OSError: ``out`` cannot be written.
    """
    # matplotlib takes a second to import, which the table for the terminal need not wait for.
    from attn_bench.report import figures
    from attn_bench.report import scaling as growth
    from attn_bench.report.panels import field_panel, read_samples
    from attn_bench.report.style import save, style

    summary = summarise(table, metrics)
    out = out or folder / "report"
    text = markdown_table(summary)
    task = plain(summary.settings.get("task", "field"))
    page = _Page(summary, task, text)
    written: list[Path] = []
    with style():
        for name in ("error_vs_resolution", "latency_vs_resolution", "memory_vs_resolution", "error_vs_latency"):
            if (figure := getattr(figures, name)(summary)) is not None:
                written += save(figure, out, name)
                page.show(name)
        if (found := growth.scaling(table)) is not None:
            written += save(growth.figure(found, summary), out, "scaling")
            page.show_scaling(growth.markdown(found, summary))
        for resolution in summary.resolutions:
            samples, notes = read_samples(folder, summary, resolution)
            page.notes += notes
            if samples:
                name = f"{_file_name(task)}_panel_{resolution}"
                written += save(field_panel(samples), out, name)
                page.show_panel(name, resolution, {model: sample.rel_l2 for model, sample in samples.items()})
    for name, content in (("table.md", text), ("report.md", page.text())):
        with atomic_write(out / name) as file:
            file.write(content.encode())
        written.append(out / name)
    return written


def _file_name(task: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in task)


class _Page:
    """Gathers what goes into ``report.md``."""

    def __init__(self, summary: Summary, task: str, table: str) -> None:
        self.summary, self.task, self.table = summary, task, table
        self.sections: list[str] = []
        self.notes: list[str] = []

    def show(self, name: str) -> None:
        """Add one of the figures that every task has."""
        title, caption = self._captions()[name]
        alt = f"{title}. {self._finding(name)}".strip()
        self._section(title, name, alt, f"{caption} {self._finding(name)}".strip())

    def show_scaling(self, tables: str) -> None:
        """Add how costs grow with the number of tokens."""
        title = "Cost against the number of tokens"
        caption = "Points are measured, lines fitted; the legends give the slopes. Dotted: slopes to compare with."
        self._section(title, "scaling", f"{title}, with fitted exponents; the table below has them.", caption)
        self.sections.append(tables)

    def show_panel(self, name: str, resolution: int, errors: Mapping[str, float]) -> None:
        """Add a panel of fields."""
        listed = ", ".join(f"{plain(model)} {significant(error)}" for model, error in errors.items())
        title = f"Fields at resolution {resolution}"
        caption = (
            "First test sample: coefficient and truth on the left, then each prediction above its absolute error. "
            "Predictions share the truth's colour scale; the errors share one."
        )
        self._section(title, name, f"{title}. Relative L2 error of the sample: {listed}.", caption)

    def _section(self, title: str, name: str, alt: str, caption: str) -> None:
        escaped = for_markdown(alt)
        self.sections.append(f"## {title}\n\n![{escaped}]({name}.png)\n\n*{for_markdown(caption)}* ([SVG]({name}.svg))")

    def _captions(self) -> dict[str, tuple[str, str]]:
        primary = self.summary.primary
        metric = self.summary.metrics[primary]
        seeds = (
            f" Mean over up to {self.summary.max_seeds} seeds; bars from the lowest to the highest."
            if self.summary.max_seeds > 1
            else ""
        )
        interval = " Bars: 95 % confidence interval of the median" + (
            ", from the lowest to the highest of the seeds." if seeds else "."
        )
        return {
            "error_vs_resolution": (
                f"{primary} against resolution",
                f"{plain(metric.summary, 200) or primary}; {metric.direction} is better.{seeds}",
            ),
            "latency_vs_resolution": (
                "Latency against resolution",
                f"Median latency; both axes logarithmic.{interval}",
            ),
            "memory_vs_resolution": (
                "Peak memory against resolution",
                "Peak memory of the step above what weights and inputs occupy; both axes logarithmic.",
            ),
            "error_vs_latency": (
                f"{primary} against latency",
                "A point per model and resolution, the larger the higher. Rings: no other model at that resolution is "
                "both faster and better.",
            ),
        }

    def _finding(self, name: str) -> str:
        """Say who is best at the highest resolution that several reached."""
        column = {
            "latency_vs_resolution": "latency_forward_ms",
            "memory_vs_resolution": "peak_memory_forward_mib",
        }.get(name, self.summary.primary)
        metric = self.summary.metrics.get(column)
        higher = metric is not None and metric.direction == "higher"
        for resolution in reversed(self.summary.resolutions):
            best = self.summary.best(column, resolution, higher=higher)
            if best is not None:
                winner = next(
                    e.model for e in self.summary.entries if e.resolution == resolution and e.mean(column) == best
                )
                word = {"latency_forward_ms": "Fastest forward", "peak_memory_forward_mib": "Least memory forward"}
                unit = {"latency_forward_ms": " ms", "peak_memory_forward_mib": " MiB"}.get(column, "")
                return f"{word.get(column, 'Best')} at {resolution}: {plain(winner)} ({significant(best)}{unit})."
        return ""

    def text(self) -> str:
        """Return the page."""
        summary = self.summary
        what = (
            f"{count(len(summary.models), 'model')} at {count(len(summary.resolutions), 'resolution')} "
            f"({', '.join(map(str, summary.resolutions))})."
        )
        parts = [
            f"# attn-bench: {for_markdown(self.task)}",
            f"{what} {cost_note(summary)}.",
            "## Results",
            self.table.rstrip(),
        ]
        parts += self.sections
        if self.notes:
            parts.append("## Not shown\n\n" + "\n".join(f"- {for_markdown(plain(note, 200))}" for note in self.notes))
        return "\n\n".join(parts) + "\n"
