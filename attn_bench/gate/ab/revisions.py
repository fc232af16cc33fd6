"""Compares two revisions of a project with attention models in it, on this machine and now.

Both are built from git, each into a folder of its own that stands first on the import path; packages they depend on
are those installed. The models of both then take turns (:mod:`attn_bench.gate.ab.turns`), so that what the
machine does in the meantime falls on both alike.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_bench.analysis.statistics import Ratio, compare_paired
from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.gate.ab.checkouts import Repository, run
from attn_bench.gate.ab.turns import Outcome, Side, alternate
from attn_bench.gate.compare import Comparison
from attn_bench.gate.gaps import Gap, said_of, unnamed
from attn_bench.gate.thresholds import Thresholds
from attn_bench.gate.verdicts import Finding, Verdict, exact_verdict, explained, judge
from attn_bench.results.quantities import Quantity, quantities
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep, imported

WORKING_TREE = "working tree"
PROJECT_FILES = ("pyproject.toml", "setup.py")
# A line of pip, of a build backend or of Python that says what is wrong.
_ERROR = re.compile(r"(?:ERROR|error|fatal error)\b|[\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b", re.ASCII)
_SUMMARY = re.compile(r"subprocess-exited-with-error|metadata-generation-failed|Failed to build|did not run success")
# Enough to pass over one odd pair of processes, and what is added where they do not agree.
PROCESSES, MORE_PROCESSES = 5, 12
# What two pairs agree on to be this close to no change, as a share of the threshold, is no change.
CLOSE = 0.4


@contextlib.contextmanager
def built(repository: Path, revision: str | None) -> Iterator[Path]:
    """Build a revision of the project at ``repository``; yield the folder to import it from.

    Args:
        repository: a folder of the project in a git work tree; the project is what the nearest pyproject.toml or
            setup.py at or above it describes, or the whole work tree.
        revision: a branch, tag or commit; None stands for the work tree as it is, uncommitted changes included.

    Raises:
        UserError: no git repository, no such revision, or it cannot be built.
    """
    where = Repository(repository)
    project = _project(where.folder, where.root)
    name = revision or WORKING_TREE
    with where.checkout(revision) as source, tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        if not any((source / project / name).is_file() for name in PROJECT_FILES):
            raise UserError(f"{name}: {project} has no pyproject.toml or setup.py, so pip cannot build it")
        target = Path(folder) / "built"
        pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = run([*pip, "--no-input", "--target", str(target), str(source / project)], Path(folder))
        if done.returncode:
            if b"No module named pip" in done.stderr:
                raise UserError(f"pip is not installed here; '{sys.executable} -m ensurepip' installs it")
            raise UserError(f"{name}: cannot be built with pip: {_last_meaningful(done)}; all it said: {_log(done)}")
        yield target


def _last_meaningful(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the line of pip's output that says what is wrong: the last error, not the advice after it."""
    lines = [line.strip() for line in (done.stdout + b"\n" + done.stderr).decode(errors="replace").splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)] or [f"exit status {done.returncode}"]
    said = [line for line in lines if _ERROR.match(line) and not line.startswith(("note:", "hint:"))]
    # pip's own summary, "subprocess-exited-with-error", names nothing.
    telling = [line for line in said if not _SUMMARY.search(line)] or said or lines
    return clean(telling[-1], 300)


def _log(done: subprocess.CompletedProcess[bytes]) -> Path:
    """Keep all that pip said, and return where."""
    handle, name = tempfile.mkstemp(prefix="attn-bench-pip-", suffix=".log")
    with os.fdopen(handle, "wb") as file:
        file.write(done.stdout + done.stderr)
    return Path(name)


def _project(folder: Path, root: Path) -> Path:
    """Return the project that ``folder`` belongs to, relative to ``root``."""
    for parent in (folder, *folder.parents):
        if parent == root or any((parent / name).exists() for name in PROJECT_FILES):
            return parent.relative_to(root)
    return Path()


@dataclass(frozen=True)
class Plan:
    """What is compared, and how long.

    Attributes:
        cells: one per model and resolution; models are built, not trained.
        thresholds: how much worse a metric may get.
        processes: pairs of processes per cell; fewer where two already agree that nothing changed.
        seconds: how long one pair takes turns at a step.
    """

    cells: Sequence[Cell]
    thresholds: Thresholds
    processes: int = PROCESSES
    seconds: float = 1.0

    @classmethod
    def of(cls, sweep: Sweep, thresholds: Thresholds) -> Plan:
        """Plan the cells of a sweep without training; raises UserError if there is nothing to compare."""
        cells = [cell for cell in sweep.cells() if cell.seed == 0]
        if not cells:
            raise UserError("nothing to compare: only cells of seed 0 are measured, and there are none")
        return cls(cells, thresholds.resolved((), {cell.model for cell in cells}))


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
        planned: returns what is compared. It is called when both are built, with the models that new registers, so the
            project itself need not be installed.
        repository: a folder of the project, which pip can install.
        on_stage: told what is done.

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
        with _imported_from(folders[1]):
            plan = planned()
            modules = imported(plan.cells)
        names = (base, new or WORKING_TREE)
        sides = [stack.enter_context(Side(n, [str(folder)], modules)) for n, folder in zip(names, folders)]
        return compare_sides(sides[0], sides[1], plan, on_stage)


