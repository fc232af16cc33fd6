"""The Markdown page of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attn_bench.analysis.claims.checks import Check
from attn_bench.format import count, for_markdown, plain
from attn_bench.report import claims_table
from attn_bench.report import scaling_table as growth
from attn_bench.report.origin import Origin
from attn_bench.report.pictures import Drawn, Picture
from attn_bench.report.summary import Summary
from attn_bench.report.tables import EQUAL_TIMES, cost_note, equal_times_table, trainings_table


def markdown_page(
    parts: Sequence[tuple[Summary, Drawn]], tables: Sequence[str], origin: Origin, checks: Sequence[Check]
) -> str:
    """Return ``report.md``: for each task its table (Markdown) and its figures with captions; then claims of papers."""
    title = f"# attn-bench: {for_markdown(', '.join(summary.task for summary, _ in parts))}"
    found = [title]
    for (summary, drawn), table in zip(parts, tables):
        lines = _of_task(summary, drawn, table, origin)
        # One level deeper, below the name of the task.
        found += [f"## {for_markdown(summary.task)}", *map(_deeper, lines)] if len(parts) > 1 else lines
    if touched := claims_table.touched(checks):
        found.append(f"## Claims of papers\n\n{claims_table.markdown(touched).rstrip()}")
    return "\n\n".join(found) + "\n"


def _of_task(summary: Summary, drawn: Drawn, table: str, origin: Origin) -> list[str]:
    parts = [
        f"{extent(summary)} {cost_note(summary)}.",
        *([f"Training: {for_markdown(text)}."] if (text := _training(origin, summary)) else []),
        *([trainings_table(drawn.trainings, summary)] if drawn.trainings else []),
        "## Results",
        table.rstrip(),
        *map(_figure, [*drawn.plots, *filter(None, [drawn.trade_off])]),
    ]
    if drawn.growth and drawn.scaling:
        parts += [_figure(drawn.growth), growth.markdown(drawn.scaling, summary)]
    parts += map(_figure, filter(None, (drawn.parts, drawn.training)))
    if drawn.equal_times:
        parts.append(f"### {EQUAL_TIMES}\n\n{equal_times_table(drawn.equal_times, summary)}")
    parts += map(_figure, drawn.panels)
    if drawn.notes:
        parts.append("## Not shown\n\n" + "\n".join(f"- {for_markdown(plain(note, 200))}" for note in drawn.notes))
    return parts


def _deeper(text: str) -> str:
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def _training(origin: Origin, summary: Summary) -> str:
    facts = origin.training.get(summary.settings.get("task", ""), [])
    return "; ".join(f"{name[0].lower()}{name[1:]} {text}" for name, text in facts)


def extent(summary: Summary) -> str:
    """Return how many models were run, and at which resolutions."""
    models = len({label.partition(" [")[0] for label in summary.models})
    variants = f" in {count(len(summary.models), 'variant')}" if models < len(summary.models) else ""
    return (
        f"{count(models, 'model')}{variants} at {count(len(summary.resolutions), 'resolution')} "
        f"({', '.join(map(str, summary.resolutions))}). {summary.selection}"
    ).rstrip()


def _figure(picture: Picture) -> str:
    name, alt, caption = picture.name, for_markdown(picture.alt), for_markdown(picture.caption)
    return f"## {for_markdown(picture.title)}\n\n![{alt}]({name}.png)\n\n*{caption}* ([SVG]({name}.svg))"
