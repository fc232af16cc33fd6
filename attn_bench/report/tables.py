"""Tables for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from attn_bench.format import for_markdown, human, plain, significant, with_spread
from attn_bench.report.curves import SHARES, EqualTime, beside_others
from attn_bench.report.entry import Entry
from attn_bench.report.summary import Summary
from attn_bench.report.trainings import Trained, Trainings
from attn_bench.results.quantities import Place, Quantity, quantities

if TYPE_CHECKING:
    from rich.console import Group

NOTHING = "-"
REASON_WIDTH = 300
DETAILS = "Errors in detail"
EQUAL_TIMES = "Errors after equal times of training"
EQUAL_TIMES_NOTE = (
    "The last error found by then, mean over seeds. The last of these times is that of the fastest training at the "
    "resolution. A schedule is made for the whole training: a slower model is caught in the middle of its own here; "
    "--seconds trains all models for equal times."
)


def text(quantity: Quantity, entry: Entry, *, spread: bool = True, short: bool = False) -> str:
    """Return a value as text, with a sign if it was disturbed.

    Args:
        spread: add the standard deviation over seeds, if there is one.
        short: use fewer digits of the deviation and no spaces.
    """
    stat = entry.values.get(quantity.column)
    if stat is None:
        return NOTHING
    if quantity.rule == "exact" and not quantity.unit:
        return human(stat.mean)
    if not spread or quantity.rule == "exact" or stat.deviation is None:
        return significant(stat.mean) + entry.sign(quantity)
    if short:
        return f"{significant(stat.mean)}±{significant(stat.deviation, 1)}{entry.sign(quantity)}"
    return with_spread(stat.mean, stat.deviation) + entry.sign(quantity)


def head(quantity: Quantity) -> str:
    """Return the head of a quantity's column; an arrow shows which direction of a metric is better."""
    arrow = (" ↑" if quantity.higher else " ↓") if quantity.rule == "accuracy" else ""
    return for_markdown(quantity.with_unit(quantity.label)) + arrow


