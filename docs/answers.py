"""Writes what the results in ``results/`` say into README.md, docs/answers.md and docs/claims.md, and draws the figure.

``python docs/answers.py`` writes it again; a test holds the pages equal to it. A page has blocks that begin with
``<!-- answer: NAME KEY=VALUE ... -->`` and end with ``<!-- end -->``; :data:`BLOCKS` has a function for each name.
Everything is read from the records in ``results/``, so a new folder of a campaign needs no edit here.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pandas as pd
from answers_campaigns import CAMPAIGNS, so_far, state
from answers_data import RESULTS, ROOT, VARIANT, estimates, higher, markdown, number, own, rows, table
from answers_figure import ALT, draw

from attn_bench.analysis.claims.checks import UNJUDGED, Check
from attn_bench.analysis.claims.claim import read_claims
from attn_bench.analysis.claims.evidence import Estimate, ratio
from attn_bench.analysis.claims.judges import check
from attn_bench.format import for_markdown, significant
from attn_bench.report import claims_table
from attn_bench.results.store import Store

PAGES = ("README.md", "docs/answers.md", "docs/claims.md")
BLOCK = re.compile(r"(<!-- answer: (?P<name>\S+)(?P<values>[^>]*) -->\n).*?(<!-- end -->)", re.S)
# Lines of the table on the front page.
MOST_LINES = 10


# Where the answer about Darcy flow is read, the first that has enough models: folder, resolution, and how many.
FRONT = (
    ("darcy", 32, 6), ("mechanisms", 32, 4), ("darcy-16", 16, 4), ("darcy", 16, 4), ("mechanisms", 16, 4),
    ("default", 32, 1),
)  # fmt: skip
# The folders of the sentences there, in few words.
WHAT = {
    "darcy-16": "neuraloperator's files", "darcy": "drawn as neuraloperator's set",
    "mechanisms": "equal numbers of parameters", "default": "the default run of 10 epochs, until the campaign is there",
    "digits": "an earlier run of three models", "pathfinder": "easy scenes first", "context": "512 KiB of Python code",
}  # fmt: skip
DATA = {
    "darcy": "samples drawn from the distribution of neuraloperator's set",
    "mechanisms": "samples drawn from the distribution of neuraloperator's set, equal numbers of parameters",
    "darcy-16": "the 16 x 16 files that neuraloperator's package ships, 50 test samples",
    "default": "the FNO paper's distribution, 10 epochs: the default run, no campaign yet",
}


def pivot(folder: str, metric: str, task: str, columns: str = "resolution", **equal: str) -> str:
    """Return a table of a metric: a line for each model, a column for each value of ``columns``."""
    found = rows(folder, task, **{name: int(value) for name, value in equal.items()})
    found = found if columns == "eval_resolution" else own(found)
    if columns not in ("resolution", "eval_resolution") and not found.empty:
        found = found.assign(model=found["model"].str.replace(VARIANT, "", regex=True))
    numbers = estimates(found, metric, ("model", columns))
    if not numbers:
        return "" if folder in CAMPAIGNS else f"*{folder}: no {metric} yet.*"
    heads = sorted({key[1] for key in numbers}, key=float)
    reverse = higher(metric)
    best = {head: _best({k[0]: e for k, e in numbers.items() if k[1] == head}, metric, found) for head in heads}
    fullest = max(heads, key=lambda head: (sum(key[1] == head for key in numbers), float(head)))
    last = float("-inf") if reverse else float("inf")

    def rank(model: object) -> float:
        value = numbers[model, fullest].value if (model, fullest) in numbers else last
        return -value if reverse else value

    lines = []
    for model in sorted({key[0] for key in numbers}, key=lambda model: (rank(model), str(model))):
        cells = [number(numbers[model, head]) if (model, head) in numbers else "-" for head in heads]
        cells = [f"**{cell}**" if best[head] == model else cell for cell, head in zip(cells, heads)]
        lines.append([for_markdown(str(model)), *cells])
    seeds = sorted({each.seeds for each in numbers.values()})
    said = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    by = "" if columns == "resolution" else f", by {columns}"
    note = f"`{metric}` of {task}{by}; mean ± standard deviation over seeds ({said} a number); results/{folder}"
    return f"{markdown(['Model', *(f'{head:g}' for head in heads)], lines)}\n\n{note}"


def _best(found: Mapping[object, Estimate], metric: str, where: pd.DataFrame) -> object:
    reference = set(where[where["reference"].fillna(value=False).astype(bool)]["model"])
    known = {model: each.value for model, each in found.items() if model not in reference}
    if not known:
        return None
    return (max if higher(metric) else min)(known, key=known.__getitem__)


def winner(folder: str, task: str, metric: str, resolution: int) -> str:
    """Say who is best, who cannot be told from it, and where MANO stands."""
    found = own(rows(folder, task, resolution=resolution))
    numbers = {str(key[0]): each for key, each in estimates(found, metric, ("model",)).items()}
    best = _best(numbers, metric, found) if numbers else None
    if best is None:
        return ""
    reference = set(found[found["reference"].fillna(value=False).astype(bool)]["model"])
    ranked = sorted((name for name in numbers if name not in reference), key=lambda name: numbers[name].value)
    ranked = ranked[::-1] if higher(metric) else ranked
    values = {name: list(map(float, found[found["model"] == name][metric].dropna())) for name in ranked}
    close = [name for name in ranked[1:] if (r := ratio(values[name], values[ranked[0]])).low is None or r.holds(1.0)]
    first, better = numbers[ranked[0]], "highest" if higher(metric) else "lowest"
    seeds = f"{first.seeds} seed{'s' if first.seeds > 1 else ''}"
    text = f"{ranked[0]} has the {better} {metric}, {number(first)} ({seeds})"
    if first.seeds > 1 and close:
        text += f", not told apart from {', '.join(close[:3])}{' and others' if len(close) > 3 else ''}"
    elif len(ranked) > 1:
        text += f"; {ranked[1]} follows with {number(numbers[ranked[1]])}"
    ours = [name for name in ranked[2:] if name.partition(":")[0] == "mano"]
    return text + "".join(
        f"; {name} is number {ranked.index(name) + 1} of {len(ranked)} with {number(numbers[name])}" for name in ours
    )


def _who(heading: str, places: Sequence[tuple[str, str, str, int]], otherwise: str) -> str:
    for place in places:
        if text := winner(*place):
            folder, task, _, size = place
            what = f"{WHAT[folder]}{so_far(folder, task, size)}"
            return f"- **{heading}:** {text}; {what}, [results/{folder}](results/{folder}/report/report.md)."
    return f"- **{heading}:** not measured yet: {otherwise}."


def sentences() -> str:
    """Say in a sentence each who wins, and which claims held."""
    lines = []
    for size, hours in ((16, 2), (32, 9), (64, 30)):
        places = [(f, "darcy", "rel_l2", size) for f in ("darcy-16", "darcy", "mechanisms", "default")]
        command = f"`attn-bench run sweeps/darcy.yaml --resolutions {size} --out results/darcy`"
        lines.append(_who(f"Darcy flow, {size} x {size}", places, f"{command}, about {hours} hours on two cores"))
    images = [("mechanisms", "digits", "top1", 8), ("digits", "digits", "top1", 32)]
    lines.append(_who("Images (digits)", images, "`attn-bench run sweeps/mechanisms.yaml --task digits`"))
    easy_first = (
        "`attn-bench run sweeps/pathfinder.yaml --resolutions 32 --set pathfinder.level=easy --out results/pathfinder`"
        ", about 3 hours on two cores"
    )
    easy = [("pathfinder", "pathfinder", "accuracy", size) for size in (64, 32)]
    lines.append(_who("Images (Pathfinder)", easy, easy_first))
    costs = "costs alone are in [results/long-context](results/long-context/report/report.md)"
    for size, otherwise in ((512, ""), (8192, f", about 6 hours; {costs}")):
        text = [(folder, "text", "bits_per_byte", size) for folder in ("context", "mechanisms")]
        command = f"`attn-bench run sweeps/context.yaml --resolutions {size} --out results/context`"
        lines.append(_who(f"Text, {size} bytes of context", text, command + otherwise))
    return "\n".join([*lines, verdicts()])


@cache
def checks() -> tuple[Check, ...]:
    """Return the verdicts on all claims over all folders."""
    return tuple(check(read_claims(), [Store(path.parent) for path in sorted(RESULTS.glob("*/run.json"))]))


def verdicts() -> str:
    """Count claims by what was found, and name those that were decided."""
    claims: dict[str, set[str]] = {}
    for each in checks():
        claims.setdefault(each.claim.says, set()).add(each.verdict)
    held = [says for says, found in claims.items() if found <= {"reproduced", "better"}]
    lost = [says for says, found in claims.items() if found == {"not reproduced"}]
    mixed = [says for says, found in claims.items() if len(found - set(UNJUDGED)) and says not in (*held, *lost)]
    open_ = len(claims) - len(held) - len(lost) - len(mixed)
    groups = (("Held", held), ("Did not hold", lost), ("Held at some sizes only", mixed))
    named = [f"  - {what}: {'; '.join(group)}." for what, group in groups if group]
    counts = f"of {len(claims)}, {len(held)} held, {len(lost)} did not, {len(mixed)} held at some sizes only"
    every = "[every claim](docs/claims.md#every-claim)"
    return "\n".join([f"- **Published claims:** {counts}, and {open_} are not decided yet ({every}).", *named])


def front() -> tuple[str, int, pd.DataFrame]:
    """Return the folder, the resolution and the rows of the answer on the front page."""
    for folder, size, least in FRONT:
        found = own(rows(folder, "darcy", resolution=size))
        if not found.empty and found[~found["reference"].fillna(value=False).astype(bool)]["model"].nunique() >= least:
            return folder, size, found
    raise SystemExit("no results about Darcy flow")


def front_rows() -> list[dict[str, object]]:
    """Return a mapping for each model on the front page, the most accurate first."""
    folder, size, found = front()
    found = found[~found["reference"].fillna(value=False).astype(bool)]
    # Trainings beside other work, on several machines, have times that do not compare; one run measures them all.
    timed = own(rows(f"{folder}-cost", "darcy", resolution=size))
    measured = estimates(timed if not timed.empty else found, "latency_train_step_ms", ("model",))
    measured = {key: each for key, each in measured.items() if key[0] in set(found["model"])}
    every = len(measured) == found["model"].nunique()
    clock = "latency_train_step_ms" if every else "train_seconds"
    errors, times = estimates(found, "rel_l2", ("model",)), measured if every else estimates(found, clock, ("model",))
    names = sorted(errors, key=lambda key: errors[key].value)
    parameters = found.groupby("model")["parameters"].first()
    return [
        {"model": str(key[0]), "error": errors[key], "time": times.get(key), "clock": clock,
         "parameters": int(parameters[key[0]])}
        for key in names
    ]  # fmt: skip


def front_table() -> str:
    """Return the table on the front page, of at most ten lines."""
    folder, size, _ = front()
    found = front_rows()
    shown = found[:MOST_LINES]
    mano = [row for row in found[MOST_LINES:] if str(row["model"]).startswith("mano")]
    shown = [*shown[: MOST_LINES - len(mano)], *mano]
    clock = "Train step (ms)" if found[0]["clock"] == "latency_train_step_ms" else "Training (s)"
    others = sorted({16, 32, 64} - {size})
    columns = {
        r: {str(k[0]): e for k, e in estimates(own(rows(folder, "darcy", resolution=r)), "rel_l2", ("model",)).items()}
        for r in others
    }
    columns = {r: column for r, column in columns.items() if column}
    lines = []
    for row in shown:
        model, error = str(row["model"]), row["error"]
        assert isinstance(error, Estimate)
        more = [number(column[model]) if model in column else "-" for column in columns.values()]
        time = significant(row["time"].value) if isinstance(row["time"], Estimate) else "-"
        lines.append([for_markdown(model), number(error), *more, time, f"{row['parameters'] / 1000:,.0f} k"])  # type: ignore[operator]
    heads = ["Model", f"rel\\_l2 at {size}", *(f"at {r}" for r in columns), clock, "Parameters"]
    single = (
        ", one where there is no ±" if any(e.seeds == 1 for column in columns.values() for e in column.values()) else ""
    )
    left = f" All {len(found)} models are in docs/answers.md." if len(found) > len(shown) else ""
    cost = f"{folder}-cost"
    if not clock.startswith("Train step"):
        how = " Training times are of two cores that other work shared."
    elif table(cost).empty:
        how = ""
    else:
        made = f"[results/{cost}](results/{cost}/report/report.md)"
        how = f" Training steps were measured in one run, one model after another ({made})."
    return (
        f"{markdown(heads, lines)}\n\nDarcy flow at {size} x {size}: {DATA[folder]}; mean ± standard deviation over "
        f"seeds, {_seeds(found)}{single} ([results/{folder}](results/{folder}/report/report.md)).{left}{how}"
    )


def _seeds(found: Sequence[Mapping[str, object]]) -> str:
    counts = sorted({each.seeds for row in found if isinstance(each := row["error"], Estimate)})
    return (
        f"{counts[-1]} seed{'s' if counts[-1] > 1 else ''}"
        if len(counts) == 1
        else f"{counts[0]} to {counts[-1]} seeds"
    )


def figure() -> str:
    """Return the figure of the front page, for light and dark pages."""
    _, size, _ = front()
    return (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="docs/answer-dark.svg">\n'
        f'  <img src="docs/answer.svg" alt="{ALT.format(size=size)}">\n</picture>'
    )


def some_claims(ids: str = "") -> str:
    """Return the claims with these ids, a row each; all without any."""
    wanted = ids.split(",")
    return claims_table.brief([each for each in checks() if not ids or each.claim.id in wanted]).rstrip()


def _best_of(folder: str, task: str, metric: str) -> str:
    """Say who is best at every resolution that is there."""
    found = own(rows(folder, task))
    sizes = sorted(map(int, found["resolution"].unique())) if not found.empty else []
    return "\n".join(f"- {task}, {size}: {text}." for size in sizes if (text := winner(folder, task, metric, size)))


def chosen_rates(folder: str, task: str) -> str:
    """Say who chose the highest learning rate that tuning tried, and might be better at a higher one."""
    found = own(rows(folder, task))
    found = found[found["tune"].notna()] if "tune" in found else found.iloc[:0]
    chosen: dict[float, set[str]] = {}
    for row in found.to_dict("records"):
        if len(grid := json.loads(row["tune"]).get("learning_rate", ())) > 1:
            chosen.setdefault(row["learning_rate"] / max(grid), set()).add(row["model"])
    highest, lower = chosen.pop(1.0, set()), set().union(*chosen.values())
    if not highest:
        return ""
    rest = f"; {', '.join(sorted(lower))} chose a lower one" if lower else ""
    tuned = f"Of {len(highest | lower)} models whose learning rate was tuned, {len(highest)} chose the highest tried"
    return f"{tuned}, so they may be better at a higher one{rest}."


def reported(folder: str) -> str:
    """Return the first table of a report."""
    return (RESULTS / folder / "report/table.md").read_text(encoding="utf-8").partition("\n\n")[0]


BLOCKS: Mapping[str, Callable[..., str]] = {
    "state": state, "table": pivot, "best": _best_of, "claims": some_claims,
    "rates": chosen_rates, "report": reported, "front-table": front_table, "figure": figure, "sentences": sentences,
}  # fmt: skip


def filled(text: str) -> str:
    """Return a page with its blocks written again."""

    def write(match: re.Match[str]) -> str:
        values = dict(part.split("=", 1) for part in shlex.split(match["values"]))
        written = BLOCKS[match["name"]](**values)
        return f"{match[1]}{written}{chr(10) if written else ''}{match[4]}"

    return BLOCK.sub(write, text)


def main() -> int:
    """Write the pages and the figure; with ``--check`` only tell whether they are up to date."""
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if "--check" not in sys.argv:
        draw(front_rows(), front()[1], ROOT / "docs")
        return 0
    if stale:
        print(f"{', '.join(stale)}: run 'python docs/answers.py'")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
