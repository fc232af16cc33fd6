"""A comparison as text: for the terminal, a pull request (Markdown), CI (JUnit XML) and other programs (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from attn_bench.format import LABEL_WIDTH, count, distinct, for_markdown, human, plain
from attn_bench.gate.compare import Comparison
from attn_bench.gate.verdicts import Finding
from attn_bench.results.quantities import judged

if TYPE_CHECKING:
    from rich.console import RenderableType

NOTE_WIDTH = 300
ORDER = ("worse", "unclear", "better", "same")
STYLES = {"worse": "bold red", "better": "green", "unclear": "yellow", "same": "dim"}
HEAD = ("Model", "Resolution", "Seeds", "Metric", "Base", "New", "Change", "Allowed", "Verdict")


def headline(comparison: Comparison) -> str:
    """Return the outcome in one line, with the full labels of the models that regressed."""
    if comparison.regressions:
        more = f"; not compared: {_obstacles(comparison)}" if comparison.obstacles else ""
        named = _models(comparison, comparison.regressions)
        return f"WORSE: {count(len(comparison.regressions), 'regression')} in {named}{more}"
    if comparison.obstacles or not comparison.findings:
        return f"CANNOT BE COMPARED: {_obstacles(comparison)}"
    if comparison.open:
        named = _models(comparison, comparison.open)
        remedy = "allowed" if comparison.allow_unclear else "measure again on a quiet machine or with more seeds"
        return f"UNCLEAR: {named} may have got worse; {remedy}"
    verdicts: Counter[str] = Counter(finding.verdict for finding in comparison.findings)
    said = {"worse": "worse within the limit"}
    return f"NO REGRESSION: {', '.join(f'{verdicts[name]} {said.get(name, name)}' for name in ORDER if verdicts[name])}"


def _models(comparison: Comparison, findings: Iterable[Finding]) -> str:
    names = _names(comparison, NOTE_WIDTH)
    return ", ".join(dict.fromkeys(names[finding.model] for finding in findings))


def _obstacles(comparison: Comparison) -> str:
    """Return the number of cells that failed on both sides and of other obstacles, with the first one's name."""
    if not comparison.obstacles:
        return "there is nothing to compare"
    failed = len(comparison.failed)
    both = f"{count(failed, 'cell')} failed on both sides" if failed else ""
    others = sum("failed on both sides" not in line for line in comparison.obstacles)
    counted = ", ".join(filter(None, (both, count(others, "obstacle") if others else "")))
    return f"{counted}; {plain(comparison.obstacles[0], NOTE_WIDTH)}"


def plain_data(comparison: Comparison) -> dict[str, Any]:
    """Return the findings, what could not be compared, and the outcome, for other programs."""
    findings = [{**asdict(each), "fails": each.fails, "open": each.open} for each in comparison.findings]
    outcome = {"status": comparison.status, "headline": headline(comparison)}
    return {
        **outcome,
        **{each.name: getattr(comparison, each.name) for each in fields(comparison)},
        "findings": findings,
    }


def console(comparison: Comparison) -> RenderableType:
    """Return what changed as a table for the terminal, then notes, obstacles and the outcome."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if changed := _changed(comparison):
        table = Table(box=None, pad_edge=False)
        seeds = _tells_seeds(comparison)
        for name in ("Verdict", "Model", "at", *(["Seeds"] if seeds else []), "Metric", "Base", "New", "Change"):
            right = name in ("at", "Base", "New")
            table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "Change")
        names = _names(comparison)
        for finding in changed:
            verdict = Text(_verdict(finding), STYLES[finding.verdict])
            table.add_row(verdict, *(Text(text) for text in (names[finding.model], *_cells(finding, seeds)[:-2])))
        parts.append(table)
        parts += [Text(f"  {line}", "dim") for line in _remarks(changed)]
    parts += [Text(line, "dim") for line in comparison.notes]
    parts += [Text(line, "yellow") for line in comparison.obstacles]
    style = "bold red" if comparison.regressions else "bold yellow" if comparison.status else "bold green"
    parts.append(Text(headline(comparison), style))
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown for a pull request: changes in a table, the rest folded."""
    lines = [f"### attn-bench: {for_markdown(headline(comparison))}", ""]
    lines += [f"- {for_markdown(plain(line, NOTE_WIDTH))}" for line in comparison.obstacles]
    changed, names, seeds = _changed(comparison), _names(comparison), _tells_seeds(comparison)
    if changed:
        lines += ["", *_table(changed, names, seeds), *(f"- {for_markdown(line)}" for line in _remarks(changed))]
    same = [finding for finding in comparison.findings if finding not in changed]
    if same:
        lines += ["", f"<details><summary>{len(same)} unchanged</summary>", "", *_table(same, names, seeds), ""]
        lines += [*(f"- {for_markdown(line)}" for line in _remarks(same)), "</details>"]
    lines += ["", *(f"- {for_markdown(line)}" for line in comparison.notes)]
    return "\n".join(lines).strip() + "\n"


