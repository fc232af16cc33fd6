"""A comparison as text: for the terminal, for a pull request (Markdown) and for CI (JUnit XML)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from attn_bench.analysis.compare import Comparison
from attn_bench.analysis.thresholds import TIMED
from attn_bench.analysis.verdicts import Finding
from attn_bench.report.text import count, distinct, for_markdown, human, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

NOTE_WIDTH = 200
ORDER = ("worse", "unclear", "better", "same")
STYLES = {"worse": "bold red", "better": "green", "unclear": "yellow", "same": "dim"}
HEAD = ("Model", "Resolution", "Metric", "Base", "New", "Change", "Allowed", "Verdict")


def headline(comparison: Comparison) -> str:
    """Return the outcome in one line, with the models that regressed by name."""
    if comparison.regressions:
        names = ", ".join(dict.fromkeys(plain(finding.model) for finding in comparison.regressions))
        return f"WORSE: {count(len(comparison.regressions), 'regression')} in {names}"
    if comparison.obstacles or not comparison.findings:
        return f"CANNOT BE COMPARED: {count(len(comparison.obstacles), 'obstacle')}"
    if comparison.open:
        names = ", ".join(dict.fromkeys(plain(finding.model) for finding in comparison.open))
        return f"UNCLEAR: {names} may have got worse; measure again, on a quiet machine or with more seeds"
    verdicts: Counter[str] = Counter(finding.verdict for finding in comparison.findings)
    said = {"worse": "worse by what is allowed"}
    return f"NO REGRESSION: {', '.join(f'{verdicts[name]} {said.get(name, name)}' for name in ORDER if verdicts[name])}"


def console(comparison: Comparison) -> RenderableType:
    """Return what changed as a table for the terminal, then notes, obstacles and the outcome."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if changed := _changed(comparison):
        table = Table(box=None, pad_edge=False)
        for name in ("Verdict", "Model", "at", "Metric", "Base", "New", "Change"):
            right = name in ("at", "Base", "New")
            table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "Change")
        names = _names(comparison)
        for finding in changed:
            verdict = Text(_verdict(finding), STYLES[finding.verdict])
            table.add_row(verdict, *(Text(text) for text in (names[finding.model], *_cells(finding)[:-2])))
        parts.append(table)
        parts += [Text(f"  {line}", "dim") for line in _remarks(changed)]
    parts += [Text(line, "dim") for line in comparison.notes]
    parts += [Text(line, "yellow") for line in comparison.obstacles]
    style = "bold red" if comparison.regressions else "bold yellow" if comparison.status else "bold green"
    parts.append(Text(headline(comparison), style))
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown for a pull request: what changed in a table, the rest folded away."""
    lines = [f"### attn-bench: {for_markdown(headline(comparison))}", ""]
    lines += [f"- {for_markdown(plain(line, NOTE_WIDTH))}" for line in comparison.obstacles]
    changed, names = _changed(comparison), _names(comparison)
    if changed:
        lines += ["", *_table(changed, names), *(f"- {for_markdown(line)}" for line in _remarks(changed))]
    same = [finding for finding in comparison.findings if finding not in changed]
    if same:
        lines += ["", f"<details><summary>{len(same)} unchanged</summary>", "", *_table(same, names), "</details>"]
    lines += ["", *(f"- {for_markdown(line)}" for line in comparison.notes)]
    return "\n".join(lines).strip() + "\n"


def junit(comparison: Comparison) -> bytes:
    """Return JUnit XML: a test case per finding, failed where it is a regression, and one in error per obstacle."""
    suite = ElementTree.Element("testsuite", name="attn-bench")
    for finding in comparison.findings:
        case = _case(suite, f"{finding.metric} at {_resolution(finding)}", finding.model)
        text = plain(f"{', '.join(_cells(finding)[1:])} {finding.note}", NOTE_WIDTH)
        if finding.fails:
            ElementTree.SubElement(case, "failure", message=text)
        elif finding.open:
            ElementTree.SubElement(case, "error", message=text)
        elif finding.verdict != "same":
            ElementTree.SubElement(case, "system-out").text = text
    for line in comparison.obstacles:
        ElementTree.SubElement(_case(suite, "comparable", "comparison"), "error", message=plain(line, NOTE_WIDTH))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(comparison.regressions)))
    suite.set("errors", str(len(comparison.obstacles) + len(comparison.open)))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _case(suite: ElementTree.Element, name: str, of: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", name=plain(name, NOTE_WIDTH), classname=f"attn-bench.{plain(of, NOTE_WIDTH)}"
    )


def _changed(comparison: Comparison) -> list[Finding]:
    changed = [finding for finding in comparison.findings if finding.verdict != "same" or finding.metric == "status"]
    return sorted(changed, key=lambda finding: (not finding.fails, ORDER.index(finding.verdict)))


def _names(comparison: Comparison) -> dict[str, str]:
    return distinct(dict.fromkeys(finding.model for finding in comparison.findings))


def _table(findings: list[Finding], names: Mapping[str, str]) -> list[str]:
    rows = [HEAD, tuple(":--" if name in ("Model", "Metric", "Verdict") else "--:" for name in HEAD)]
    rows += [tuple(map(for_markdown, (names[finding.model], *_cells(finding)))) for finding in findings]
    return [f"| {' | '.join(row)} |" for row in rows]


def _cells(finding: Finding) -> tuple[str, ...]:
    ratio = finding.ratio
    change = "-"
    if ratio is not None:
        change = _percent(ratio.value)
        if ratio.low < ratio.high and finding.verdict != "same":
            change += f" [{_percent(ratio.low, '')}, {_percent(ratio.high, '')}]"
    return (
        _resolution(finding),
        finding.metric + _unit(finding.metric),
        "-" if finding.base is None else human(finding.base),
        "-" if finding.new is None else human(finding.new),
        change,
        "any" if finding.threshold is None else f"{100 * finding.threshold:g} %",
        _verdict(finding),
    )


def _resolution(finding: Finding) -> str:
    own = finding.tested == finding.resolution
    return str(finding.resolution) if own else f"{finding.resolution} on {finding.tested}"


def _verdict(finding: Finding) -> str:
    return finding.verdict.upper() if finding.fails or finding.verdict != "worse" else "worse, allowed"


def _unit(metric: str) -> str:
    return " (ms)" if metric in TIMED else " (MiB)" if metric.startswith("peak_memory") else ""


def _percent(ratio: float, unit: str = " %") -> str:
    return f"{100 * (ratio - 1):+.1f}{unit}"


def _remarks(findings: list[Finding]) -> list[str]:
    return [
        plain(f"{finding.model} at {_resolution(finding)}, {finding.metric}: {finding.note}", NOTE_WIDTH)
        for finding in findings
        if finding.note
    ]
