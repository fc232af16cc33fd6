"""Compares two revisions of a project with attention models on this machine.

Both are built from git, each into a separate folder that comes first on the import path; they use the installed
dependencies. The models of both then run alternately (:mod:`attn_bench.gate.ab.turns`), so that disturbances of the
machine affect both equally.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from attn_bench.analysis.statistics import Ratio, compare_paired
from attn_bench.errors import UserError
from attn_bench.gate.ab.build import WORKING_TREE, built, imported_from
from attn_bench.gate.ab.checkouts import Repository
from attn_bench.gate.ab.turns import Outcome, Side, alternate
from attn_bench.gate.compare import Comparison
from attn_bench.gate.gaps import Gap, said_of, unnamed
from attn_bench.gate.thresholds import Thresholds
from attn_bench.gate.verdicts import QUIET, Finding, Verdict, exact_verdict, explained, said_too_wide
from attn_bench.results.labels import Asked, labels_of
from attn_bench.results.quantities import Quantity, quantities
from attn_bench.results.record import Record
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.expansion import imported
from attn_bench.sweep.groups import AUTO
from attn_bench.sweep.settings import Sweep

# Enough to ignore one odd pair of processes; how many are added if they disagree; the fewest that are conclusive.
PROCESSES, MORE_PROCESSES, FEWEST = 5, 12, 2
# A change smaller than this share of the threshold in both of two pairs counts as no change.
CLOSE = 0.4


@dataclass(frozen=True)
class Plan:
    """What is compared, and for how long.

    Attributes:
        cells: one per model and resolution; models are built, not trained.
        thresholds: how much worse a metric may get.
        processes: pairs of processes per cell; fewer if two already agree that nothing changed.
        seconds: how long one pair alternates at a step.
    """

    cells: Sequence[Cell]
    thresholds: Thresholds
    processes: int = PROCESSES
    seconds: float = 1.0

    def pair(self, number: int) -> str:
        """Return which pair of processes of a cell is next, and how many there will be."""
        if number <= FEWEST < self.processes:
            return f"pair {number} of {FEWEST}, or of {self.processes} if they disagree"
        if number <= self.processes:
            return f"pair {number} of {self.processes}, or of up to {self.processes + MORE_PROCESSES} if they disagree"
        return f"pair {number} of up to {self.processes + MORE_PROCESSES}, because they disagree"

    @classmethod
    def of(cls, sweep: Sweep, thresholds: Thresholds) -> Plan:
        """Plan the cells of a sweep without training; raises UserError if there is nothing to compare."""
        cells = [cell for cell in sweep.cells() if cell.seed == 0]
        if not cells:
            raise UserError("nothing to compare: only cells of seed 0 are measured, and there are none")
        if any(cell.execution.batch_size == AUTO for cell in cells):
            raise UserError("--batch-size auto: two revisions are compared with the same batch size; give a number")
        plan = cls(cells, thresholds)
        models = {name for cell in cells for name in (cell.model, plan.labels[cell.id])}
        return replace(plan, thresholds=thresholds.resolved((), models))

    @cached_property
    def labels(self) -> dict[str, str]:
        """The label of each cell by its id, as in the table: its model, and what tells it from others of that model."""
        records = [Record(cell, "ok") for cell in self.cells]
        return dict(zip((cell.id for cell in self.cells), labels_of(list(map(Asked.of, records)), tasks=True)))


def compare_revisions(
    base: str,
    new: str | None,
    planned: Callable[[], Plan],
    *,
    repository: Path = Path(),
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Comparison:
    """Compare latency, peak memory, parameters and FLOPs of two revisions.

    Args:
        base: a branch, tag or commit.
        new: the same, or None for the work tree as it is.
        planned: returns the plan. It is called when both are built, with the models that new registers, so the project
            itself need not be installed.
        repository: a folder of the project, which pip can install.
        on_stage: called with a description of each stage.

    Raises:
        UserError: a revision cannot be built, or its processes do not start.
    """
    where = Repository(repository)
    where.remove_leftovers()
    for given in (base, new):
        if given is not None:
            where.commit(given)  # before minutes are spent on the other
    with contextlib.ExitStack() as stack:
        folders = []
        for revision in (base, new):
            on_stage(f"building {revision or WORKING_TREE}")
            folders.append(stack.enter_context(built(repository, revision)))
        with imported_from(folders[1]):
            plan = planned()
            modules = imported(plan.cells)
        names = (base, new or WORKING_TREE)
        sides = [stack.enter_context(Side(n, [str(folder)], modules)) for n, folder in zip(names, folders)]
        return compare_sides(sides[0], sides[1], plan, on_stage)


def compare_sides(
    base: Side, new: Side, plan: Plan, on_stage: Callable[[str], None] = lambda stage: None
) -> Comparison:
    """Compare the models served by two running sides."""
    findings: list[Finding] = []
    obstacles: list[str] = []
    failed_both: list[str] = []
    gaps: list[Gap] = []
    for place, cell in enumerate(plan.cells, 1):
        label = plan.labels[cell.id]
        title = f"{label} at {cell.resolution}"
        outcomes: list[Outcome] = []
        while _needs_more(outcomes, cell, plan):
            on_stage(f"[{place}/{len(plan.cells)}] {title}: {plan.pair(len(outcomes) + 1)}")
            number = len(outcomes)
            outcomes.append(
                alternate(base, new, (cell, cell), first=number % 2, seconds=plan.seconds, exact=number == 0)
            )
        failed = [outcome for outcome in outcomes if any(outcome.errors)]
        if failed and all(failed[0].errors):
            failed_both.append(title)
            obstacles.append(f"{title}: failed on both sides ({failed[0].errors[0]} -> {failed[0].errors[1]})")
        elif failed and failed[0].errors[0]:
            obstacles.append(f"{title}: {base.name}: {failed[0].errors[0]}")
        elif failed:
            note = f"ok -> {failed[0].errors[1]}"
            findings.append(
                Finding(label, cell.resolution, cell.resolution, "status", "worse", threshold=0.0, note=note)
            )
        else:
            found = list(_findings(outcomes, cell, label, plan.thresholds))
            findings += (each for each in found if isinstance(each, Finding))
            gaps += (each for each in found if isinstance(each, Gap))
    obstacles += said_of(gap for gap in gaps if gap.counts(plan.thresholds))
    obstacles += unnamed(plan.thresholds, findings, gaps, plan.labels.values())
    notes = said_of(gap for gap in gaps if gap.watched(plan.thresholds) and not gap.counts(plan.thresholds))
    return Comparison(tuple(findings), tuple(obstacles), tuple(notes), tuple(failed_both))


def _needs_more(outcomes: Sequence[Outcome], cell: Cell, plan: Plan) -> bool:
    """Tell whether another pair of processes would help to decide."""
    if any(any(outcome.errors) for outcome in outcomes):
        return False
    if len(outcomes) < FEWEST:
        return True
    if len(outcomes) < plan.processes:
        return not _all_close(outcomes, cell, plan) or _unclear(outcomes, cell, plan)
    return _unclear(outcomes, cell, plan) and len(outcomes) < plan.processes + MORE_PROCESSES


def _unclear(outcomes: Sequence[Outcome], cell: Cell, plan: Plan) -> bool:
    return any(
        plan.thresholds.judge(_latency(outcomes, step), f"latency_{step}", plan.labels[cell.id]) == "unclear"
        for step in outcomes[0].logs
    )


def _all_close(outcomes: Sequence[Outcome], cell: Cell, plan: Plan) -> bool:
    return all(
        abs(statistics.median(outcome.logs[step])) < CLOSE * math.log1p(_shown(step, cell, plan))
        for outcome in outcomes
        for step in outcome.logs
    )


def _shown(step: str, cell: Cell, plan: Plan) -> float:
    return plan.thresholds.shown(f"latency_{step}", plan.labels[cell.id])


def _latency(outcomes: Sequence[Outcome], step: str) -> Ratio:
    return compare_paired([outcome.logs[step] for outcome in outcomes])


def _findings(outcomes: Sequence[Outcome], cell: Cell, label: str, thresholds: Thresholds) -> Iterator[Finding | Gap]:
    def finding(metric: str, verdict: Verdict) -> Finding:
        threshold = thresholds.of(metric, label)
        return Finding(label, cell.resolution, cell.resolution, metric, verdict, threshold=threshold)

    for step in outcomes[0].logs:
        metric = f"latency_{step}"
        ratio = _latency(outcomes, step)
        verdict = thresholds.judge(ratio, metric, label)
        base, new = (statistics.median(outcome.medians_ms[step][side] for outcome in outcomes) for side in (0, 1))
        found = finding(metric, verdict)
        wide = said_too_wide(ratio, found.threshold, QUIET) if verdict == "unclear" else ""
        note = "; ".join(filter(None, (wide, explained(ratio.value, base, new, len(outcomes)))))
        yield replace(found, base=base, new=new, ratio=ratio, note=note)
    assert outcomes[0].exact is not None
    sides = [{**side["peak_memory"], **side} for side in outcomes[0].exact]
    steps = [set(side["peak_memory"]) for side in outcomes[0].exact]
    for step in sorted(steps[0] - steps[1]):
        yield replace(finding("status", "worse"), threshold=0.0, note=f"new has no {step}")
    trains = any(side["parameters"] for side in sides)
    for quantity in quantities(None, "timed"):
        if quantity.step not in outcomes[0].logs and (trains or quantity.step != "train_step"):
            yield from _gap(cell, label, quantity, quantity.step in steps[0], quantity.step in steps[1])
    for quantity in quantities(None, "exact"):
        metric = quantity.name
        before, after = (side.get(quantity.step or metric) for side in sides)
        if before is None or after is None:
            if trains or quantity.step != "train_step":
                yield from _gap(cell, label, quantity, before is not None, after is not None)
            continue
        verdict, exact = exact_verdict(before, after, thresholds.negligible(quantity, label))
        if metric == "flops" and sides[0]["uncounted"] != sides[1]["uncounted"]:
            verdict = "unclear"  # different operators lack a rule, so the sums are not comparable
        yield replace(finding(metric, verdict), base=before, new=after, ratio=exact)


def _gap(cell: Cell, label: str, quantity: Quantity, base: bool, new: bool) -> Iterator[Gap]:
    """Yield a gap for a metric that is not compared, unless new lost a whole step, which is a regression."""
    if base and quantity.step:
        return
    where = "on both sides" if base == new else "in new" if base else "in base"
    yield Gap(label, cell.resolution, quantity.name, f"not measured {where}", lost=base)
