"""Tables for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attn_bench.format import for_markdown, human, plain, significant, with_spread
from attn_bench.plugin import Metric
from attn_bench.report.summary import Entry, Failure, Summary, summarise

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group
    from rich.text import Text

NOTHING = "-"
REASON_WIDTH = 300


@dataclass(frozen=True)
class Column:
    """A column of numbers: where they stand in the table, its head, and how its numbers are written."""

    name: str
    head: str
    short: str
    kind: str = "measured"
    higher: bool = False
    ranked: bool = True

    def text(self, entry: Entry) -> str:
        """Return the cell of ``entry``."""
        stat = entry.values.get(self.name)
        if stat is None:
            return NOTHING
        if self.kind == "count":
            return human(stat.mean)
        if self.kind == "memory":
            return significant(stat.mean)
        return with_spread(stat.mean, stat.deviation) + entry.sign(self.name)

    def short_text(self, entry: Entry, *, spread: bool) -> str:
        """Return the cell for a narrow table."""
        stat = entry.values.get(self.name)
        if stat is None or self.kind == "count":
            return self.text(entry)
        if spread and stat.deviation is not None:
            return f"{significant(stat.mean)}±{significant(stat.deviation, 1)}"
        return significant(stat.mean) + entry.sign(self.name)


def columns(metrics: Mapping[str, Metric]) -> list[Column]:
    """Return the columns of a task's tables."""
    shown = [
        Column(name, f"{name} ({m.unit})" if m.unit else name, name, "metric", m.direction == "higher")
        for name, m in metrics.items()
    ]
    return [
        Column("parameters", "Parameters", "params", "count", ranked=False),
        *shown,
        Column("latency_forward_ms", "Forward (ms)", "fwd ms"),
        Column("latency_train_step_ms", "Train step (ms)", "train ms"),
        Column("peak_memory_forward_mib", "Peak forward (MiB)", "fwd MiB", "memory"),
        Column("peak_memory_train_mib", "Peak train (MiB)", "MiB", "memory"),
        Column("flops", "FLOPs", "FLOPs", "count", ranked=False),
    ]


def markdown_table(summary: Summary) -> str:
    """Return the table of all entries, with the best value per resolution in bold, failures and notes below it."""
    shown = [column for column in columns(summary.metrics) if summary.has(column.name)]
    names = summary.names
    failing = any(entry.failures for entry in summary.entries)
    head = ["Resolution", "Model", *(_head(column) for column in shown), *(["Status"] if failing else [])]
    lines = [_line(head), _line(["--:", ":--", *("--:" for _ in shown), *([":--"] if failing else [])])]
    for resolution in summary.resolutions:
        for model in (*summary.models, *summary.references):
            for entry in summary.of(model):
                if entry.resolution == resolution:
                    cells = [_bold_if_best(summary, column, entry) for column in shown]
                    status = [status_text(entry)] if failing else []
                    lines.append(_line([str(resolution), for_markdown(names[model]), *cells, *status]))
    parts = ["\n".join(lines), _notes(summary)]
    if transfers := _transfer_table(summary, names):
        parts.append("### Evaluated at resolutions not trained at\n\n" + transfers)
    if failures := failure_lines(summary, names):
        parts.append("### Failures\n\n" + "\n".join(failures))
    if gaps := gap_lines(summary, names):
        parts.append("### Not measured\n\n" + "\n".join(gaps))
    return "\n\n".join(parts) + "\n"


def _head(column: Column) -> str:
    arrow = (" ↑" if column.higher else " ↓") if column.kind == "metric" else ""
    return for_markdown(column.head) + arrow


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bold_if_best(summary: Summary, column: Column, entry: Entry) -> str:
    text = column.text(entry)
    return f"**{text}**" if is_best(summary, column, entry) else text


def is_best(summary: Summary, column: Column, entry: Entry) -> bool:
    """Tell whether ``entry`` has the best value of its resolution, where at least two models compete."""
    stat = entry.values.get(column.name)
    best = summary.best(column.name, entry.resolution, higher=column.higher) if column.ranked else None
    if stat is None or best is None:
        return False
    # What reads the same is as good.
    return entry in summary.rivals(column.name, entry.resolution) and significant(stat.mean) == significant(best)


def status_text(entry: Entry) -> str:
    """Return ``ok``, or every other status with the number of seeds where only some failed."""
    if not entry.failures:
        return "ok"
    parts = []
    for status in dict.fromkeys(failure.status for failure in entry.failures):
        failed = sum(len(failure.seeds) for failure in entry.failures if failure.status == status)
        parts.append(status if failed == entry.seeds else f"{status} {failed}/{entry.seeds}")
    return ", ".join(parts)


def _notes(summary: Summary) -> str:
    notes = ["Best value per resolution in bold."]
    if summary.max_seeds > 1:
        notes.append(f"Mean ± standard deviation over up to {summary.max_seeds} seeds.")
    else:
        notes.append("One seed.")
    notes.append(f"{cost_note(summary)}; peak memory is above what weights and inputs occupy.")
    if summary.has("flops"):
        notes.append("FLOPs: forward pass of one sample.")
    definitions = [
        f"`{name}`: {for_markdown(plain(m.summary, 200))}"
        for name, m in summary.metrics.items()
        if m.summary and summary.has(name)
    ]
    if summary.disturbed:
        notes.append(f"{summary.disturbed}.")
    return " ".join(notes) + ("\n\n" + "; ".join(definitions) + "." if definitions else "")


