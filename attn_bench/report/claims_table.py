"""Claims of papers next to our numbers, as text: for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
# More numbers of one claim are shown as their range.
MOST_NUMBERS = 3
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
            remarks=tuple(
                text
                for text in (
                    where(check),
                    *check.differences,
                    check.note,
                    *contested(check.claim),
                    check.decided_by,
                )
                if text
            ),
        )
        for check in touched(checks)
    ]


def touched(checks: Iterable[Check]) -> list[Check]:
    """Return the checks for which there are results."""
    return [check for check in checks if check.verdict != "not yet run"]


def published(claim: Claim) -> str:
    """Return what a claim states: a value, a factor, an order, or a growth."""
    than = f"that of {claim.than}{_options(claim.than_options)}"
    match claim.relation:
        case "grows as":
            return f"grows as {claim.growth}"
        case "improves with":
            return f"{claim.metric} improves with {claim.option}"
        case "better than":
            return f"{claim.metric} better than {than}"
        case "more by":
            return f"{claim.metric} at least {claim.value:g} more than {than}"
        case "equals":
            return f"{claim.metric} {claim.value:g}"
    return f"{'at most ' if claim.relation == 'at most times' else ''}{claim.value:g} x {than}"


def _options(options: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{name} {value}' for name, value in options.items())}" if options else ""


def ours(check: Check) -> str:
    """Return our estimate with its interval and the number of seeds, or a dash."""
    estimate = check.estimate
    if estimate is None:
        return "-"
    if check.claim.relation == "grows as":
        return f"exponent {estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
    interval = "" if estimate.low is None else f"{estimate.low:.3g} to {estimate.high:.3g}"
    times = "" if check.claim.relation in ("equals", "more by") else " x"
    shown = f"{with_spread(estimate.value, estimate.deviation)}{times}, {count(estimate.seeds, 'seed')}"
    return f"{shown}, 95 % interval {interval}" if interval else shown


def source(claim: Claim) -> str:
    """Return the source of a claim, and how it was read."""
    return ", ".join(part for part in (claim.paper, CERTAINTY[claim.certainty]) if part)


def contested(claim: Claim) -> list[str]:
    """Return what others measured."""
    return [f"contested: {other}" for other in claim.contested]


def where(check: Check) -> str:
    """Return the variant and the resolution that a check is about, if any."""
    at = f" at {check.resolution}" if check.resolution is not None else ""
    return f"{plain(check.model, 60)}{at}" if check.model else ""


def remark(check: Check, most: int = 3) -> str:
    """Return the remarks: the variant, up to ``most`` differing settings, and how it was trained."""
    shown = list(check.differences[:most])
    if more := len(check.differences) - len(shown):
        shown.append(f"and {count(more, 'more setting')}")
    return "; ".join(
        plain(part, NOTE_WIDTH)
        for part in (where(check), *shown, check.note, *contested(check.claim), check.decided_by)
        if part
    )


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
        if check.estimate is not None:
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


def brief(checks: Iterable[Check]) -> str:
    """Return a Markdown table with one row for each claim: its verdicts, and what they rest on or what would decide."""
    lines = ["| Claim | Published | Ours | Verdict | Remark |", f"|{' :-- |' * 5}"]
    claims: dict[str, list[Check]] = {}
    for check in checks:
        claims.setdefault(check.claim.id, []).append(check)
    for found in claims.values():
        claim = found[0].claim
        sides = [[check for check in found if check.verdict == verdict] for verdict in VERDICTS]
        verdicts = "; ".join(
            f"{side[0].verdict}{_sizes(side) if claim.resolution is None else ''}" for side in sides if side
        )
        named = len({check.model for check in found}) > 1
        numbers = "; ".join(filter(None, (_numbers(side, named=named) for side in sides if side)))
        cells = (
            f"{claim.says} ({source(claim)})", published(claim), numbers or "-", verdicts,
            "; ".join(_reasons(found[0])),
        )  # fmt: skip
        lines.append(f"| {' | '.join(for_markdown(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _sizes(side: Sequence[Check]) -> str:
    sizes = sorted({check.resolution for check in side if check.resolution and check.verdict not in UNJUDGED})
    return f" at {', '.join(map(str, sizes))}" if sizes else ""


def _numbers(side: Sequence[Check], *, named: bool) -> str:
    """Return our numbers, with the models if there are several and the folders that hold them; of many, the range."""
    known = [check for check in side if check.estimate is not None]
    folders = ", ".join(dict.fromkeys(Path(check.folder).name for check in known))
    if len(known) > MOST_NUMBERS:
        values = sorted(check.estimate.value for check in known if check.estimate is not None)
        return f"{values[0]:.3g} to {values[-1]:.3g} ({folders})"
    return "; ".join(
        f"{f'{plain(check.model, 60)}: ' if named else ''}{ours(check)} ({Path(check.folder).name})" for check in known
    )


def _reasons(check: Check) -> list[str]:
    """Return what keeps results from judging a claim, what would, and what others measured."""
    unlike = [*check.differences[:3]]
    if more := len(check.differences) - len(unlike):
        unlike.append(f"and {count(more, 'more setting')}")
    note = check.note if check.verdict in UNJUDGED and not check.differences else ""
    return [part for part in (*unlike, note, *contested(check.claim), check.decided_by) if part]
