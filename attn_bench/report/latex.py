"""The table for a paper: LaTeX with booktabs."""

from __future__ import annotations

from attn_bench.report.entry import DISTURBED, ON_TEST
from attn_bench.report.summary import Summary
from attn_bench.report.tables import NOTHING, cost_note, text

_SIGNS = {
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\dots{}",
    DISTURBED: r"$^\ddagger$",
    ON_TEST: r"$^\S$",
}


def latex_table(summary: Summary) -> str:
    """Return the table of the terminal as a ``tabular`` for booktabs, with the best value per resolution in bold.

    Standard deviations over seeds are given; a failed entry has its status in place of the metric. Comments above the
    table say under which conditions it was measured, and what its signs mean.
    """
    import pandas as pd

    shown = summary.shown("terminal")
    entries = [entry for entry in summary.rows if not entry.transfer]
    arrows = {True: " ↑", False: " ↓"}
    heads = [f"{each.with_unit(each.label)}{arrows[each.higher] * (each.rule == 'accuracy')}" for each in shown]
    rows, best = [], []
    for entry in entries:
        values = [text(each, entry) for each in shown]
        if entry.failures:
            values = [entry.status if v == NOTHING and of == summary.primary else v for v, of in zip(values, shown)]
        rows.append([str(entry.resolution), summary.names[entry.model], *values])
        best.append([False, False, *(summary.is_best(each, entry) for each in shown)])
    names = ["Resolution", "Model", *heads]
    # By number, as names may be equal.
    frame = pd.DataFrame(rows, columns=range(len(names)), dtype=str)
    bold = pd.DataFrame(best, columns=frame.columns).map(lambda each: "textbf:--rwrap;" if each else "")
    style = frame.style.hide(axis="index").format(escape="latex").apply(lambda _: bold, axis=None)
    style = style.relabel_index([_escaped(name) for name in names], axis="columns")
    tabular = str(style.to_latex(hrules=True, column_format="rl" + "r" * len(shown)))
    for sign, command in _SIGNS.items():
        tabular = tabular.replace(sign, command)
    seeds = f"mean ± standard deviation over up to {summary.max_seeds} seeds" if summary.max_seeds > 1 else "one seed"
    comments = (
        f"{summary.task}: best value per resolution in bold; {seeds}.",
        *(f"{said}." for said in (cost_note(summary), *summary.said)),
        r"Needs \usepackage{booktabs}.",
    )
    return "".join(f"% {' '.join(line.split())}\n" for line in comments) + tabular


def _escaped(name: str) -> str:
    for sign in "&%$#_{}":
        name = name.replace(sign, f"\\{sign}")
    return name