def cost_note(summary: Summary) -> str:
    """Say what latency and memory were measured with."""
    settings = summary.settings
    parts = ["Latency and memory"]
    if "batch_size" in settings:
        parts.append(f"of a batch of {settings['batch_size']}")
    if where := settings.get("device_name") or settings.get("device"):
        parts.append(f"on {for_markdown(plain(where, 80))}")
    if "dtype" in settings:
        parts.append(f"in {settings['dtype']}")
    return " ".join(parts)


def _transfer_table(summary: Summary, names: Mapping[str, str]) -> str:
    """Return the primary metric by the resolution trained at (rows) and evaluated at (columns)."""
    if not summary.transfers:
        return ""
    entries = [*summary.entries, *summary.transfers]
    evaluated = sorted({entry.eval_resolution for entry in entries})
    column = next(column for column in columns(summary.metrics) if column.name == summary.primary)
    lines = [
        _line(["Trained at", "Model", *(f"{_head(column)} at {resolution}" for resolution in evaluated)]),
        _line(["--:", ":--", *("--:" for _ in evaluated)]),
    ]
    for trained in summary.resolutions:
        for model in (*summary.models, *summary.references):
            row = {e.eval_resolution: e for e in entries if e.model == model and e.resolution == trained}
            if len(row) > 1:
                cells = [_transfer_cell(column, row.get(resolution)) for resolution in evaluated]
                lines.append(_line([str(trained), for_markdown(names[model]), *cells]))
    return "\n".join(lines)


def _transfer_cell(column: Column, entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    return column.text(entry) if column.name in entry.values else status_text(entry)


def failure_lines(summary: Summary, names: Mapping[str, str]) -> list[str]:
    """Return one Markdown list item per way in which an entry failed."""
    lines = []
    for entry, where, failure in failures(summary):
        reason = f": {for_markdown(plain(failure.reason, REASON_WIDTH))}" if failure.reason else ""
        name = for_markdown(names[entry.model])
        lines.append(f"- {name} at {where} ({seeds_text(failure)}): **{failure.status}**{reason}")
    return lines


def gap_lines(summary: Summary, names: Mapping[str, str]) -> list[str]:
    """Return a Markdown list item for what an entry lacks though it is ok, and for what its model changed."""
    lines = []
    for entry in summary.entries:
        at = f"- {for_markdown(names[entry.model])} at {entry.resolution}"
        lines += [f"{at} ({seeds_text(gap)}): {for_markdown(plain(gap.reason, REASON_WIDTH))}" for gap in entry.gaps]
        lines += [f"{at}: the model changed {for_markdown(plain(text, REASON_WIDTH))}" for text in entry.changed]
    return lines


def failures(summary: Summary) -> Iterator[tuple[Entry, str, Failure]]:
    """Yield each way in which an entry failed, and at which resolution; what failed to train is not said again."""
    untrained = {(e.model, e.resolution, failure.status) for e in summary.entries for failure in e.failures}
    for entry in (*summary.entries, *summary.transfers):
        transfer = entry.eval_resolution != entry.resolution
        for failure in entry.failures:
            if transfer and (entry.model, entry.resolution, failure.status) in untrained:
                continue
            where = f"{entry.resolution}" + (f", evaluated at {entry.eval_resolution}" if transfer else "")
            yield entry, where, failure


def seeds_text(failure: Failure) -> str:
    """Name the seeds that failed so."""
    seeds = ", ".join(map(str, sorted(failure.seeds)))
    return f"seed {seeds}" if len(failure.seeds) == 1 else f"seeds {seeds}"


def console_table(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> Group:
    """Return the table for the terminal, which fits 80 columns with up to two metrics, and notes on it, one a line.

    Raises:
        UserError: the table is empty.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    summary = summarise(table, metrics)
    names = summary.names
    trained = {name for name in metrics if summary.has(name)}
    wanted = {"parameters", *trained, "latency_forward_ms", "latency_train_step_ms", "peak_memory_train_mib"}
    shown = [column for column in columns(metrics) if column.name in wanted]
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    # This column and the last may wrap, so that a narrow terminal cuts no number.
    made.add_column("model", overflow="fold")
    made.add_column("res.", justify="right", no_wrap=True)
    for column in shown:
        made.add_column(column.short, justify="right", no_wrap=True)
    made.add_column("status", overflow="fold")
    for resolution in summary.resolutions:
        for model in (*summary.models, *summary.references):
            for entry in summary.of(model):
                if entry.resolution == resolution:
                    numbers = [_console_cell(summary, column, entry) for column in shown]
                    status = Text(status_text(entry), style="red" if entry.failures else "green")
                    made.add_row(Text(names[model]), str(resolution), *numbers, status)
    reasons = [
        f"{names[entry.model]} {entry.resolution}: {failure.status}: {plain(failure.reason, REASON_WIDTH)}"
        for entry in summary.entries
        for failure in entry.failures
        if failure.reason
    ]
    notes = [Text(reason, style="red") for reason in reasons]
    notes += [
        Text(f"{names[entry.model]} {entry.resolution}: without {plain(gap.reason, REASON_WIDTH)}", style="yellow")
        for entry in summary.entries
        for gap in entry.gaps
    ]
    notes += [
        Text(f"{names[entry.model]} {entry.resolution}: the model changed {plain(text, REASON_WIDTH)}", style="dim")
        for entry in summary.entries
        for text in entry.changed
    ]
    if summary.has("peak_memory_train_mib"):
        notes.append(Text("MiB: peak memory of a training step.", style="dim"))
    if summary.disturbed:
        notes.append(Text(f"{summary.disturbed}."))
    return Group(made, *notes)


def _console_cell(summary: Summary, column: Column, entry: Entry) -> Text:
    from rich.text import Text

    text = column.short_text(entry, spread=column.name == summary.primary)
    best = _bold_if_best(summary, column, entry).startswith("**")
    return Text(text, style="bold" if best else "")
