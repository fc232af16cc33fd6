"""Claims of papers next to our numbers, as text: for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attn_bench.analysis.claims.checks import UNJUDGED, Check
from attn_bench.analysis.claims.claim import Claim
from attn_bench.format import count, for_markdown, plain, with_spread

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("Claim", "Paper", "Published", "Ours", "Verdict")
VERDICTS = ("reproduced", "better", "not reproduced", "inconclusive", "not comparable", "not yet run")
STYLES = {"reproduced": "green", "better": "green", "not reproduced": "bold red"}
STYLES |= {"inconclusive": "yellow", "not comparable": "yellow"}
NOTE_WIDTH = 300
CERTAINTY = {
    "table": "read from its table",
    "paper": "read from the paper",
    "abstract": "read from its abstract",
    "cited": "as cited by later papers",
}


@dataclass(frozen=True)
class Row:
    """A check as text; ``holds`` is None if it could not be judged."""

    says: str
    source: str
    published: str
    ours: str
    verdict: str
    holds: bool | None
    remarks: tuple[str, ...]


def rows(checks: Iterable[Check]) -> list[Row]:
    """Return a row per check of a claim that there are results for, with every setting that differs."""
    return [
        Row(
            says=check.claim.says,
            source=source(check.claim),
            published=published(check.claim),
            ours=ours(check),
            verdict=check.verdict,
            holds=None if check.verdict in UNJUDGED else check.verdict != "not reproduced",
            remarks=tuple(text for text in (where(check), *check.differences, check.note) if text),
        )
        for check in touched(checks)
    ]


def touched(checks: Iterable[Check]) -> list[Check]:
    """Return the checks for which there are results."""
    return [check for check in checks if check.verdict != "not yet run"]


def published(claim: Claim) -> str:
    """Return what a claim states: a value, a factor, or a growth."""
    if claim.relation == "grows as":
        return f"grows as {claim.growth}"
    value = f"{claim.value:g}"
    return f"{claim.metric} {value}" if claim.relation == "equals" else f"{value} x that of {claim.than}"


def ours(check: Check) -> str:
    """Return our mean with its spread or interval and the number of seeds, or a dash."""
    if check.mean is None:
        return "-"
    if check.claim.relation == "grows as":
        return f"exponent {check.mean:.2f} ({check.low:.2f} to {check.high:.2f})"
    times = " x" if check.claim.relation == "at most times" else ""
    return f"{with_spread(check.mean, check.deviation)}{times}, {count(check.seeds, 'seed')}"


def source(claim: Claim) -> str:
    """Return the source of a claim, and how it was read."""
    return ", ".join(part for part in (claim.paper, CERTAINTY[claim.certainty]) if part)


def where(check: Check) -> str:
    """Return the variant and the resolution that a check is about, if any."""
    at = f" at {check.resolution}" if check.resolution is not None else ""
    return f"{plain(check.model, 60)}{at}" if check.model else ""


def remark(check: Check, most: int = 3) -> str:
    """Return the remarks: the variant, up to ``most`` differing settings, and how it was trained."""
    shown = list(check.differences[:most])
    if more := len(check.differences) - len(shown):
        shown.append(f"and {count(more, 'more setting')}")
    return "; ".join(plain(part, NOTE_WIDTH) for part in (where(check), *shown, check.note) if part)


def headline(checks: Sequence[Check]) -> str:
    """Count the verdicts in one line."""
    found: Counter[str] = Counter(check.verdict for check in checks)
    return ", ".join(f"{found[name]} {name}" for name in VERDICTS if found[name])


def console(checks: Sequence[Check]) -> RenderableType:
    """Return the checks for the terminal: the verdict, and next to it the claim, both numbers and remarks."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    for check in checks:
        claim = check.claim
        text = Text(f"{claim.says}\n", "bold")
        text.append(f"published: {published(claim)} ({source(claim)})", "not bold")
        if check.mean is not None:
            text.append(f"\nours: {ours(check)}", "not bold")
        if remarks := remark(check):
            text.append(f"\n{remarks}", "not bold dim")
        table.add_row(Text(check.verdict.upper(), STYLES.get(check.verdict, "dim")), text)
    return Group(table, Text(headline(checks), "bold"))


def markdown(checks: Iterable[Check]) -> str:
    """Return the checks as a Markdown table."""
    checks = list(checks)
    lines = [f"| {' | '.join((*HEAD, 'Remark'))} |", f"|{' :-- |' * (len(HEAD) + 1)}"]
    for check in checks:
        cells = (
            check.claim.says, source(check.claim), published(check.claim), ours(check), check.verdict, remark(check),
        )  # fmt: skip
        lines.append(f"| {' | '.join(for_markdown(cell) for cell in cells)} |")
    return "\n".join([*lines, "", headline(checks)]) + "\n"