@contextlib.contextmanager
def _imported_from(folder: Path) -> Iterator[None]:
    """Have plugins found and imported from ``folder`` first; but not where it holds the harness, which runs already."""
    if (folder / "attn_bench").is_dir():
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                del sys.modules[name]


def compare_sides(
    base: Side, new: Side, plan: Plan, on_stage: Callable[[str], None] = lambda stage: None
) -> Comparison:
    """Compare the models that two running sides serve."""
    findings: list[Finding] = []
    obstacles: list[str] = []
    failed_both: list[str] = []
    gaps: list[Gap] = []
    for cell in plan.cells:
        title = f"{cell.model} at {cell.resolution}"
        outcomes: list[Outcome] = []
        while _needs_more(outcomes, cell, plan):
            on_stage(f"{title}, pair of processes {len(outcomes) + 1}")
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
                Finding(cell.model, cell.resolution, cell.resolution, "status", "worse", threshold=0.0, note=note)
            )
        else:
            found = list(_findings(outcomes, cell, plan.thresholds))
            findings += (each for each in found if isinstance(each, Finding))
            gaps += (each for each in found if isinstance(each, Gap))
    obstacles += said_of(gap for gap in gaps if gap.counts(plan.thresholds))
    obstacles += unnamed(plan.thresholds, findings, gaps, {cell.model for cell in plan.cells})
    notes = said_of(gap for gap in gaps if gap.watched(plan.thresholds) and not gap.counts(plan.thresholds))
    return Comparison(tuple(findings), tuple(obstacles), tuple(notes), tuple(failed_both))


def _needs_more(outcomes: Sequence[Outcome], cell: Cell, plan: Plan) -> bool:
    """Tell whether another pair of processes would tell more."""
    if any(any(outcome.errors) for outcome in outcomes):
        return False
    if len(outcomes) < 2:
        return True
    if len(outcomes) < plan.processes:
        return not _all_close(outcomes, cell, plan)
    verdicts = [judge(_latency(outcomes, step), _shown(step, cell, plan)) for step in outcomes[0].logs]
    return "unclear" in verdicts and len(outcomes) < plan.processes + MORE_PROCESSES


def _all_close(outcomes: Sequence[Outcome], cell: Cell, plan: Plan) -> bool:
    return all(
        abs(statistics.median(outcome.logs[step])) < CLOSE * math.log1p(_shown(step, cell, plan))
        for outcome in outcomes
        for step in outcome.logs
    )


def _shown(step: str, cell: Cell, plan: Plan) -> float:
    return plan.thresholds.shown(f"latency_{step}", cell.model)


def _latency(outcomes: Sequence[Outcome], step: str) -> Ratio:
    return compare_paired([outcome.logs[step] for outcome in outcomes])


def _findings(outcomes: Sequence[Outcome], cell: Cell, thresholds: Thresholds) -> Iterator[Finding | Gap]:
    def finding(metric: str, verdict: Verdict, **values: Any) -> Finding:
        values.setdefault("threshold", thresholds.of(metric, cell.model))
        return Finding(cell.model, cell.resolution, cell.resolution, metric, verdict, **values)

    for step in outcomes[0].logs:
        metric = f"latency_{step}"
        ratio = _latency(outcomes, step)
        verdict = judge(ratio, thresholds.shown(metric, cell.model))
        base, new = (statistics.median(outcome.medians_ms[step][side] for outcome in outcomes) for side in (0, 1))
        note = explained(ratio.value, base, new, len(outcomes))
        yield finding(metric, verdict, base=base, new=new, ratio=ratio, note=note)
    assert outcomes[0].exact is not None
    sides = [{**side["peak_memory"], **side} for side in outcomes[0].exact]
    steps = [set(side["peak_memory"]) for side in outcomes[0].exact]
    for step in sorted(steps[0] - steps[1]):
        yield finding("status", "worse", threshold=0.0, note=f"new has no {step}")
    trains = any(side["parameters"] for side in sides)
    for quantity in quantities(None, "timed"):
        if quantity.step not in outcomes[0].logs and (trains or quantity.step != "train_step"):
            yield from _gap(cell, quantity, quantity.step in steps[0], quantity.step in steps[1])
    for quantity in quantities(None, "exact"):
        metric = quantity.name
        before, after = (side.get(quantity.step or metric) for side in sides)
        if before is None or after is None:
            if trains or quantity.step != "train_step":
                yield from _gap(cell, quantity, before is not None, after is not None)
            continue
        verdict, exact = exact_verdict(before, after)
        if metric == "flops" and sides[0]["uncounted"] != sides[1]["uncounted"]:
            verdict = "unclear"  # other operators have no rule: the sums are not of the same things
        yield finding(metric, verdict, base=before, new=after, ratio=exact)


def _gap(cell: Cell, quantity: Quantity, base: bool, new: bool) -> Iterator[Gap]:
    """Yield that a metric is not compared, unless new lost a whole step, which is a regression."""
    if base and quantity.step:
        return
    where = "on both sides" if base == new else "in new" if base else "in base"
    yield Gap(cell.model, cell.resolution, quantity.name, f"not measured {where}", lost=base)
