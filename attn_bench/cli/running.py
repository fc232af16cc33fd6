"""Commands that run sweeps."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.analysis.scaling import FEWEST_POINTS, uneven
from attn_bench.cli.error_messages import logged_in
from attn_bench.cli.flags import takes
from attn_bench.cli.reporting import conclude
from attn_bench.errors import UserError
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

_SWEEP = settings_of(Sweep)
# A list of mappings has no flag.
_RUNNING = {name: setting for name, setting in settings_of(Running).items() if name != "resources"}
# Settings of a model that is built and called, but not trained.
CALLING = [
    setting
    for setting in _SWEEP.values()
    if setting.group in ("execution", "paths") or setting.name in ("models", "task", "resolutions", "set")
]
_OF_WEIGHTS = ("weights_from", "keep_weights")
_MEASURING = [
    each
    for each in _SWEEP.values()
    if (each.group == "measuring" and each.name != "measure") or each.name in ("include", "exclude")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="List the cells, what is there already, and an estimate of time and disk; run nothing."
    ),
]
TimeSteps = Annotated[
    bool,
    typer.Option(
        "--time-steps",
        help="With --dry-run: for estimates, time a few training steps of cells of which nothing is known yet, on data "
        "that are generated or fetched if needed.",
    ),
]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Write the report when done.")]


@takes([each for each in (*_SWEEP.values(), *_RUNNING.values()) if each.name not in ("train", "options", "tasks")])
def run(
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Sweep file (YAML); the options below override it.")
    ] = None,
    given: Mapping[str, Any] = {},
    plots: Plots = True,
    dry_run: DryRun = False,
    time_steps: TimeSteps = False,
) -> None:
    """Train, evaluate and measure models on tasks, and write a table and plots.

    Several values of a setting or an option, separated by commas, are an axis: each makes cells of its own.
    Cells already in the results folder are not rerun. The exit status is 1 if no cell succeeded.
    """
    from attn_bench.sweep.sweep_file import overridden, read_sweep_file

    if time_steps and not dry_run:
        raise UserError("--time-steps: is only for --dry-run")
    _sweep(overridden(read_sweep_file(sweep_file) if sweep_file else {}, given), plots, dry_run, time_steps)


@takes([*CALLING, *_MEASURING, *(each for each in _RUNNING.values() if each.name not in _OF_WEIGHTS)])
def measure(given: Mapping[str, Any] = {}, plots: Plots = True, dry_run: DryRun = False) -> None:
    """Measure latency, memory and FLOPs on random inputs, without training or data, and fit how they scale.

    Without --task, the shapes are those of darcy. Measurements already in the results folder are not repeated.
    The exit status is 1 if no cell succeeded.
    """
    table = _sweep({"task": "darcy", **given, "train": False}, plots, dry_run)
    if table is None or "left" in table.attrs:
        return
    if (sizes := table.loc[table["latency_forward_ms"].notna(), "resolution"].nunique()) < FEWEST_POINTS:
        print(f"No exponents were fitted: {FEWEST_POINTS} resolutions are needed, only {sizes} could be measured")
    elif uneven(table):
        print("No exponents were fitted where batches differ in size; give --batch-size a number")


# What becomes of cells after Ctrl-C.
_INTERRUPTED = {
    "local": "rerun the same command to resume, or 'attn-bench report {0}' makes a page of what is there",
    "slurm": "jobs go on ('attn-bench status {0}' shows them, 'attn-bench cancel {0}' ends them); "
    "rerun the same command to wait for them",
}


def _show_plan(sweep: Sweep, running: Running, folder: Path, time_steps: bool) -> None:
    from attn_bench.cli.dry_run import shown
    from attn_bench.cli.printing import put
    from attn_bench.running import timed_steps
    from attn_bench.running.plan import plan
    from attn_bench.running.runner import Watcher

    if time_steps:
        timed_steps.check(running)
    found, timed = plan(sweep, folder, running), False
    if time_steps and (cells := found.unknown):
        started: list[str] = []

        def listen(cell: Cell, event: dict[str, Any]) -> None:
            if event["event"] == "start":
                started.append(cell.id)
                _say(f"[{len(started)}/{len(cells)}] timing {timed_steps.STEPS} steps of {cell.title}")

        watcher = Watcher(on_source=_say, on_warning=_say, listen=listen)
        known = timed_steps.time_steps(cells, running, watcher, _say)
        found, timed = plan(sweep, folder, running, known), bool(known)
    put(shown(found, folder, timed=timed))


def _say(line: str) -> None:
    print(f"attn-bench: {line}", file=sys.stderr)


def _sweep(settings: Mapping[str, Any], plots: bool, dry_run: bool, time_steps: bool = False) -> Any:
    """Run a sweep and return its table, or say what would be run and return None."""
    from attn_bench.cli.progress import Screen
    from attn_bench.results.store import Store
    from attn_bench.running.runner import default_folder, run_sweep, separated
    from attn_bench.running.trackers.tracking import Tracking

    sweep, running = separated(settings)
    folder = Path(running.out) if running.out else default_folder(sweep)
    if dry_run:
        _show_plan(sweep, running, folder, time_steps)
        return None
    with logged_in(folder):
        with Screen(folder, interrupted=_INTERRUPTED[running.executor].format(folder)) as screen:
            tracking = Tracking.of(running.track, folder, screen.on_warning)
            watcher = screen.watcher()
            watcher = dataclasses.replace(watcher, listen=tracking.listening(watcher.listen))
            table = run_sweep(sweep, folder, running, watcher)
        if not table.empty:
            tracking.finish(conclude(Store.open(folder).as_it_is(), table, report=plots))
    if left := table.attrs.get("left"):
        print(left)
        return table
    if not (table["status"] == "ok").any():
        raise typer.Exit(1)
    return table
