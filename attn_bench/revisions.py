"""Compares two revisions of a project with attention models in it, on this machine and now.

Both are built from git, each into a folder of its own that stands first on the import path; packages they depend on
are those installed. The models of both then take turns (:mod:`attn_bench.execute.alternate`), so that what the
machine does in the meantime falls on both alike.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attn_bench.analysis.compare import Comparison
from attn_bench.analysis.statistics import Ratio, compare_paired
from attn_bench.analysis.thresholds import EXACT, STEPS, Thresholds
from attn_bench.analysis.verdicts import Finding, exact_verdict, judge
from attn_bench.errors import UserError
from attn_bench.execute.alternate import Outcome, Side, alternate
from attn_bench.sweep import Cell, Sweep, imported

WORKING_TREE = "working tree"
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
    root = Path(_git(repository, "rev-parse", "--show-toplevel"))
    project = _project(repository.resolve(), root)
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder, contextlib.ExitStack() as stack:
        source, target = root, Path(folder) / "built"
        if revision is not None:
            commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
            source = Path(folder) / "source"
            _git(root, "worktree", "add", "--detach", "--quiet", str(source), commit)
            stack.callback(_git, root, "worktree", "remove", "--force", str(source))
        pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        made = subprocess.run(
            [*pip, "--target", str(target), str(source / project)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if made.returncode:
            last = (made.stderr or made.stdout).strip().splitlines()[-1:]
            raise UserError(
                f"{revision or WORKING_TREE}: cannot be built with pip{''.join(f': {line}' for line in last)}"
            )
        yield target


def _project(folder: Path, root: Path) -> Path:
    """Return the project that ``folder`` belongs to, relative to ``root``."""
    for parent in (folder, *folder.parents):
        if parent == root or any((parent / name).exists() for name in ("pyproject.toml", "setup.py")):
            return parent.relative_to(root)
    return Path()


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        raise UserError("git is not installed; revisions are taken from a git repository") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"no such revision: {arguments[-1].partition('^')[0]}"]
        raise UserError(f"git: {reason[0]}")
    return done.stdout.strip()


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
        thresholds.check((), {cell.model for cell in cells})
        return cls(cells, thresholds)


def compare_revisions(
    base: str,
    new: str | None,
    plan: Plan,
    *,
    repository: Path = Path(),
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Comparison:
    """Compare latency, peak memory, parameters and FLOPs of two revisions.

    Args:
        base: a branch, tag or commit.
        new: the same, or None for the work tree as it is.
        plan: what is compared.
        repository: a folder of the project, which pip can install.
        on_stage: told what is done.

    Raises:
        UserError: a revision cannot be built, or its processes do not start.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        modules = imported(plan.cells)
        for revision in (base, new):
            name = revision or WORKING_TREE
            on_stage(f"building {name}")
            folder = stack.enter_context(built(repository, revision))
            sides.append(stack.enter_context(Side(name, [str(folder)], modules)))
        return compare_sides(sides[0], sides[1], plan, on_stage)


def compare_sides(
    base: Side, new: Side, plan: Plan, on_stage: Callable[[str], None] = lambda stage: None
) -> Comparison:
    """Compare the models that two running sides serve."""
    findings: list[Finding] = []
    obstacles: list[str] = []
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
        if failed and failed[0].errors[0]:
            obstacles.append(f"{title}: {base.name}: {failed[0].errors[0]}")
        elif failed:
            note = f"ok -> {failed[0].errors[1]}"
            findings.append(
                Finding(cell.model, cell.resolution, cell.resolution, "status", "worse", threshold=0.0, note=note)
            )
        else:
            findings += _findings(outcomes, cell, plan.thresholds)
    return Comparison(tuple(findings), tuple(obstacles))


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


def _findings(outcomes: Sequence[Outcome], cell: Cell, thresholds: Thresholds) -> Iterator[Finding]:
    for step in outcomes[0].logs:
        metric = f"latency_{step}"
        ratio = _latency(outcomes, step)
        verdict = judge(ratio, thresholds.shown(metric, cell.model))
        base, new = (statistics.median(outcome.medians_ms[step][side] for outcome in outcomes) for side in (0, 1))
        threshold = thresholds.of(metric, cell.model)
        yield Finding(cell.model, cell.resolution, cell.resolution, metric, verdict, base, new, ratio, threshold)
    assert outcomes[0].exact is not None
    for step in sorted(outcomes[0].exact[0]["peak_memory"].keys() - outcomes[0].exact[1]["peak_memory"].keys()):
        note = f"new has no {step}"
        yield Finding(cell.model, cell.resolution, cell.resolution, "status", "worse", threshold=0.0, note=note)
    before, after = ({**side["peak_memory"], **side} for side in outcomes[0].exact)
    for metric in EXACT:
        name = STEPS.get(metric, metric)
        if before.get(name) is None or after.get(name) is None:
            continue
        verdict, ratio_or_none = exact_verdict(before[name], after[name])
        if metric == "flops" and before["uncounted"] != after["uncounted"]:
            verdict = "unclear"  # other operators have no rule: the sums are not of the same things
        yield Finding(
            cell.model, cell.resolution, cell.resolution, metric, verdict, before[name], after[name], ratio_or_none,
            thresholds.of(metric, cell.model),
        )  # fmt: skip