def lines(heads: Sequence[str], numbers: Iterable[int], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        heads, rows: cells in Markdown.
        numbers: the columns aligned to the right.
    """
    right = set(numbers)
    rule = ["--:" if i in right else ":--" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def markdown_table(summary: Summary) -> str:
    """Return the table of all entries, with the best value per resolution in bold, failures and notes below it."""
    shown, names = summary.shown("report"), summary.names
    failing = any(entry.failures for entry in summary.entries)
    rows = [
        [
            str(entry.resolution),
            for_markdown(names[entry.model]),
            *(f"**{value}**" if summary.is_best(of, entry) else value for of in shown for value in [text(of, entry)]),
            *([entry.status] if failing else []),
        ]
        for entry in summary.rows
        if not entry.transfer
    ]
    heads = ["Resolution", "Model", *map(head, shown), *(["Status"] if failing else [])]
    parts = [lines(heads, [0, *range(2, 2 + len(shown))], rows), _notes(summary)]
    if summary.shown("details"):
        parts.append(f"### {DETAILS}\n\n{_details_table(summary)}")
    if summary.transfers:
        parts.append(f"### Evaluated at resolutions not trained at\n\n{_transfer_table(summary)}")
    if failed := [
        f"- {for_markdown(names[entry.model])} at {entry.where} ({failure.where}): **{failure.status}**"
        + (f": {for_markdown(plain(failure.reason, REASON_WIDTH))}" if failure.reason else "")
        for entry, failure in summary.failures()
    ]:
        parts.append("### Failures\n\n" + "\n".join(failed))
    if remarks := [
        f"- {for_markdown(who)}: {for_markdown(plain(what, REASON_WIDTH))}" for who, what in summary.remarks()
    ]:
        parts.append("### Not measured, or changed by a model\n\n" + "\n".join(remarks))
    return "\n\n".join(parts) + "\n"


def _notes(summary: Summary) -> str:
    notes = ["Best value per resolution in bold."]
    if summary.max_seeds > 1:
        notes.append(f"Mean ± standard deviation over up to {summary.max_seeds} seeds.")
    else:
        notes.append("One seed.")
    notes.append(f"{cost_note(summary)}.")
    notes += (f"{for_markdown(said)}." for said in summary.said)
    metrics = {metric.label for metric in summary.metrics}
    defined = [
        f"{f'`{name}`' if name in metrics else name}: {for_markdown(plain(what, 200))}"
        for name, what in definitions(summary)
    ]
    return " ".join(notes) + ("\n\n" + "; ".join(defined) + "." if defined else "")


def _details_table(summary: Summary) -> str:
    """Return the metrics that say more about an error, beside the primary one, and their definitions."""
    shown = [summary.primary, *summary.shown("details")]
    rows = [
        [
            str(entry.resolution),
            for_markdown(summary.names[entry.model]),
            *(f"**{value}**" if summary.is_best(of, entry) else value for of in shown for value in [text(of, entry)]),
        ]
        for entry in summary.detailed
    ]
    heads = ["Resolution", "Model", *map(head, shown)]
    defined = (f"- `{name}`: {for_markdown(plain(what, 300))}" for name, what in definitions(summary, "details"))
    return "\n\n".join((lines(heads, [0, *range(2, len(heads))], rows), "\n".join(defined)))


def definitions(summary: Summary, place: Place = "report") -> list[tuple[str, str]]:
    """Return the definitions of the columns at a place: the heads that share one, and the definition."""
    found: dict[str, list[str]] = {}
    for quantity in summary.shown(place):
        if quantity.group.definition:
            found.setdefault(quantity.group.definition, []).append(quantity.label)
    return [(", ".join(labels), what) for what, labels in found.items()]


def trainings_table(found: Trainings, summary: Summary) -> str:
    """Return how models were trained, where they differ, and what tuning tried, as Markdown tables."""

    def table(heads: Sequence[str], values: Callable[[Trained], Sequence[str]]) -> str:
        rows = [
            [for_markdown(summary.names[row.model]), ", ".join(map(str, row.resolutions)), *values(row)]
            for row in found.rows
        ]
        return lines(["Model", "Resolutions", *heads], (), rows)

    settings = table(found.heads, lambda row: [*map(for_markdown, row.settings)]) if found.heads else ""
    tried = table(["Tried by tuning"], lambda row: [row.tried or NOTHING]) if found.tuned else ""
    return "\n\n".join(filter(None, (settings, tried)))


def equal_times_table(found: Sequence[EqualTime], summary: Summary) -> str:
    """Return the errors after equal times of training as a Markdown table, with a note on it."""
    rows = [
        [
            str(at.resolution),
            for_markdown(summary.names[model]),
            *(
                f"{f'**{error_text(error)}**' if at.is_best(model, i) else error_text(error)} ({seconds(time)})"
                for i, (error, time) in enumerate(zip(errors, at.seconds))
            ),
            f"{error_text(at.ends[model][1])} ({seconds(at.ends[model][0])})",
        ]
        for at in found
        for model, errors in at.errors.items()
    ]
    heads = ["Resolution", "Model", *equal_times_heads()]
    return f"{lines(heads, [0, *range(2, len(heads))], rows)}\n\n{equal_times_note(found)}"


def equal_times_note(found: Sequence[EqualTime]) -> str:
    """Return the note on errors after equal times of training."""
    return " ".join(filter(None, (EQUAL_TIMES_NOTE, beside_others(way for at in found for way in at.under))))


def equal_times_heads() -> list[str]:
    """Return the heads of the columns of errors after equal times, and of that of the last."""
    return [*(f"After {share:.0%} of the fastest" for share in SHARES), "At its end"]


def seconds(time: float) -> str:
    """Return a time in seconds for a table."""
    return f"{significant(time, 2)} s"


def error_text(value: float | None) -> str:
    """Return an error for a table."""
    return NOTHING if value is None else significant(value)


def cost_note(summary: Summary) -> str:
    """Return a sentence on how latency and memory were measured, or without them, on where models ran."""
    settings = summary.settings
    measured = any(quantity.own and summary.has(quantity) for quantity in quantities("report"))
    parts = ["Latency and memory" if measured else "Run"]
    if measured and "batch_size" in settings:
        parts.append(f"of a batch of {settings['batch_size']}")
        if summary.batches:
            parts.append(f"({summary.batches})")
    if where := settings.get("device_name") or settings.get("device"):
        parts.append(f"on {for_markdown(plain(where, 80))}")
    if "precision" in settings:
        parts.append(f"in {settings['precision']}")
    return " ".join(parts)


def _transfer_table(summary: Summary) -> str:
    """Return the primary metric by the resolution trained at (rows) and evaluated at (columns)."""
    evaluated = sorted({entry.eval_resolution for entry in summary.rows})
    by_row: dict[tuple[int, str], dict[int, Entry]] = {}
    for entry in summary.rows:
        by_row.setdefault((entry.resolution, entry.model), {})[entry.eval_resolution] = entry
    rows = [
        [str(trained), for_markdown(summary.names[model]), *(_transfer(summary, row.get(at)) for at in evaluated)]
        for (trained, model), row in by_row.items()
        if len(row) > 1
    ]
    heads = ["Trained at", "Model", *(f"{head(summary.primary)} at {resolution}" for resolution in evaluated)]
    return lines(heads, [0, *range(2, len(heads))], rows)


def _transfer(summary: Summary, entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    return text(summary.primary, entry) if summary.primary.column in entry.values else entry.status


def console_table(summary: Summary) -> Group:
    """Return the table for the terminal, which fits 80 columns with up to two metrics, with one note per line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown, names = summary.shown("terminal"), summary.names
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    # This column and the last may wrap, so that a narrow terminal does not cut numbers.
    table.add_column("model", overflow="fold")
    for title in ("res.", *(["eval."] if summary.transfers else []), *(quantity.short for quantity in shown)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for entry in summary.rows:
        numbers = [
            Text(
                text(quantity, entry, spread=quantity == summary.primary, short=True),
                "bold" if not entry.transfer and summary.is_best(quantity, entry) else "",
            )
            for quantity in shown
        ]
        where = [str(entry.resolution), *([str(entry.eval_resolution)] if summary.transfers else [])]
        table.add_row(
            Text(names[entry.model]), *where, *numbers, Text(entry.status, "red" if entry.failures else "green")
        )
    notes = [
        Text(f"{names[entry.model]} at {entry.where}: {failure.status}: {plain(failure.reason, REASON_WIDTH)}", "red")
        for entry, failure in summary.failures()
        if failure.reason
    ]
    notes += [Text(f"{who}: {plain(what, REASON_WIDTH)}", "yellow") for who, what in summary.remarks()]
    for quantity in shown:
        if quantity.short == quantity.unit:
            notes.append(Text(f"{quantity.short}: {quantity.axis}.", "dim"))
    notes += (Text(f"{said}.") for said in summary.said)
    return Group(table, *notes)
