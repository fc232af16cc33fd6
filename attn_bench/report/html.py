"""The HTML page of a report: one self-contained file that makes no requests."""

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
from attn_bench.format import count
from attn_bench.report import claims_table, rows
from attn_bench.report import scaling_table as growth
from attn_bench.report.dark import with_dark_scheme
from attn_bench.report.origin import Origin
from attn_bench.report.page import extent
from attn_bench.report.pictures import Drawn, findings
from attn_bench.report.reproduce import steps
from attn_bench.report.summary import Summary
from attn_bench.report.tables import (
    definitions,
    equal_times_heads,
    equal_times_note,
    error_text,
    seconds,
    text,
)
from attn_bench.results.quantities import MEMORY

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
# Longer reasons are folded.
REASON_SHOWN = 240
# Wider figures scroll on a phone: shrunk to fit, their text would be too small.
BROAD_PT = 500
BROADER_PT = 800
# Wider figures have a row of their own, except in very wide windows; still wider ones even there.
HALF_PT = 620
WIDE_PT = 860
# Columns of numbers that fit on a printed page beside the names.
COLUMNS_PRINTED = 7
SETTINGS = {"device_name": "Device", "precision": "Precision", "batch_size": "Batch size"}


def templates(folder: Path) -> jinja2.Environment:
    """Return the templates of a page in ``folder``: values are escaped, and one that is missing is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.globals["count"] = count
    return environment


def html_page(
    parts: Sequence[tuple[Summary, Drawn]], origin: Origin, checks: Sequence[Check], out: Path, home: str = ""
) -> str:
    """Return the page, a section for each task; the figures, already drawn, are read from ``out`` and embedded.

    Args:
        home: address of a page above it, to which it links.
    """
    from markupsafe import Markup

    environment = templates(TEMPLATES)
    environment.globals |= {"text": text, "interval": rows.interval, "exponent": growth.exponent}
    environment.globals |= {"error_text": error_text, "seconds": seconds, "equal_times_heads": equal_times_heads()}
    environment.globals |= {"equal_times_note": equal_times_note}
    css, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    of_task = environment.get_template("task.html.j2")
    several = len(parts) > 1
    return environment.get_template("page.html.j2").render(
        css=Markup(css),
        script=Markup(script),
        policy=policy(css, script),
        several=several,
        home=home,
        parts=[
            {
                **_overview(summary, drawn),
                "sections": Markup(of_task.render(**_of_task(summary, drawn, origin, out), several=several)),
            }
            for summary, drawn in parts
        ],
        statuses=sum((Counter(summary.statuses) for summary, _ in parts), Counter()).most_common(),
        origin=origin,
        claims=claims_table.rows(checks),
        more_claims=len(checks) - len(claims_table.touched(checks)),
        steps=steps(origin.cells),
    )


def _overview(summary: Summary, drawn: Drawn) -> dict[str, Any]:
    """Return what the head of the page says of a task, and where its sections are."""
    places = (
        ("results", "Results", True),
        ("front", "Error against cost", drawn.trade_off),
        ("resolution", "Against resolution", drawn.plots),
        ("growth", "Scaling", drawn.growth),
        ("training", "Training", drawn.parts or drawn.training),
        ("details", "Errors in detail", summary.shown("details")),
        ("fields", "Fields", drawn.panels),
        ("reach", "Reach", True),
        ("failures", "Failures", True),
        ("run", "What was run", True),
    )
    return {
        "id": drawn.id,
        "task": summary.task,
        "extent": extent(summary),
        "findings": findings(summary),
        "statuses": Counter(summary.statuses).most_common(),
        "places": [(name, title) for name, title, there in places if there],
    }


def _of_task(summary: Summary, drawn: Drawn, origin: Origin, out: Path) -> dict[str, Any]:
    """Return what the sections of a task show, by the names that their template uses."""
    from markupsafe import Markup

    found, task = drawn.scaling, summary.settings.get("task", "")
    quantities = summary.shown("report")
    details = summary.shown("details")
    memory = [quantity for quantity in quantities if quantity.group == MEMORY]
    files = {picture.name: (out / f"{picture.name}.svg").read_bytes() for picture in drawn.pictures}
    sizes = {name: _size(svg) for name, svg in files.items()}
    return {
        "id": drawn.id,
        "images": {name: _address(with_dark_scheme(svg)) for name, svg in files.items()},
        "sizes": sizes,
        "broad": {name: _breadth(width) for name, (width, _) in sizes.items()},
        "rows": {name: _row(width) for name, (width, _) in sizes.items()},
        "columns_printed": COLUMNS_PRINTED,
        "reason_shown": REASON_SHOWN,
        "summary": summary,
        "drawn": drawn,
        "marks": {model: Markup(mark) for model, mark in drawn.marks.items()},
        "training": origin.training.get(task, []),
        "data": origin.data.get(task, []),
        "settings": [(head, summary.settings[name]) for name, head in SETTINGS.items() if name in summary.settings],
        "models": rows.models(summary),
        "quantities": quantities,
        "definitions": definitions(summary),
        "details": details,
        "details_definitions": definitions(summary, "details"),
        "fronts": rows.fronts(summary),
        "costs": found.costs if found else [],
        "exponents": growth.fitted(found, summary) if found else [],
        "flags": growth.flags(found, summary) if found else [],
        "crossings": growth.crossing_lines(found, summary.names, summary.points) if found else [],
        "memory": memory[-1] if memory else None,
        "reaches": list(rows.reaches(summary)),
        "faults": list(summary.failures()),
        "remarks": list(summary.remarks()),
    }


def visible(value: Any) -> Any:
    """Return text with invisible characters, and those that change the direction of text, written out."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "\n".join(line if line.isprintable() else "".join(map(_seen, line)) for line in value.split("\n"))


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode()


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _size(svg: bytes) -> tuple[float, float]:
    """Return width and height of a figure in points."""
    found = re.search(rb'<svg[^>]*? width="([0-9.]+)pt" height="([0-9.]+)pt"', svg)
    return (float(found[1]), float(found[2])) if found else (BROAD_PT, BROAD_PT)


def _breadth(width: float) -> str:
    """Return the class of a figure that is wider than a small screen; empty for others."""
    return " broader" if width > BROADER_PT else " broad" if width > BROAD_PT else ""


def _row(width: float) -> str:
    """Return the class of a figure that does not fit beside another one; empty for others."""
    return "full" if width > WIDE_PT else "row" if width > HALF_PT else ""


def policy(css: str, script: str) -> str:
    """Return a content security policy that allows only the page's own content, and no requests."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{code}'; "
        "base-uri 'none'; form-action 'none'"
    )
