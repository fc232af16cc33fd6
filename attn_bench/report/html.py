"""The HTML page of a report: one file that holds everything it shows and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_bench.analysis.claims.checks import Check
from attn_bench.format import count, plain
from attn_bench.report import claims, rows
from attn_bench.report.origin import Origin
from attn_bench.report.page import extent
from attn_bench.report.pictures import PLOTS, Drawn, Picture, finding
from attn_bench.report.reproduce import steps
from attn_bench.report.scaling import crossing_lines
from attn_bench.report.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
# A reason longer than this is folded away.
REASON_SHOWN = 240
# A figure wider than this is scrolled on a phone: shrunk to fit, its letters would be too small.
BROAD_PT = 500
# Columns of numbers that fit a printed page beside the names.
COLUMNS_PRINTED = 8


def html_page(
    table: pd.DataFrame, summary: Summary, drawn: Drawn, origin: Origin, checks: Sequence[Check], out: Path
) -> str:
    """Return the page; the figures, drawn before, are read from ``out`` and become part of it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    css, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    names = summary.names

    def svg(picture: Picture) -> bytes:
        return (out / f"{picture.name}.svg").read_bytes()

    def image(picture: Picture) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(svg(picture)).decode()

    costs, exponents = rows.exponents(drawn.scaling, summary, names) if drawn.scaling else ([], [])
    return environment.get_template("page.html.j2").render(
        css=Markup(css),
        script=Markup(script),
        policy=_policy(css, script),
        image=image,
        broad=lambda picture: _width(svg(picture)) > BROAD_PT,
        count=count,
        task=plain(summary.settings.get("task", "results"), 80),
        extent=extent(summary),
        findings=_findings(summary),
        statuses=_statuses(table),
        settings=_settings(summary),
        origin=origin,
        models=rows.models(table, summary, names),
        results=rows.results(summary, names),
        marks={names[model]: Markup(mark) for model, mark in drawn.marks.items()},
        metrics=summary.metrics,
        columns_printed=COLUMNS_PRINTED,
        max_seeds=summary.max_seeds,
        disturbed=summary.disturbed,
        resolutions=summary.resolutions,
        plots=[plot for plot in drawn.plots if plot.name != "error_vs_latency"],
        trade_off=next((plot for plot in drawn.plots if plot.name == "error_vs_latency"), None),
        fronts=rows.fronts(summary, names),
        growth=drawn.growth,
        points=summary.points,
        costs=costs,
        exponents=exponents,
        crossings=crossing_lines(drawn.scaling, names, summary.points) if drawn.scaling else [],
        reaches=rows.reaches(summary, names),
        reach_of="training step" if summary.has("peak_memory_train_mib") else "forward pass",
        panels=drawn.panels,
        claims=claims.rows(checks),
        more_claims=len(checks) - len(claims.touched(checks)),
        faults=rows.faults(summary, names),
        gaps=rows.gaps(summary, names),
        reason_shown=REASON_SHOWN,
        steps=steps(origin.cells),
        notes=drawn.notes,
    )


def visible(value: Any) -> Any:
    """Return text with every character that cannot be seen or that turns the direction of others written out."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(_seen(character) for character in value)


def _seen(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode()


def _width(svg: bytes) -> float:
    """Return the width of a figure in points."""
    found = re.search(rb'<svg[^>]*? width="([0-9.]+)pt"', svg)
    return float(found[1]) if found else 0.0


def _policy(css: str, script: str) -> str:
    """Return a content security policy that allows what the page holds and nothing else, least of all a request."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{code}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _findings(summary: Summary) -> list[str]:
    found = dict.fromkeys(finding(summary, column or summary.primary) for column in PLOTS.values())
    return [text for text in found if text]


def _statuses(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Count cells by status; further resolutions that a cell was evaluated at are no cells."""
    cells = table.drop_duplicates("cell")
    return Counter(cells["status"].astype(str)).most_common()


def _settings(summary: Summary) -> list[tuple[str, str]]:
    heads = {"device_name": "Device", "dtype": "Precision", "batch_size": "Batch size"}
    return [(head, summary.settings[name]) for name, head in heads.items() if name in summary.settings]
