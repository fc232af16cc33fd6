"""The Markdown page of a report."""

from __future__ import annotations

from collections.abc import Sequence

from attn_bench.analysis.claims.checks import Check
from attn_bench.format import count, for_markdown, plain
from attn_bench.report import claims_table
from attn_bench.report import scaling_table as growth
from attn_bench.report.origin import Origin
from attn_bench.report.pictures import Drawn, Picture
from attn_bench.report.summary import Summary
from attn_bench.report.tables import EQUAL_TIMES, cost_note, equal_times_table, trainings_table


def markdown_page(summary: Summary, drawn: Drawn, table: str, origin: Origin, checks: Sequence[Check]) -> str:
    """Return ``report.md``: ``table`` (Markdown), then every figure with its caption, and claims of papers."""
    parts = [
        f"# attn-bench: {for_markdown(plain(summary.settings.get('task', 'field')))}",
        f"{extent(summary)} {cost_note(summary)}.",
        *([f"Training: {for_markdown(text)}."] if (text := _training(origin)) else []),
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
    if touched := claims_table.touched(checks):
        parts.append(f"## Claims of papers\n\n{claims_table.markdown(touched).rstrip()}")
    if drawn.notes:
        parts.append("## Not shown\n\n" + "\n".join(f"- {for_markdown(plain(note, 200))}" for note in drawn.notes))
    return "\n\n".join(parts) + "\n"


def _training(origin: Origin) -> str:
    return "; ".join(f"{name[0].lower()}{name[1:]} {text}" for name, text in origin.training)


def extent(summary: Summary) -> str:
    """Return how many models were run, and at which resolutions."""
    return (
        f"{count(len(summary.models), 'model')} at {count(len(summary.resolutions), 'resolution')} "
        f"({', '.join(map(str, summary.resolutions))})."
    )


def _figure(picture: Picture) -> str:
    name, alt, caption = picture.name, for_markdown(picture.alt), for_markdown(picture.caption)
    return f"## {for_markdown(picture.title)}\n\n![{alt}]({name}.png)\n\n*{caption}* ([SVG]({name}.svg))"