def junit(comparison: Comparison) -> bytes:
    """Return JUnit XML: a test case per finding, failed if it is a regression, and a test error per obstacle."""
    suite = ElementTree.Element("testsuite", name="attn-bench")
    for finding in comparison.findings:
        of = f", seed {finding.seeds[0]}" if finding.metric == "status" and finding.seeds else ""
        case = _case(suite, f"{finding.metric} at {_resolution(finding)}{of}", finding.model)
        text = plain(f"{', '.join(_cells(finding, False)[1:])} {finding.note}", NOTE_WIDTH)
        if finding.fails:
            ElementTree.SubElement(case, "failure", message=text)
        elif finding.open and not comparison.allow_unclear:
            ElementTree.SubElement(case, "error", message=text)
        elif finding.verdict != "same":
            ElementTree.SubElement(case, "system-out").text = text
    for line in comparison.obstacles:
        ElementTree.SubElement(_case(suite, "comparable", "comparison"), "error", message=plain(line, NOTE_WIDTH))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(comparison.regressions)))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _case(suite: ElementTree.Element, name: str, of: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", name=plain(name, NOTE_WIDTH), classname=f"attn-bench.{plain(of, NOTE_WIDTH)}"
    )


def _changed(comparison: Comparison) -> list[Finding]:
    changed = [finding for finding in comparison.findings if finding.verdict != "same" or finding.metric == "status"]
    return sorted(changed, key=lambda finding: (not finding.fails, ORDER.index(finding.verdict)))


def _names(comparison: Comparison, width: int = LABEL_WIDTH) -> dict[str, str]:
    return distinct(dict.fromkeys(finding.model for finding in comparison.findings), width)


def _tells_seeds(comparison: Comparison) -> bool:
    """Whether rows have to name their seeds."""
    return len({seed for finding in comparison.findings for seed in finding.seeds}) > 1


def _table(findings: list[Finding], names: Mapping[str, str], seeds: bool) -> list[str]:
    head = tuple(name for name in HEAD if seeds or name != "Seeds")
    rows = [head, tuple(":--" if name in ("Model", "Metric", "Verdict") else "--:" for name in head)]
    rows += [tuple(map(for_markdown, (names[finding.model], *_cells(finding, seeds)))) for finding in findings]
    return [f"| {' | '.join(row)} |" for row in rows]


def _cells(finding: Finding, seeds: bool) -> tuple[str, ...]:
    ratio = finding.ratio
    change = "-"
    if ratio is not None:
        change = _percent(ratio.value if finding.measured is None else finding.measured)
        if ratio.low < ratio.high and finding.verdict != "same":
            change += f" [{_percent(ratio.low, '')}, {_percent(ratio.high, '')}]"
    return (
        _resolution(finding),
        *([", ".join(map(str, finding.seeds)) or "-"] if seeds else []),
        _with_unit(finding.metric),
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


def _with_unit(metric: str) -> str:
    quantity = judged().get(metric)
    return metric if quantity is None else quantity.with_unit(metric)


def _percent(ratio: float, unit: str = " %") -> str:
    by = 100 * (ratio - 1)
    # A small change of an exact number is a change.
    return f"{by:+.1f}{unit}" if abs(by) >= 0.05 or not by else f"{by:+.1g}{unit}"


def _remarks(findings: list[Finding]) -> list[str]:
    return [
        plain(f"{finding.model} at {_resolution(finding)}, {finding.metric}: {finding.note}", NOTE_WIDTH)
        for finding in findings
        if finding.note
    ]
